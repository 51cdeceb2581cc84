"""The fold of events that end attempts and jobs. Called through `evolve` alone.

No choice is made here: an event that does not fit the state is a bug and fails an assertion.
"""

from __future__ import annotations

from dataclasses import replace
from heapq import heappush

from schemas import events
from schemas.digest import add_row
from schemas.terms import FailureClass, JobState, JobTerms
from stream_processors.domain.fold_jobs import enter_lane, in_lane, leave_lane, load_job, set_state
from stream_processors.domain.retries import pace
from stream_processors.domain.rows import job_row
from stream_processors.domain.state import Failure, Job, State, TaskPhase, Timer, TimerKind

HISTORY_MAX = 5
"""Failed attempts that a job remembers."""
AVOIDED_MAX = 8
"""Nodes that a job keeps off, the last ones that failed it."""
PACED_MAX = 10_000
"""Tenants whose retries are paced, before those are dropped that are not held back any more."""
NODES_MAX = 64
"""Nodes that are remembered of one failed attempt."""


def retries_scheduled(state: State, event: events.RetriesScheduled) -> None:
    """Attempts failed and others are due."""
    rows = zip(
        event.job_nos, event.due_ats, event.costs, event.failures, event.messages, strict=True
    )
    for no, due_at, cost, failure, message in rows:
        job = state.jobs[no]
        _close_attempt(state, job, failure, message)
        set_state(state, job, JobState.RETRYING)
        job.retries_used += cost
        counts = dict(job.retried)
        job.retried = tuple((counts | {failure: counts.get(failure, 0) + 1}).items())
        job.due_at = due_at
        job.failure = failure
        job.message = message
        heappush(state.timers, Timer(due_at, TimerKind.RETRY, no, job.attempt))
        if cost:
            _pace(state, job.terms)
    for row, node in zip(event.avoid_rows, event.avoid_nodes, strict=True):
        job = state.jobs[event.job_nos[row]]
        job.avoid = (*job.avoid, node)[-AVOIDED_MAX:]
    for row, memory_mib in zip(event.memory_rows, event.memories_mib, strict=True):
        job = state.jobs[event.job_nos[row]]
        job.terms = replace(job.terms, memory_mib=memory_mib)
    for no, fingerprint in zip(event.job_nos, event.fingerprints, strict=False):
        state.jobs[no].fingerprint = fingerprint


def _pace(state: State, terms: JobTerms) -> None:
    """A retry that counts moves on how far its queue's and its tenant's are paced."""
    queue, pool = state.queues[terms.pool, terms.queue], state.pools[terms.pool]
    if queue.retries_per_hour:
        queue.retry_until = pace(queue.retry_until, state.at, queue.retries_per_hour)
    if pool.tenant_retries_per_hour:
        until = pool.retry_until.get(terms.tenant, 0)
        if len(pool.retry_until) > PACED_MAX:  # what is over says no more than nothing
            pool.retry_until = {
                tenant: at for tenant, at in pool.retry_until.items() if at > state.at
            }
        pool.retry_until[terms.tenant] = pace(until, state.at, pool.tenant_retries_per_hour)


def jobs_requeued(state: State, event: events.JobsRequeued) -> None:
    """Backoffs are over: back to the old place."""
    for no in event.job_nos:
        job = state.jobs[no]
        job.due_at = 0
        set_state(state, job, JobState.QUEUED)
        enter_lane(state, job)


def jobs_succeeded(state: State, event: events.JobsSucceeded) -> None:
    """Terminal: every task ended with success."""
    for no in event.job_nos:
        _end_job(state, no, JobState.SUCCEEDED, FailureClass.NONE, "")


def jobs_failed(state: State, event: events.JobsFailed) -> None:
    """Terminal: a class that is not retried."""
    for no, failure, message in zip(event.job_nos, event.failures, event.messages, strict=True):
        _end_job(state, no, JobState.FAILED, failure, message)


def jobs_dead_lettered(state: State, event: events.JobsDeadLettered) -> None:
    """Terminal: the budget is spent."""
    for no, failure, message in zip(event.job_nos, event.failures, event.messages, strict=True):
        _end_job(state, no, JobState.DEAD_LETTER, failure, message)
    for no, fingerprint in zip(event.job_nos, event.fingerprints, strict=False):
        state.jobs[no].fingerprint = fingerprint


def jobs_cancelled(state: State, event: events.JobsCancelled) -> None:
    """Terminal: by request, or because a dependency can no longer be met."""
    for no, reason in zip(event.job_nos, event.reasons, strict=True):
        _end_job(state, no, JobState.CANCELLED, FailureClass.CANCELLED, reason)


def _close_attempt(state: State, job: Job, failure: FailureClass, message: str) -> None:
    """The attempt is over: its tasks are known dead and leave the job, and its lane if it waits."""
    assert all(task.phase is TaskPhase.ENDED for task in job.tasks.values()), "a task lives"
    if in_lane(job):
        leave_lane(state, job)
    if failure is not FailureClass.NONE and job.tasks:
        job.history = (*job.history, _failed(state, job, failure, message))[-HISTORY_MAX:]
    job.tasks = {}
    job.ending = FailureClass.NONE
    job.ending_message = ""


def _failed(state: State, job: Job, failure: FailureClass, message: str) -> Failure:
    """What is remembered of an attempt; the first task that failed speaks for it."""
    tasks = list(job.tasks.values())
    speaker = next((task for task in tasks if task.failure is not FailureClass.NONE), tasks[0])
    nodes = tuple(dict.fromkeys(task.node for task in tasks))
    return Failure(
        job.attempt, state.at, failure, message, speaker.exit_code, nodes[:NODES_MAX], speaker.tail
    )


def _end_job(state: State, no: int, new: JobState, failure: FailureClass, message: str) -> None:
    job = state.jobs[no]
    _close_attempt(state, job, failure, message)
    for other in job.waits_for:
        state.dependents[other].remove(no)
        if not state.dependents[other]:
            del state.dependents[other]
            state.doomed.pop(other, None)
    job.waits_for = {}
    load_job(state, job, -1)
    set_state(state, job, new)
    job.due_at = 0
    job.ended_at = state.at
    job.failure = failure
    job.message = message
    job.cancel = None
    state.ended[no] = None
    _meet_dependencies(state, no, succeeded=new is JobState.SUCCEEDED)


def _meet_dependencies(state: State, no: int, *, succeeded: bool) -> None:
    """Free the jobs that waited for this end; those that can never start stay listed."""
    doomed = []
    for waiter_no in state.dependents.pop(no, []):
        waiter = state.jobs[waiter_no]
        if waiter.waits_for[no] and not succeeded:
            doomed.append(waiter_no)
            continue
        del waiter.waits_for[no]
        if not waiter.waits_for:
            enter_lane(state, waiter)
    if doomed:
        state.dependents[no] = doomed
        state.doomed[no] = None


def jobs_forgotten(state: State, event: events.JobsForgotten) -> None:
    """Ended jobs leave; their rows' hashes stay in the sum."""
    for no in event.job_nos:
        job = state.jobs.pop(no)
        del state.nos[job.job_id]
        del state.ended[no]
        state.forgotten += 1
        state.forgotten_digest = add_row(state.forgotten_digest, job_row(state.shard, job))
