"""What the demo prints at the end: the table of what happened, the checks, and the verdict. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from foldline.demo.jobs import SWEEP
from foldline.demo.judge import Check, Happened
from foldline.render import NOTHING, between, span_text, state_text, table

COLUMNS = ("JOB", "ENDED AS", "TRIES", "WAITED", "RAN", "WHERE", "RESULT")


def what_happened(happened: Sequence[Happened]) -> Table:
    """One row a job, the sweep's jobs together in one (its times are medians)."""
    made = table(*COLUMNS, right=("TRIES", "WAITED", "RAN"))
    swept = [one for one in happened if one.planned.kind == SWEEP]
    made.add_row(*_sweep_row(swept))
    for one in happened:
        if one.planned.kind != SWEEP:
            made.add_row(*_row(one))
    return made


def _sweep_row(swept: Sequence[Happened]) -> Sequence[RenderableType]:
    states = {one.job.status for one in swept}
    scores = [float(result["accuracy"]) for one in swept for result in one.results]
    nodes = {one.job.worker_id for one in swept}
    waited = [_seconds(one.job.submitted_at, one.job.started_at) for one in swept]
    ran = [_seconds(one.job.started_at, one.job.ended_at) for one in swept]
    cpu_s = sum(float(result["cpu_ms"]) for one in swept for result in one.results) / 1000
    found = f"accuracy {min(scores):.2%} to {max(scores):.2%}" if scores else "no results"
    said = f"{found}, {cpu_s:.0f} s of CPU in all"
    return (
        f"sweep ({len(swept)} jobs)",
        state_text("succeeded") if states == {"succeeded"} else Text(", ".join(sorted(states))),
        str(sum(one.job.attempt for one in swept)),
        f"{span_text(median(waited))}",
        f"{span_text(median(ran))}",
        f"{len(nodes)} nodes",
        said,
    )


def _row(one: Happened) -> Sequence[RenderableType]:
    job = one.job
    nodes = sorted({task.node for attempt in job.attempts for task in attempt.tasks})
    return (
        one.planned.name,
        state_text(job.status),
        str(job.attempt),
        between(job.submitted_at, job.started_at),
        between(job.started_at, job.ended_at),
        nodes[0] if len(nodes) == 1 else f"{len(nodes)} nodes",
        _said(one),
    )


def _said(one: Happened) -> str:
    """The result of the job in a few words, else why it ended as it did."""
    if not one.results:
        return one.job.message.partition("\n")[0] or NOTHING
    result = one.results[0]
    parts = []
    if "accuracy" in result:
        parts.append(f"accuracy {result['accuracy']:.2%}")
    if "train_ms" in result:
        parts.append(f"{result['world_size']} members, {result['steps']} steps")
        parts.append(f"loss {result['first_loss']:.2f} to {result['last_loss']:.4f}")
    elif "images" in result:
        parts.append(f"{result['images']} images")
    elif "devices" in result:
        parts.append(f"GPU {result['devices']}, {result['variance_held']:.1%} in 10 components")
    elif "succeeded_on_attempt" in result:
        parts.append(f"succeeded on attempt {result['succeeded_on_attempt']}")
    elif "stopped" in result:
        parts.append(f"left on {result['stopped']} after {result['steps']} steps")
    return ", ".join(parts)


def _seconds(start: datetime | None, stop: datetime | None) -> float:
    return (stop - start).total_seconds() if start is not None and stop is not None else 0.0


def checks_text(checks: Iterable[Check]) -> RenderableType:
    """Each check with its verdict."""
    made = Table.grid(padding=(0, 2))
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("WRONG", style="bold red")
        made.add_row(mark, Text(check.name), Text(check.detail, style="dim"))
    return made


def verdict(checks: Sequence[Check], took_s: float) -> RenderableType:
    """The last word."""
    wrong = sum(not check.ok for check in checks)
    if wrong:
        said = f"DEMO FAILED: {wrong} of {len(checks)} checks are wrong"
        return Group("", Text(said, style="bold red"))
    said = f"DEMO PASSED: {len(checks)} checks, {took_s:.0f} s"
    return Group("", Text(said, style="bold green"))
