"""The command line `foldline`: what a person or a script types. Reads options, calls one function.

Commands live in `job_commands.py`, `letter_commands.py`, `cluster_commands.py` and `stack_commands.py`; how failures are
told and which exit code they have is in `session.py`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from foldline import cluster_commands, job_commands, letter_commands, stack_commands
from foldline.session import EXIT_CODES, FoldlineGroup, Session

app = typer.Typer(
    name="foldline",
    cls=FoldlineGroup,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run AI jobs on shared clusters; every decision can be replayed and explained.",
    epilog=EXIT_CODES,
)


@app.callback()
def options(
    ctx: typer.Context,
    api: Annotated[
        str, typer.Option(help="Where the API is, such as http://127.0.0.1:8080.", metavar="URL")
    ] = "",
) -> None:
    """Options before the command."""
    if ctx.obj is None:
        ctx.obj = Session(api)


JOBS, PLACES, SYSTEM = "Jobs", "Where jobs wait and run", "The system"

app.command(rich_help_panel=JOBS, cls=job_commands.SubmitCommand)(job_commands.submit)
for _command in (
    job_commands.jobs,
    job_commands.job,
    job_commands.logs,
    job_commands.cancel,
    job_commands.why,
):
    app.command(rich_help_panel=JOBS)(_command)
app.add_typer(letter_commands.dlq, name="dlq", rich_help_panel=JOBS)
for _command in (
    cluster_commands.queues,
    cluster_commands.nodes,
    cluster_commands.apply,
    letter_commands.retries,
):
    app.command(rich_help_panel=PLACES)(_command)
for _command in (
    stack_commands.dev,
    stack_commands.status,
    stack_commands.stop,
    stack_commands.reset,
    stack_commands.serve,
    stack_commands.demo,
    stack_commands.rebuild,
    stack_commands.verify,
):
    app.command(rich_help_panel=SYSTEM)(_command)


def main() -> None:
    """The entry point of the `foldline` script."""
    app()


if __name__ == "__main__":
    main()
