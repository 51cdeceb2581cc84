"""What follows from reports and from time: barriers open, attempts end, jobs end or are retried.

An attempt has ended only when every task of it is known dead; until then its job is not placed
again, whatever asked for the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop

from schemas.events import (
    AttemptsEnding,
    DeadlinesPassed,
    GangsReleased,
    JobsCancelled,
    JobsDeadLettered,
    JobsFailed,
    JobsForgotten,
    JobsRequeued,
    JobsStarted,
    JobsSucceeded,
)
from schemas.ids import format_job_id
from schemas.terms import FailureClass, JobState
from stream_processors.domain.draft import Draft
from stream_processors.domain.evolve import is_valid
from stream_processors.domain.fold_ends import AVOIDED_MAX
from stream_processors.domain.following import schedule_retries
from stream_processors.domain.retries import SECOND_US, Next, failure_fingerprint, what_next
from stream_processors.domain.state import Job, TaskPhase, TimerKind

_Failed = tuple[int, int, FailureClass, str]
ROWS_MAX = 5_000
"""Jobs forgotten, doomed or timed out by one decision at most, so that a record stays small; the
next one goes on."""
SETTLED_BYTES_MAX = 1024 * 1024
"""About so much of a record is for attempts that move on; the next decision goes on."""
_ROW_BYTES, _TOLD_BYTES, _NODE_BYTES = 16, 48, 136
"""What a row of those takes at most: its numbers, what goes with a text, the name of a node."""


@dataclass(slots=True)
class _Ends:
    """What the touched jobs come to, in columns to be. `size` is about their bytes in the record."""

    size: int = 0
    started: list[tuple[int, int]] = field(default_factory=list)
    released: list[tuple[int, int, str]] = field(default_factory=list)
    ending: list[_Failed] = field(default_factory=list)
    succeeded: list[tuple[int, int]] = field(default_factory=list)
    failed: list[_Failed] = field(default_factory=list)
    retried: list[_Failed] = field(default_factory=list)
    dead: list[_Failed] = field(default_factory=list)
    cancelled: list[tuple[int, int, str, str]] = field(default_factory=list)

    def weigh(self, *texts: str) -> None:
        """Count a row with these texts."""
        told = _TOLD_BYTES + sum(len(text.encode()) for text in texts) if texts else 0
        self.size += _ROW_BYTES + told


def fire_timers(draft: Draft) -> None:
    """What is due now: retries go back to their queues, attempts and jobs out of time end."""
    state = draft.state
    requeued: dict[int, None] = {}
    ending: dict[int, _Failed] = {}
    overdue: list[Job] = []
    while state.timers and state.timers[0].due_at <= state.at:
        if len(requeued) + len(ending) + len(overdue) >= ROWS_MAX:
            break
        timer = heappop(state.timers)
        if not is_valid(state, timer):
            continue
        job = state.jobs[timer.job_no]
        if timer.kind is TimerKind.RETRY:
            requeued[job.no] = None
        elif timer.kind is TimerKind.DEADLINE:
            overdue.append(job)
        elif timer.kind is TimerKind.ATTEMPT_TIMEOUT:
            message = f"the attempt ran longer than timeout_s = {job.terms.timeout_s}"
            ending[job.no] = (job.no, job.attempt, FailureClass.TIMEOUT, message)
        else:
            message = f"not every task started within {job.terms.start_timeout_s} s"
            ending[job.no] = (job.no, job.attempt, FailureClass.START_TIMEOUT, message)
    if requeued:
        draft.emit(JobsRequeued(list(requeued)))
    _end_overdue(draft, overdue, ending)
    if ending:
        draft.emit(AttemptsEnding(*_columns(list(ending.values()))))
        draft.touched.update((no, None) for no in ending)


def _end_overdue(draft: Draft, overdue: list[Job], ending: dict[int, _Failed]) -> None:
    """Jobs whose deadline passed: those with tasks once these are dead, the others now."""
    living = [job for job in overdue if job.tasks]
    failed = [
        (job.no, job.attempt, FailureClass.TIMEOUT, _late(job)) for job in overdue if not job.tasks
    ]
    if failed:
        draft.emit(JobsFailed(*_columns(failed)))
    if living:
        draft.emit(DeadlinesPassed([job.no for job in living]))
    for job in living:
        if not job.is_ending:
            ending[job.no] = (job.no, job.attempt, FailureClass.TIMEOUT, _late(job))


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
    """Move on every touched job, as far as it goes by itself and the record has room.

    Jobs that were not come to stay in `draft.touched`.
    """
    ends = _Ends(draft.settled_bytes)
    for no in list(draft.touched):
        if ends.size >= SETTLED_BYTES_MAX:
            break
        del draft.touched[no]
        job = draft.state.jobs.get(no)
        if job is not None and job.tasks:
            _move_on(ends, job)
    draft.settled_bytes = ends.size
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
        ends.weigh(failed.message)
        return
    least = min(task.phase for task in tasks)
    if job.terms.is_gang and not job.released and whole and least >= TaskPhase.READY:
        ends.released.append((job.no, job.attempt, job.tasks[0].endpoint))
        ends.weigh(job.tasks[0].endpoint)
    if job.state is JobState.SCHEDULED and _runs(job):
        ends.started.append((job.no, job.attempt))
        ends.weigh()


def _runs(job: Job) -> bool:
    """Whether the job counts as running: every member of a gang has started, else any task."""
    begun = [task.phase >= TaskPhase.STARTED for task in job.tasks.values()]
    return all(begun) if job.terms.is_gang else any(begun)


def _conclude(ends: _Ends, job: Job) -> None:
    """Every task is known dead: what the attempt comes to."""
    if job.cancel is not None:
        cancel = job.cancel
        ends.cancelled.append((job.no, cancel.offset, cancel.reason, cancel.actor))
        ends.weigh(cancel.reason, cancel.actor)
        return
    failure, message = _cause(job)
    row = (job.no, job.attempt, failure, message)
    ends.weigh(message)
    if failure is FailureClass.NONE:
        if job.state is JobState.SCHEDULED:
            ends.started.append((job.no, job.attempt))
        ends.succeeded.append((job.no, job.attempt))
        return
    if job.overdue:
        ends.failed.append((job.no, job.attempt, FailureClass.TIMEOUT, _late(job)))
        return
    following = what_next(job, failure)
    ends.size += _NODE_BYTES * min(len(job.tasks), AVOIDED_MAX)
    places = {Next.RETRY: ends.retried, Next.DEAD_LETTER: ends.dead, Next.FAIL: ends.failed}
    places[following].append(row)


def _late(job: Job) -> str:
    return f"its deadline passed: deadline_s = {job.terms.deadline_s} after it was submitted"


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
        draft.emit(schedule_retries(draft.state, ends.retried))
    if ends.dead:
        draft.emit(JobsDeadLettered(*_columns(ends.dead), _fingerprints(draft, ends.dead)))
    if ends.cancelled:
        rows = zip(*ends.cancelled, strict=True)
        draft.emit(JobsCancelled(*(list(column) for column in rows)))


def _fingerprints(draft: Draft, rows: list[_Failed]) -> list[str]:
    jobs = draft.state.jobs
    return [
        failure_fingerprint(failure, message, list(jobs[no].tasks.values()))
        for no, _, failure, message in rows
    ]


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
