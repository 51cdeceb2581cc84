"""Commands about jobs: submit, list, look, read logs, cancel, ask why. Each is one or two requests.

They only speak to the API through `client.py`; `render.py` makes what people see of it.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from typer.core import TyperCommand

from foldline.bodies import BadFile, Body, body_of, read_bodies, with_ids
from foldline.client import Client, Refused
from foldline.options import JobFilters, JobOptions, with_options
from foldline.render import job_text, jobs_table, span_text, why_text
from foldline.session import JSON_KEY, Exit, JsonFlag, client_of, complain, show, show_json
from ingest.answers import JobAccepted
from projections.answers import JobAnswer

ARGV_KEY = "foldline.argv"
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]


class SubmitCommand(TyperCommand):
    """`submit` takes a file, or everything after `--` as the argv of one job."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # typer keeps its context private
        """Set aside what stands after `--`, so that it is never taken for options."""
        if "--" in args:
            cut = args.index("--")
            ctx.meta[ARGV_KEY] = args[cut + 1 :]
            args = args[:cut]
        return super().parse_args(ctx, args)


@with_options(JobOptions)
def submit(
    ctx: typer.Context,
    *,
    options: JobOptions,
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE|-- ARGV", help="YAML or JSON, one job or many; - is stdin."),
    ] = None,
    key: Annotated[str, typer.Option(help="Idempotency key: repeating is the same job.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Until it ends; its exit code.")
    ] = False,
    json_output: JsonFlag = False,
) -> None:
    """Submit jobs from a file, or one that runs the argv after `--`.

    foldline submit train.yaml --wait
    foldline submit --gpu 1 --queue research -- python -m train --epochs 3
    """
    bodies = _bodies(ctx, file, options)
    if key and len(bodies) > 1:
        raise BadFile("--key names one job; a file of several has none, or submit them one by one")
    with client_of(ctx) as client:
        sent = _send(ctx, client, bodies, key)
        ended = [client.wait(one.id, position=one.position) for one in sent] if wait else []
    for answer in ended or sent if json_output else ():
        show_json(answer.model_dump(mode="json"))
    _tell_endings(ended)


def _bodies(ctx: typer.Context, file: str | None, options: JobOptions) -> list[Body]:
    argv = ctx.meta.get(ARGV_KEY)
    if (argv is None) == (file is None):
        raise BadFile("give a file, or the command to run after `--` (one of the two)")
    if file is None:
        if not argv:
            raise BadFile("nothing stands after `--`: write the command to run there")
        return [body_of(argv, options)]
    if options != JobOptions():
        raise BadFile("options describe the job after `--`; with a file, write them into the file")
    return read_bodies(file)


def _send(ctx: typer.Context, client: Client, bodies: list[Body], key: str) -> list[JobAccepted]:
    ids: dict[str, str] = {}
    sent: list[JobAccepted] = []
    for number, body in enumerate(bodies, 1):
        try:
            one = client.submit(with_ids(body, ids), idempotency_key=key)
        except Refused:
            if len(bodies) > 1:
                before = f"{len(sent)} of {len(bodies)} jobs were submitted"
                complain(ctx, "partly_done", f"{before}; number {number} was refused:")
            raise
        sent.append(one)
        if isinstance(body.get("name"), str):
            ids[body["name"]] = one.id
        if not ctx.meta.get(JSON_KEY):
            print(one.id)
    return sent


def _tell_endings(ended: list[JobAnswer]) -> None:
    """Tell how each ended, and leave with 1 if one did not succeed."""
    for job in ended:
        Console(stderr=True, highlight=False).print(_ending(job), markup=False, soft_wrap=True)
    if any(job.status != "succeeded" for job in ended):
        raise typer.Exit(Exit.FAILED)


def _ending(job: JobAnswer) -> str:
    took = ""
    if job.ended_at is not None:
        took = f" after {span_text((job.ended_at - job.submitted_at).total_seconds())}"
    said = f": {job.message}" if job.message and job.status != "succeeded" else ""
    return f"{job.id} {job.status}{took}{said}"


@with_options(JobFilters)
def jobs(ctx: typer.Context, options: JobFilters, json_output: JsonFlag = False) -> None:
    """List jobs, the newest first."""
    asked = {name: value for name, value in asdict(options).items() if value is not None}
    with client_of(ctx) as client:
        page = client.jobs(**asked)
    show(json_output, page, jobs_table(page, datetime.now(UTC)))


def job(ctx: typer.Context, job_id: JobId, json_output: JsonFlag = False) -> None:
    """Show one job with its attempts."""
    with client_of(ctx) as client:
        answer = client.job(job_id)
    show(json_output, answer, job_text(answer))


def logs(
    ctx: typer.Context,
    job_id: JobId,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, help="Last lines only.")
    ] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="With times.")] = False,
    json_output: JsonFlag = False,
) -> None:
    """Print what a job's tasks have written."""
    with client_of(ctx) as client:
        if follow:
            lines = client.follow_logs(job_id, tail=tail, timestamps=timestamps)
        else:
            lines = iter(client.logs(job_id, tail=tail, timestamps=timestamps).splitlines())
        for line in lines:
            show_json({"line": line}) if json_output else print(line, flush=follow)


def cancel(
    ctx: typer.Context,
    job_id: JobId,
    reason: Annotated[str, typer.Option(help="Kept with the job.")] = "",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Until it has ended.")] = False,
    json_output: JsonFlag = False,
) -> None:
    """Ask for a job's end; a running one is told to stop (SIGTERM, grace, SIGKILL)."""
    with client_of(ctx) as client:
        answer = client.cancel(job_id, reason=reason)
        if not wait:
            show(json_output, answer, f"{job_id}: cancel requested")
            return
        ended = client.wait(job_id, position=answer.position)
    show(json_output, ended, _ending(ended))
    if ended.status != "cancelled":
        raise typer.Exit(Exit.FAILED)


def why(ctx: typer.Context, job_id: JobId, json_output: JsonFlag = False) -> None:
    """Explain why a job (still) stands where it stands."""
    with client_of(ctx) as client:
        answer = client.explain(job_id)
    show(json_output, answer, why_text(answer))
