"""What a batch of the log comes to in the audit view: rows to add, rows to change. Pure.

Reads a `ViewBatch`; knows no database. Each fact stands once: a job's terms in `jobs`, what was
given where in `tasks`, the loss of a node in `nodes` (its tasks ended with it). The events table
has a row for each row of each event, narrow, with a `detail` only where an event says more. The
columns are those of `projections/migrations/audit/`; `audit.py` stores them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, repeat
from typing import Any

from projections.audit_tables import TERM_NUMBERS
from projections.event_rows import KINDS, event_rows
from projections.hot_rows import title_of
from projections.pipeline import ViewBatch
from schemas import events
from schemas.codec import to_plain
from schemas.events import Event
from schemas.terms import FailureClass, JobTerms
from stream_processors.domain.state import Job

Row = tuple[Any, ...]

FleetEvent = (
    events.QueueChanged
    | events.PoolChanged
    | events.NodeRegistered
    | events.NodesDraining
    | events.NodesLost
)
"""Events about queues, pools and nodes: few, so they are stored one by one, in their order."""


@dataclass(slots=True)
class AuditRows:
    """Everything that one transaction writes, by table. `fleet` are (time, event) pairs.

    `attempts` surely begin in this batch. `opened_attempts` may have begun before it, for the
    tasks of a job that is no gang are placed as there is room: they are added (job, attempt and
    time) where they are not there yet, and everything else about them is in `changed_attempts`.
    `cancelled` are answers to be kept only where the command has none yet: a cancel of a running
    job is answered when it is asked, and its job is cancelled later.
    """

    jobs: list[Row] = field(default_factory=list)
    changed_jobs: list[Row] = field(default_factory=list)
    dependencies: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    opened_attempts: list[Row] = field(default_factory=list)
    changed_attempts: list[Row] = field(default_factory=list)
    tasks: list[Row] = field(default_factory=list)
    changed_tasks: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    answers: list[Row] = field(default_factory=list)
    cancelled: list[Row] = field(default_factory=list)
    fleet: list[tuple[int, FleetEvent]] = field(default_factory=list)


@dataclass(slots=True)
class _Attempt:
    """What the batch says of one attempt; `placed_at` is 0 where it was opened before.

    `piecemeal` is set where some of its tasks may have been placed before.
    """

    placed_at: int = 0
    piecemeal: bool = False
    failure: str = FailureClass.NONE
    started_at: int = 0
    ended_at: int = 0
    message: str = ""
    fingerprint: str = ""


@dataclass(slots=True)
class _Task:
    """What the batch says of one task; `placed_at` is 0 where it was placed before."""

    node_no: int = 0
    placed_at: int = 0
    devices: bytes = b""
    failure: str = FailureClass.NONE
    ready_at: int = 0
    started_at: int = 0
    ended_at: int = 0
    exit_code: int | None = None
    message: str = ""
    log_tail: str = ""


@dataclass(slots=True)
class _Work:
    """Attempts by (job, attempt) and tasks by (job, attempt, task), as a batch leaves them."""

    attempts: dict[tuple[int, int], _Attempt] = field(default_factory=dict)
    tasks: dict[tuple[int, int, int], _Task] = field(default_factory=dict)


def convert(batch: ViewBatch) -> AuditRows:
    """The rows of a batch. Rows of one table are in the order of the log."""
    rows = AuditRows()
    work = _Work()
    new: set[int] = set()
    for record in batch.records:
        at = record.chain.at
        rows.events.extend(_number(batch.shard, record.offset, at, record.events))
        for event in record.events:
            if isinstance(event, events.JobsSubmitted):
                new.update(range(event.first_no, event.first_no + len(event.terms_of)))
                _add_jobs(rows, batch, event)
            else:
                _take(rows, work, batch, at, event)
    _change_jobs(rows, batch, new)
    _write_work(rows, work, batch.shard)
    return rows


def _number(shard: int, offset: int, at: int, happened: tuple[Event, ...]) -> Iterator[Row]:
    """Rows of the events table: those of a record are numbered through."""
    numbers = count()
    for event in happened:
        kind = KINDS.get(type(event))
        if kind is not None:
            head = zip(
                repeat(shard), repeat(offset), numbers, repeat(kind), repeat(at), strict=False
            )
            # The rows come first: a zip that runs out takes nothing from those behind.
            for tail, front in zip(event_rows(event), head, strict=False):
                yield front + tail


def _add_jobs(rows: AuditRows, batch: ViewBatch, event: events.JobsSubmitted) -> None:
    numbers = [tuple(getattr(terms, name) for name in TERM_NUMBERS) for terms in event.terms]
    words = [_term_words(terms) for terms in event.terms]
    hashes = _chunks(event.spec_hashes)
    for row, (offset, index) in enumerate(zip(event.offsets, event.terms_of, strict=True)):
        job = batch.changed[event.first_no + row]
        head = (
            batch.shard,
            job.no,
            job.job_id,
            offset,
            job.priority,
            job.attempt,
            job.retries_used,
            job.submitted_at,
            job.changed_at,
            job.key_id,
            job.spec_schema_id,
            event.defaults_version,
        )
        cause = (next(hashes), job.causation_id, job.redrives)
        tail = (*_job_words(job), job.actor, *cause, *title_of(job), job.spec)
        rows.jobs.append(head + numbers[index] + words[index] + tail)
    needs = zip(event.dep_rows, event.dep_nos, event.dep_succeeds, strict=True)
    rows.dependencies.extend(
        (batch.shard, event.first_no + row, no, succeeds) for row, no, succeeds in needs
    )


def _chunks(joined: bytes) -> Iterator[bytes]:
    """Hashes of 16 bytes, one by one."""
    return (joined[start : start + 16] for start in range(0, len(joined), 16))


def _term_words(terms: JobTerms) -> Row:
    return (
        terms.tenant,
        terms.pool,
        terms.queue,
        terms.topology,
        to_plain(terms.extras) or None,
        list(terms.gpu_models) or None,
        to_plain(terms.node_selector) or None,
        to_plain(terms.retry_rules) or None,
    )


def _job_words(job: Job) -> Row:
    """What may change of a job, but for its numbers."""
    return (job.state, job.failure, job.due_at, job.started_at, job.ended_at, job.message)


def _change_jobs(rows: AuditRows, batch: ViewBatch, new: set[int]) -> None:
    """Rows of earlier jobs; whatever changes a row also sets `changed_at`."""
    first_at = batch.records[0].chain.at
    for job in batch.changed.values():
        if job.no not in new and job.changed_at >= first_at:
            head = (batch.shard, job.no, job.attempt, job.retries_used, job.changed_at)
            rows.changed_jobs.append(head + _job_words(job))


def _take(rows: AuditRows, work: _Work, batch: ViewBatch, at: int, event: Event) -> None:
    """One event that submits nothing: what it says of answers, fleet, attempts and tasks."""
    if isinstance(event, FleetEvent):
        rows.fleet.append((at, event))
    rows.answers.extend(_answers(batch.shard, at, event))
    if isinstance(event, events.JobsCancelled):
        asked = zip(event.offsets, event.job_nos, strict=True)
        rows.cancelled.extend(
            _accepted(batch.shard, offset, at, no) for offset, no in asked if offset >= 0
        )
    _work_on(work, batch.changed, at, event)


def _answers(shard: int, at: int, event: Event) -> Iterable[Row]:
    """What became of commands, but for accepted submissions. Row -1: of the command as a whole."""
    if isinstance(event, events.CommandsRefused):
        columns = (event.offsets, event.rows, event.codes, event.job_ids, event.messages)
        return (
            (shard, offset, row, at, "refused", code, None, job_id, message)
            for offset, row, code, job_id, message in zip(*columns, strict=True)
        )
    if isinstance(event, events.SubmissionsRepeated):
        pairs = zip(event.offsets, event.job_nos, strict=True)
        return ((shard, offset, -1, at, "repeated", "", no, b"", "") for offset, no in pairs)
    if isinstance(event, events.CancelsRequested):
        pairs = zip(event.offsets, event.job_nos, strict=True)
        return (_accepted(shard, offset, at, no) for offset, no in pairs)
    by_command = events.QueueChanged | events.PoolChanged | events.DeadLettersPurged
    if isinstance(event, by_command) and event.offset >= 0:
        return (_accepted(shard, event.offset, at, None),)
    return ()


def _accepted(shard: int, offset: int, at: int, no: int | None) -> Row:
    return (shard, offset, -1, at, "accepted", "", no, b"", "")


def _work_on(work: _Work, jobs: dict[int, Job], at: int, event: Event) -> None:
    """Attempts and tasks."""
    if isinstance(event, events.TasksPlaced):
        _place(work, jobs, at, event)
    elif isinstance(event, events.TasksReady):
        for task in _tasks(work, event):
            task.ready_at = at
    elif isinstance(event, events.TasksStarted):
        for task in _tasks(work, event):
            task.started_at = at
    elif isinstance(event, events.TasksEnded):
        _end_tasks(work, at, event)
    elif isinstance(event, events.JobsStarted):
        for key in zip(event.job_nos, event.attempts, strict=True):
            work.attempts.setdefault(key, _Attempt()).started_at = at
    else:
        fingerprints = getattr(event, "fingerprints", None) or repeat("")
        ends = zip(_ends(jobs, event), fingerprints, strict=False)
        for (no, attempt, failure, message), fingerprint in ends:
            if not attempt:
                continue  # its deadline passed before it ever ran
            ended = work.attempts.setdefault((no, attempt), _Attempt())
            if not ended.ended_at:
                ended.ended_at, ended.failure, ended.message = at, failure, message
                ended.fingerprint = fingerprint


def _place(work: _Work, jobs: dict[int, Job], at: int, event: events.TasksPlaced) -> None:
    columns = (event.job_nos, event.attempts, event.tasks, event.node_nos, event.devices)
    for no, attempt, index, node_no, devices in zip(*columns, strict=True):
        work.tasks[no, attempt, index] = _Task(node_no, at, devices)
        if (no, attempt) not in work.attempts:
            terms = jobs[no].terms
            piecemeal = terms.tasks > 1 and not terms.is_gang
            work.attempts[no, attempt] = _Attempt(at, piecemeal)


def _tasks(work: _Work, event: events.TasksReady | events.TasksStarted) -> Iterator[_Task]:
    for key in zip(event.job_nos, event.attempts, event.tasks, strict=True):
        yield work.tasks.setdefault(key, _Task())


def _end_tasks(work: _Work, at: int, event: events.TasksEnded) -> None:
    keys = zip(event.job_nos, event.attempts, event.tasks, strict=True)
    ends = zip(event.exit_codes, event.failures, event.messages, strict=True)
    tails = dict(zip(event.tail_rows, event.tails, strict=True))
    for row, (key, (exit_code, failure, message)) in enumerate(zip(keys, ends, strict=True)):
        task = work.tasks.setdefault(key, _Task())
        task.log_tail = tails.get(row, "")
        task.ended_at = at
        task.exit_code, task.failure, task.message = exit_code, failure, message


def _ends(jobs: dict[int, Job], event: Event) -> Iterable[tuple[int, int, str, str]]:
    """Attempts that ended: job, attempt (0 where it never had one), failure class and message.

    A cancelled job's last attempt may have ended before: who stores it keeps the first end.
    """
    if isinstance(event, events.JobsSucceeded):
        return zip(
            event.job_nos, event.attempts, repeat(FailureClass.NONE), repeat(""), strict=False
        )
    if isinstance(event, events.JobsFailed | events.JobsDeadLettered | events.RetriesScheduled):
        return zip(event.job_nos, event.attempts, event.failures, event.messages, strict=True)
    if isinstance(event, events.JobsCancelled):
        pairs = zip(event.job_nos, event.reasons, strict=True)
        return (
            (no, jobs[no].attempt, FailureClass.CANCELLED, reason)
            for no, reason in pairs
            if jobs[no].attempt
        )
    return ()


def _write_work(rows: AuditRows, work: _Work, shard: int) -> None:
    for (no, attempt), one in work.attempts.items():
        later = (one.failure, one.started_at, one.ended_at, one.message, one.fingerprint)
        if one.placed_at and not one.piecemeal:
            rows.attempts.append((shard, no, attempt, one.placed_at, *later))
            continue
        if one.placed_at:
            rows.opened_attempts.append((shard, no, attempt, one.placed_at))
        rows.changed_attempts.append((shard, no, attempt, *later))
    for key, task in work.tasks.items():
        times = (task.ready_at, task.started_at, task.ended_at)
        ends = (task.failure, *times, task.exit_code, task.message, task.log_tail)
        if task.placed_at:
            placed = (task.node_no, task.placed_at, task.devices)
            rows.tasks.append((shard, *key, *placed, *ends))
        else:
            rows.changed_tasks.append((shard, *key, *ends))
