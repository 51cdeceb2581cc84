"""What all commands of the command line share: exit codes, the client, and how failures are told.

Answers go to standard output, everything else to standard error; with `--json` both are JSON. An
exception of the client, a bad file or a bad setting becomes one clear message and its exit code
here, once. Commands are in `job_commands.py`, `cluster_commands.py` and `stack_commands.py`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any

import httpx
import typer
from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.text import Text
from typer.core import TyperGroup

from foldline.bodies import BadFile
from foldline.client import ApiError, ApiUnreachable, Client, NotFound, Unavailable
from infra.settings import ApiSettings, SettingsError, load

JSON_KEY = "foldline.json"
PIPED_WIDTH = 1000


class Exit(IntEnum):
    """Exit codes that scripts can use; `foldline --help` lists them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 done; 1 the job (or check) did not end well; 2 wrong usage, file or setting; "
    "3 no such thing; 4 refused; 5 the service is not reachable or not ready; 130 interrupted."
)


@dataclass(slots=True)
class Session:
    """What the options before the command said. `transport` is for tests."""

    url: str = ""
    transport: httpx.BaseTransport | None = None

    def client(self) -> Client:
        """A connection to the API: `--api`, else the one that the settings name."""
        if not self.url:
            settings = load(ApiSettings)
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            self.url = f"http://{host}:{settings.port}"
        return Client(self.url, transport=self.transport)


def client_of(ctx: typer.Context) -> Client:
    """The client for this command."""
    session = ctx.obj
    assert isinstance(session, Session), "the callback of the app has not run"
    return session.client()


def _note_json(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[JSON_KEY] = value
    return value


JsonFlag = Annotated[
    bool, typer.Option("--json", help="Answer in JSON, as the API gives it.", callback=_note_json)
]


def show(json_output: bool, answer: BaseModel, text: RenderableType) -> None:
    """The answer as JSON, or as text for people."""
    if json_output:
        show_json(answer.model_dump(mode="json"))
    else:
        # Piped, a table is as wide as it needs to be: scripts must not find ids cut off.
        Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(text)


def show_json(value: Any) -> None:
    """A document on standard output: indented for people, one line for programs."""
    console = Console()
    console.print_json(json.dumps(value)) if console.is_terminal else print(json.dumps(value))


def complain(ctx: typer.Context, code: str, message: str, error: ApiError | None = None) -> None:
    """Say on standard error what went wrong and what to do."""
    details = error.error.details if error else []
    if ctx.meta.get(JSON_KEY, False):
        request_id = error.error.request_id if error else ""
        body = {
            "code": code,
            "message": message,
            "details": [detail.model_dump() for detail in details],
            "request_id": request_id,
        }
        typer.echo(json.dumps({"error": body}), err=True)
        return
    console = Console(stderr=True, highlight=False)
    console.print(Text.assemble(("foldline:", "red"), " ", message), soft_wrap=True)
    for detail in details:
        if f"{detail.field}: {detail.message}" in message:
            continue
        console.print(f"  {detail.field}: {detail.message}", markup=False, soft_wrap=True)
    if error and error.error.request_id and error.status >= 500:
        console.print(f"  request id: {error.error.request_id}", markup=False)


class FoldlineGroup(TyperGroup):
    """The app's commands, with every expected failure told in one way."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer keeps its context private
        """Run the command; exceptions that people can act on become messages."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise typer.Exit(Exit.INTERRUPTED) from error
        except ApiUnreachable as error:
            todo = "start it with `foldline dev`, or say where it is with --api URL"
            complain(ctx, "unreachable", f"{error}; {todo}")
            raise typer.Exit(Exit.UNAVAILABLE) from error
        except ApiError as error:
            complain(ctx, error.error.code, error.error.message, error)
            raise typer.Exit(_code_of(error)) from error
        except (BadFile, SettingsError) as error:
            complain(ctx, "bad_input", str(error))
            raise typer.Exit(Exit.USAGE) from error


def _code_of(error: ApiError) -> Exit:
    if isinstance(error, NotFound):
        return Exit.NOT_FOUND
    return Exit.UNAVAILABLE if isinstance(error, Unavailable) else Exit.REFUSED
