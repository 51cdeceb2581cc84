"""What follows from reports and from time: barriers open, attempts end, jobs end or are retried.

An attempt has ended only when every task of it is known dead; until then its job is not placed
again, whatever asked for the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop

from schemas.events import (
    AttemptsEnding,
    GangsReleased,
    JobsCancelled,
    JobsDeadLettered,
    JobsFailed,
    JobsForgotten,
    JobsRequeued,
    JobsStarted,
    JobsSucceeded,
    RetriesScheduled,
)
from schemas.ids import format_job_id
from schemas.terms import FailureClass, JobState
from stream_processors.domain.draft import Draft
from stream_processors.domain.evolve import is_valid
from stream_processors.domain.retries import NOT_RETRIED, SECOND_US, backoff_us, cost
from stream_processors.domain.state import Job, TaskPhase, TimerKind

_Failed = tuple[int, int, FailureClass, str]
ROWS_MAX = 5_000
"""Jobs forgotten, doomed or timed out by one decision at most, so that a record stays small; the
next one goes on."""


@dataclass(slots=True)
class _Ends:
    """What the touched jobs come to, in columns to be."""

    started: list[tuple[int, int]] = field(default_factory=list)
    released: list[tuple[int, int, str]] = field(default_factory=list)
    ending: list[_Failed] = field(default_factory=list)
    succeeded: list[tuple[int, int]] = field(default_factory=list)
    failed: list[_Failed] = field(default_factory=list)
    retried: list[tuple[_Failed, int]] = field(default_factory=list)
    dead: list[_Failed] = field(default_factory=list)
    cancelled: list[tuple[int, int, str, str]] = field(default_factory=list)


def fire_timers(draft: Draft) -> None:
    """What is due now: retries go back to their queues, attempts out of time begin to end."""
    state = draft.state
    requeued: list[int] = []
    ending: list[_Failed] = []
    while state.timers and state.timers[0].due_at <= state.at:
        if len(requeued) + len(ending) >= ROWS_MAX:
            break
        timer = heappop(state.timers)
        if not is_valid(state, timer):
            continue
        job = state.jobs[timer.job_no]
        if timer.kind is TimerKind.RETRY:
            requeued.append(job.no)
        elif timer.kind is TimerKind.ATTEMPT_TIMEOUT:
            message = f"the attempt ran longer than timeout_s = {job.terms.timeout_s}"
            ending.append((job.no, job.attempt, FailureClass.TIMEOUT, message))
        else:
            message = f"not every task started within {job.terms.start_timeout_s} s"
            ending.append((job.no, job.attempt, FailureClass.START_TIMEOUT, message))
    if requeued:
        draft.emit(JobsRequeued(requeued))
    if ending:
        draft.emit(AttemptsEnding(*_columns(ending)))
        draft.touched.update((row[0], None) for row in ending)


def forget(draft: Draft) -> None:
    """Jobs that ended long enough ago leave the fold."""
    state = draft.state
    horizon = state.at - draft.policy.retain_finished_s * SECOND_US
    old: list[int] = []
    for no in state.ended:
        if state.jobs[no].ended_at > horizon or len(old) >= ROWS_MAX:
            break
        if no not in state.doomed:  # its waiters must be cancelled first: they name it
            old.append(no)
    if old:
        draft.emit(JobsForgotten(old))


def settle(draft: Draft) -> None:
    """Move on every touched job, as far as it goes by itself."""
    while draft.touched:
        touched, draft.touched = draft.touched, {}
        ends = _Ends()
        for no in touched:
            job = draft.state.jobs.get(no)
            if job is not None and job.tasks:
                _move_on(ends, job)
        _emit(draft, ends)


def _move_on(ends: _Ends, job: Job) -> None:
    """Where this attempt stands now."""
    tasks = job.tasks.values()
    alive = sum(task.phase is not TaskPhase.ENDED for task in tasks)
    failed = next((task for task in tasks if task.failure is not FailureClass.NONE), None)
    whole = len(job.tasks) == job.terms.tasks
    if not alive and (whole or failed is not None or job.is_ending):
        _conclude(ends, job)
        return
    if job.is_ending:
        return
    if failed is not None:
        ends.ending.append((job.no, job.attempt, failed.failure, failed.message))
        return
    least = min(task.phase for task in tasks)
    if job.terms.is_gang and not job.released and whole and least >= TaskPhase.READY:
        ends.released.append((job.no, job.attempt, job.tasks[0].endpoint))
    if job.state is JobState.SCHEDULED and _runs(job):
        ends.started.append((job.no, job.attempt))


def _runs(job: Job) -> bool:
    """Whether the job counts as running: every member of a gang has started, else any task."""
    begun = [task.phase >= TaskPhase.STARTED for task in job.tasks.values()]
    return all(begun) if job.terms.is_gang else any(begun)


def _conclude(ends: _Ends, job: Job) -> None:
    """Every task is known dead: what the attempt comes to."""
    if job.cancel is not None:
        cancel = job.cancel
        ends.cancelled.append((job.no, cancel.offset, cancel.reason, cancel.actor))
        return
    failure, message = _cause(job)
    row = (job.no, job.attempt, failure, message)
    if failure is FailureClass.NONE:
        if job.state is JobState.SCHEDULED:
            ends.started.append((job.no, job.attempt))
        ends.succeeded.append((job.no, job.attempt))
    elif failure is FailureClass.POISON:
        ends.dead.append(row)
    elif failure in NOT_RETRIED:
        ends.failed.append(row)
    elif job.retries_used + cost(failure) > job.terms.max_retries and cost(failure):
        ends.dead.append(row)
    else:
        ends.retried.append((row, cost(failure)))


def _cause(job: Job) -> tuple[FailureClass, str]:
    if job.is_ending:
        return job.ending, job.ending_message
    for task in job.tasks.values():
        if task.failure is not FailureClass.NONE:
            return task.failure, task.message
    return FailureClass.NONE, ""


def _emit(draft: Draft, ends: _Ends) -> None:
    """The events of one round, in the order of a job's life."""
    if ends.released:
        nos, attempts, endpoints = zip(*ends.released, strict=True)
        draft.emit(GangsReleased(list(nos), list(attempts), list(endpoints)))
    if ends.started:
        draft.emit(JobsStarted(*_pairs(ends.started)))
    if ends.ending:
        draft.emit(AttemptsEnding(*_columns(ends.ending)))
    if ends.succeeded:
        draft.emit(JobsSucceeded(*_pairs(ends.succeeded)))
    if ends.failed:
        draft.emit(JobsFailed(*_columns(ends.failed)))
    if ends.retried:
        _emit_retries(draft, ends)
    if ends.dead:
        draft.emit(JobsDeadLettered(*_columns(ends.dead)))
    if ends.cancelled:
        rows = zip(*ends.cancelled, strict=True)
        draft.emit(JobsCancelled(*(list(column) for column in rows)))


