"""`evolve(state, event)`: the only way state changes. Replay runs this and never `decide`.

Reads an event, writes the state, answers nothing. Events that change nothing (refusals, repeats)
are in the log so that senders learn of them and progress is recorded. What each event does is in
`fold_jobs.py`, `fold_ends.py` and `fold_nodes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heapify, heappop
from typing import Any

from schemas import events
from schemas.events import Event
from schemas.terms import ENDED_STATES, JobState
from stream_processors.domain import fold_ends, fold_jobs, fold_nodes
from stream_processors.domain.state import State, Timer, TimerKind

TIMERS_PER_JOB = 4
"""A job has a deadline, and a start or attempt timer or one for its retry: more are mostly void."""
TIMERS_SPARE = 1_000


def _nothing(_state: State, _event: Event) -> None:
    """For events that only inform."""


_FOLDS: dict[type, Callable[[State, Any], None]] = {
    events.JobsSubmitted: fold_jobs.jobs_submitted,
    events.SubmissionsRepeated: _nothing,
    events.CommandsRefused: _nothing,
    events.CancelsRequested: fold_jobs.cancels_requested,
    events.QueueChanged: fold_nodes.queue_changed,
    events.PoolChanged: fold_nodes.pool_changed,
    events.NodeRegistered: fold_nodes.node_registered,
    events.NodesDraining: fold_nodes.nodes_draining,
    events.NodesLost: fold_nodes.nodes_lost,
    events.TasksPlaced: fold_jobs.tasks_placed,
    events.TasksReady: fold_jobs.tasks_ready,
    events.GangsReleased: fold_jobs.gangs_released,
    events.TasksStarted: fold_jobs.tasks_started,
    events.JobsStarted: fold_jobs.jobs_started,
    events.TasksEnded: fold_jobs.tasks_ended,
    events.AttemptsEnding: fold_jobs.attempts_ending,
    events.ReportsRefused: _nothing,
    events.JobsSucceeded: fold_ends.jobs_succeeded,
    events.JobsFailed: fold_ends.jobs_failed,
    events.RetriesScheduled: fold_ends.retries_scheduled,
    events.JobsRequeued: fold_ends.jobs_requeued,
    events.JobsDeadLettered: fold_ends.jobs_dead_lettered,
    events.JobsCancelled: fold_ends.jobs_cancelled,
    events.JobsForgotten: fold_ends.jobs_forgotten,
    events.InputsParked: _nothing,
    events.DeadLettersPurged: _nothing,
    events.DeadlinesPassed: fold_jobs.deadlines_passed,
}


def begin_record(state: State, seq: int, at: int) -> None:
    """Advance to the next record that counts; its events follow. `at` never goes backwards."""
    assert seq == state.seq + 1, "records that count are dense"
    assert at >= state.at, "time never goes backwards"
    state.seq = seq
    state.at = at
    prune_timers(state)


def prune_timers(state: State) -> None:
    """Drop void timers, from the head or, when most must be void, all of them.

    Which are void follows from the state alone.
    """
    if len(state.timers) > TIMERS_PER_JOB * len(state.jobs) + TIMERS_SPARE:
        state.timers = [timer for timer in state.timers if is_valid(state, timer)]
        heapify(state.timers)
    while state.timers and not is_valid(state, state.timers[0]):
        heappop(state.timers)


def evolve(state: State, event: Event) -> None:
    """Fold one event into the state, in place."""
    _FOLDS[type(event)](state, event)


def is_valid(state: State, timer: Timer) -> bool:
    """Whether what the timer waits for can still come."""
    job = state.jobs.get(timer.job_no)
    if job is None or job.state in ENDED_STATES:
        return False
    if timer.kind is TimerKind.DEADLINE:
        return not job.overdue
    if job.attempt != timer.attempt:
        return False
    if timer.kind is TimerKind.RETRY:
        return job.state is JobState.RETRYING and state.pools[job.terms.pool].retries_on
    if timer.kind is TimerKind.START_TIMEOUT:
        return job.state is JobState.SCHEDULED and not job.is_ending
    return job.state is JobState.RUNNING and not job.is_ending


def touched_jobs(found: Iterable[Event]) -> set[int]:
    """Numbers of the jobs whose row may have changed by these events."""
    touched: set[int] = set()
    for event in found:
        if isinstance(event, events.JobsSubmitted):
            touched.update(range(event.first_no, event.first_no + len(event.terms_of)))
        elif not isinstance(event, events.SubmissionsRepeated):
            touched.update(getattr(event, "job_nos", ()))
    return touched
