"""Answers of the API as tables and lines for people. Pure: makes rich renderables, prints nothing.

With `--json` none of this is used. States have one colour each, everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from foldline.client import ExplainAnswer
from projections.answers import (
    ClusterList,
    JobAnswer,
    JobList,
    NodeAnswer,
    QueueList,
)

STATE_STYLES = {
    "pending": "dim",
    "queued": "cyan",
    "scheduled": "blue",
    "running": "yellow",
    "retrying": "magenta",
    "succeeded": "green",
    "failed": "red",
    "dead_letter": "bold red",
    "cancelled": "dim",
    "refused": "red",
}
NOTHING = "-"
JOB_ID_LETTERS = 36


def state_text(state: str) -> Text:
    """A job's state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table in the one style; columns in `right` are aligned so."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    aligned = set(right)
    for column in columns:
        made.add_column(column, justify="right" if column in aligned else "left", no_wrap=True)
    made.columns[-1].no_wrap = False
    return made


def span_text(seconds: float) -> str:
    """A length of time, in the two biggest units: 412ms, 9.5s, 3m12s, 2h05m, 4d03h."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 24 else f"{hours // 24}d{hours % 24:02}h"


def between(start: datetime | None, stop: datetime | None) -> str:
    """How long from one moment to the other; "-" where one is missing."""
    if start is None or stop is None:
        return NOTHING
    return span_text((stop - start).total_seconds())


def jobs_table(page: JobList, now: datetime) -> RenderableType:
    """A page of jobs."""
    made = table("ID", "NAME", "TYPE", "STATUS", "QUEUE", "PRIO", "TRY", "AGE", "RAN", "NODE")
    made.columns[0].min_width = JOB_ID_LETTERS
    for job in page.jobs:
        ran = between(job.started_at, job.ended_at or now)
        made.add_row(
            job.id,
            escape(job.name[:32]) or NOTHING,
            job.job_type,
            state_text(job.status),
            _queue(job.cluster, job.queue),
            str(job.priority),
            str(job.attempt),
            between(job.submitted_at, now),
            ran,
            job.worker_id or NOTHING,
        )
    more = f"more: --cursor {page.next_cursor}" if page.next_cursor else ""
    return Group(made, Text(more, style="dim")) if more else made


def job_text(job: JobAnswer) -> RenderableType:
    """One job with its attempts."""
    facts = table("", "")
    facts.show_header = False
    rows: list[tuple[str, RenderableType]] = [
        ("id", job.id),
        ("name", escape(job.name) or NOTHING),
        ("status", _status(job)),
        ("queue", _queue(job.cluster, job.queue)),
        ("priority", str(job.priority)),
        ("command", escape(" ".join(job.command))),
        ("asks for", _wants(job)),
        ("submitted", moment_text(job.submitted_at)),
        ("started", moment_text(job.started_at)),
        ("ended", moment_text(job.ended_at)),
        ("retries", f"{job.retry_count} of {job.retry_policy.max_retries}"),
    ]
    if job.queue_position is not None:
        rows.append(("position", str(job.queue_position)))
    if job.due_at is not None:
        rows.append(("next attempt", moment_text(job.due_at)))
    if job.depends_on:
        wanted = ", ".join(f"{item.job_id} ({item.condition})" for item in job.depends_on)
        rows.append(("depends on", wanted))
    for name, value in rows:
        facts.add_row(Text(name, style="dim"), value)
    return Group(facts, "", _attempts(job)) if job.attempts else facts


def _attempts(job: JobAnswer) -> Table:
    made = table("TRY", "TASK", "NODE", "GPUS", "PLACED", "RAN", "EXIT", "WHY", right=("EXIT",))
    for attempt in job.attempts:
        for task in attempt.tasks:
            why = ": ".join(filter(None, (task.failure, task.message)))
            made.add_row(
                str(attempt.number),
                str(task.task),
                task.node,
                ",".join(map(str, task.devices)) or NOTHING,
                moment_text(task.placed_at),
                between(task.started_at, task.ended_at),
                NOTHING if task.exit_code is None else str(task.exit_code),
                escape(why) or NOTHING,
            )
    return made


def why_text(said: ExplainAnswer) -> RenderableType:
    """Why a job stands where it stands."""
    head = Text.assemble("job ", said.job_id, " is ", state_text(said.status))
    if said.position:
        head.append(f", number {said.position} in its cluster")
    reasons = table("BECAUSE", "")
    for reason in said.reasons:
        reasons.add_row(reason.code, escape(reason.message))
    return Group(head, reasons) if said.reasons else head


def queues_table(answer: QueueList) -> RenderableType:
    """All queues."""
    numbers = ("WAITING", "ACTIVE", "RETRYING", "OLDEST")
    made = table("CLUSTER", "QUEUE", "STATE", *numbers, "DESCRIPTION", right=numbers)
    for queue in answer.queues:
        age = queue.oldest_age_seconds
        made.add_row(
            queue.cluster,
            queue.name,
            queue.state,
            str(queue.depth),
            str(queue.processing),
            str(queue.retrying),
            NOTHING if age is None else span_text(age),
            escape(queue.description),
        )
    return made


def nodes_table(answer: ClusterList) -> RenderableType:
    """All nodes of all clusters, with what is free of what they have."""
    numbers = ("CPU", "MEMORY", "GPUS", "TASKS")
    made = table("CLUSTER", "NODE", *numbers, "STATE", "LABELS", right=numbers)
    for cluster in answer.clusters:
        for node in cluster.nodes:
            made.add_row(*_node(node))
        if not cluster.nodes:
            made.add_row(cluster.name, "(none)", *[NOTHING] * 6)
    return made


def _node(node: NodeAnswer) -> Sequence[str]:
    return (
        node.cluster,
        node.name,
        f"{node.cpu_free_milli / 1000:g}/{node.cpu_milli / 1000:g}",
        f"{node.memory_free_mib}/{node.memory_mib}Mi",
        f"{node.gpus_free}/{len(node.gpus)}",
        str(node.tasks),
        "draining" if node.draining else "open",
        escape(",".join(f"{name}={value}" for name, value in node.labels.items())) or NOTHING,
    )


def _queue(cluster: str, queue: str) -> str:
    return queue if cluster == "default" else f"{cluster}/{queue}"


def _status(job: JobAnswer) -> Text:
    text = state_text(job.status)
    said = ": ".join(filter(None, (job.failure, job.message)))
    return text.append(f"  {said}", style="default") if said else text


def _wants(job: JobAnswer) -> str:
    asked = job.resources
    each = f"cpu {asked.cpu_milli / 1000:g}, memory {asked.memory_mib}Mi"
    each += f", gpu {asked.gpu_milli / 1000:g}" if asked.gpu_milli else ""
    each += "".join(f", {name} {amount}" for name, amount in asked.extras.items())
    if job.gang is not None:
        return f"{job.tasks} members ({job.gang.topology}), each {each}"
    return each if job.tasks == 1 else f"{job.tasks} tasks, each {each}"


def moment_text(at: datetime | None) -> str:
    """A moment in UTC; "-" where there is none."""
    if at is None:
        return NOTHING
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
