"""Commands with many options take them as one record: its fields are the options.

`with_options(Record)` shows typer one option for each field of the record and hands the command one
`Record`. So a record can be passed on, compared and tested, and no function has twenty parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from inspect import Parameter, signature
from typing import Annotated, Any, get_type_hints

import typer

Command = Callable[..., None]


def with_options(record: type[Any]) -> Callable[[Command], Command]:
    """For a command whose last parameter is `options: record`; every field needs a default."""

    def decorate(command: Command) -> Command:
        own = signature(command, eval_str=True).parameters.values()
        kept = [one for one in own if one.name != "options"]
        hints = get_type_hints(record, include_extras=True)
        added = [
            Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=hint)
            for field in fields(record)
            if (hint := hints[field.name]) and field.default is not MISSING
        ]
        names = [one.name for one in added]

        def run(**values: Any) -> None:
            options = record(**{name: values.pop(name) for name in names})
            command(**values, options=options)

        shown = signature(command).replace(parameters=[*kept, *added])
        run.__signature__ = shown  # type: ignore[attr-defined]  # what inspect.signature looks for
        run.__annotations__ = {one.name: one.annotation for one in (*kept, *added)}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What `foldline submit -- argv` can say; None takes the service's default."""

    job_type: Annotated[str, typer.Option("--type", help="What kind of work.")] = "batch"
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None
    cluster: Annotated[str | None, typer.Option(help="Where to run.")] = None
    queue: Annotated[str | None, typer.Option(help="Where to wait.")] = None
    priority: Annotated[int | None, typer.Option(min=0, max=100, help="Higher first.")] = None
    cpu: Annotated[str | None, typer.Option(help='Cores for each task: 2, "500m".')] = None
    memory: Annotated[str | None, typer.Option(help='Bytes for each task: "8Gi".')] = None
    gpu: Annotated[str | None, typer.Option(help="GPUs for each task: 0.5, 1, 4.")] = None
    gang: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="N tasks that start together.")
    ] = None
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="NAME=VALUE", help="A variable.")
    ] = None
    retries: Annotated[int | None, typer.Option(min=0, help="After the first attempt.")] = None
    timeout: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help="For one attempt.")
    ] = None


@dataclass(frozen=True, slots=True)
class JobFilters:
    """Which jobs `foldline jobs` lists."""

    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, …")] = None
    job_type: Annotated[str | None, typer.Option("--type", help="Of this kind.")] = None
    queue: Annotated[str | None, typer.Option(help="In this queue.")] = None
    priority_min: Annotated[int | None, typer.Option(help="At least so urgent.")] = None
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50
    cursor: Annotated[str | None, typer.Option(help="Where the last page ended.")] = None
