"""Commands about the system itself: run it here, serve one part, rebuild and verify its views.

Each imports what it needs only when it is called, so that `foldline jobs` on a laptop loads
neither servers nor drivers. What they do is in `dev.py`, `serve.py`, `demo/` and `projections/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from foldline.session import Exit, JsonFlag, complain, show_json
from infra.settings import (
    KafkaSettings,
    PostgresSettings,
    RedisSettings,
    StackSettings,
    load,
)

if TYPE_CHECKING:
    from projections.rebuild import RebuildReport


class Service(StrEnum):
    """The processes that Foldline is made of."""

    ENGINE = "engine"
    FOLLOWER = "follower"
    AUDIT = "audit"
    HOT = "hot"
    RELAY = "relay"
    API = "api"
    AGENT = "agent"
    EDGE = "edge"


class ViewName(StrEnum):
    """The views that can be thrown away and built again."""

    AUDIT = "audit"
    HOT = "hot"


def dev(
    servers_only: Annotated[
        bool, typer.Option("--servers-only", help="Only Kafka, PostgreSQL and Valkey.")
    ] = False,
    agents: Annotated[
        int | None, typer.Option(min=0, max=64, help="How many node agents; default from settings.")
    ] = None,
) -> None:
    """Run the whole system on this machine until Ctrl-C."""
    from foldline.dev import run_dev

    raise typer.Exit(run_dev(load(StackSettings), servers_only=servers_only, agents=agents))


def status(json_output: JsonFlag = False) -> None:
    """What of the local system runs, and where it listens."""
    from foldline.dev_control import print_status

    raise typer.Exit(print_status(load(StackSettings), as_json=json_output))


def stop(json_output: JsonFlag = False) -> None:
    """Stop the local system, wherever it was started."""
    from foldline.dev_control import stop_stack

    _end(stop_stack(load(StackSettings), on_stderr=json_output), json_output)


def reset(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_output: JsonFlag = False,
) -> None:
    """Stop the local system and delete all its data."""
    from foldline.dev_control import reset_stack

    settings = load(StackSettings)
    if not yes:
        typer.confirm(f"Delete everything under {settings.data_dir}?", abort=True)
    _end(reset_stack(settings, on_stderr=json_output), json_output)


def _end(code: int, json_output: bool) -> None:
    """End with this exit code; as JSON, say on standard output what it means."""
    if json_output:
        show_json({"ok": code == 0})
    raise typer.Exit(code)


def serve(name: Annotated[Service, typer.Argument(help="Which process to be.")]) -> None:
    """Be one process of the system, until SIGTERM."""
    from foldline.serve import serve as run

    raise typer.Exit(run(name.value))


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data afterwards.")] = False,
    json_output: JsonFlag = False,
) -> None:
    """Start a system of its own, run real work on it, prove the log, and clean up."""
    from foldline.demo.runner import run_demo

    raise typer.Exit(run_demo(keep=keep, as_json=json_output))


@contextmanager
def _told(ctx: typer.Context) -> Iterator[None]:
    """Servers that do not answer, and a rebuild that was not taken over, become messages."""
    from infra.kafka_port import KafkaUnavailable
    from infra.telemetry import configure_logging
    from projections.pipeline import ViewUnavailable
    from projections.rebuild import RebuildFailed

    configure_logging("foldline", level="warning")
    try:
        yield
    except (KafkaUnavailable, ViewUnavailable) as error:
        todo = "start the servers (`foldline dev`), or name them in the settings"
        complain(ctx, "unavailable", f"{error}; {todo}")
        raise typer.Exit(Exit.UNAVAILABLE) from error
    except RebuildFailed as error:
        complain(ctx, "rebuild_failed", str(error))
        raise typer.Exit(Exit.FAILED) from error


def rebuild(
    ctx: typer.Context,
    view: Annotated[ViewName, typer.Argument(help="Which view.")],
    json_output: JsonFlag = False,
) -> None:
    """Build a view anew from the log, compare it with the fold, and put it in its place."""
    with _told(ctx):
        report = _rebuild(view)
    if json_output:
        show_json({"generation": report.generation, "shards": report.lines()})
        return
    print(f"{view}: generation {report.generation} is live")
    for line in report.lines():
        print(line)


def _rebuild(view: ViewName) -> RebuildReport:
    from projections.audit import AuditView
    from projections.hot import HotView
    from projections.logs import KafkaLogs
    from projections.loop import ViewOptions
    from projections.rebuild import audit_digest, hot_digest
    from projections.rebuild import rebuild as build

    logs = KafkaLogs(load(KafkaSettings).bootstrap)
    is_audit = view is ViewName.AUDIT
    live = AuditView(load(PostgresSettings).dsn) if is_audit else HotView(load(RedisSettings).url)
    fold_digest = audit_digest if is_audit else hot_digest
    try:
        return build(live, fold_digest, logs, ViewOptions(), lambda: False)
    finally:
        logs.close()
        live.close()


def verify(ctx: typer.Context, json_output: JsonFlag = False) -> None:
    """Fold the log from its first record, and compare PostgreSQL and Redis with it."""
    from projections.verify import verify as prove

    bootstrap, dsn = load(KafkaSettings).bootstrap, load(PostgresSettings).dsn
    with _told(ctx):
        report = prove(bootstrap, dsn, load(RedisSettings).url)
    if json_output:
        show_json({"ok": report.is_ok, "findings": list(report.lines())})
    else:
        for line in report.lines():
            print(line)
        print("verified" if report.is_ok else "NOT as it should be")
    if not report.is_ok:
        raise typer.Exit(Exit.FAILED)