def _emit_retries(draft: Draft, ends: _Ends) -> None:
    rows = [row for row, _ in ends.retried]
    costs = [price for _, price in ends.retried]
    dues = []
    for (no, attempt, _, _), price in zip(rows, costs, strict=True):
        job = draft.state.jobs[no]
        delay = backoff_us(job.terms, job.job_id, attempt, job.retries_used + price)
        dues.append(draft.state.at + delay)
    nos, attempts, failures, messages = _columns(rows)
    draft.emit(RetriesScheduled(nos, attempts, dues, costs, failures, messages))


def cancel_doomed(draft: Draft) -> None:
    """Jobs that wait for the success of one that did not succeed can never start."""
    state = draft.state
    cancelled = 0
    while state.doomed and cancelled < ROWS_MAX:
        doomed: dict[int, str] = {}
        for no in state.doomed:
            job = state.jobs[no]
            reason = f"dependency {format_job_id(job.job_id)} ended as {job.state.value}"
            for waiter in state.dependents[no][: ROWS_MAX - cancelled - len(doomed)]:
                doomed.setdefault(waiter, reason)
        count = len(doomed)
        cancelled += count
        draft.emit(JobsCancelled(list(doomed), [-1] * count, list(doomed.values()), [""] * count))


def _pairs(rows: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [no for no, _ in rows], [attempt for _, attempt in rows]


def _columns(
    rows: list[_Failed],
) -> tuple[list[int], list[int], list[FailureClass], list[str]]:
    return (
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
        [row[3] for row in rows],
    )
