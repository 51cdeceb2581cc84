"""The fold of events about jobs: how each changes the state. Called through `evolve` alone.

No choice is made here: an event that does not fit the state is a bug and fails an assertion.
"""

from __future__ import annotations

from heapq import heappush

from schemas import events
from schemas.digest import add_row
from schemas.ids import JOB_ID_BYTES
from schemas.terms import FailureClass, JobState, JobTerms
from stream_processors.domain.capacity import book
from stream_processors.domain.retries import SECOND_US
from stream_processors.domain.rows import job_row
from stream_processors.domain.state import (
    Cancel,
    Job,
    Lane,
    State,
    Task,
    TaskPhase,
    Timer,
    TimerKind,
)

WAITING = frozenset({JobState.QUEUED})
ACTIVE = frozenset({JobState.SCHEDULED, JobState.RUNNING})


def set_state(state: State, job: Job, new: JobState) -> None:
    """Move a job to a state and keep its queue's depths right."""
    queue = state.queues[job.terms.pool, job.terms.queue]
    queue.waiting += (new in WAITING) - (job.state in WAITING)
    queue.active += (new in ACTIVE) - (job.state in ACTIVE)
    job.state = new
    job.changed_at = state.at


def in_lane(job: Job) -> bool:
    """Whether the job stands in its lane: it has tasks to place and nothing holds it back."""
    if job.waits_for or job.is_ending:
        return False
    if job.state is JobState.QUEUED:
        return True
    return job.state in ACTIVE and len(job.tasks) < job.terms.tasks


def lane_of(state: State, terms: JobTerms, priority: int) -> Lane:
    """The lane of these terms, made where there is none."""
    lanes = state.pools[terms.pool].lanes
    lane = lanes.get((priority, terms))
    if lane is None:
        lane = lanes[priority, terms] = Lane(priority, terms)
    return lane


def enter_lane(state: State, job: Job) -> None:
    """Put a job (back) at its place by age."""
    lane_of(state, job.terms, job.priority).give_back(job.no)
    state.pools[job.terms.pool].dirty = True


def leave_lane(state: State, job: Job) -> None:
    """Take a job out of its lane; an empty lane goes."""
    lanes = state.pools[job.terms.pool].lanes
    lane = lanes[job.priority, job.terms]
    lane.remove(job.no)
    if not lane:
        del lanes[job.priority, job.terms]


def jobs_submitted(state: State, event: events.JobsSubmitted) -> None:
    """New jobs, queued; those without dependencies enter their lanes."""
    assert event.first_no == state.next_no, "job numbers are dense"
    waits: dict[int, dict[int, bool]] = {}
    for row, no, succeeds in zip(event.dep_rows, event.dep_nos, event.dep_succeeds, strict=True):
        waits.setdefault(row, {})[no] = succeeds
    for row, index in enumerate(event.terms_of):
        _add_job(state, event, row, event.terms[index], waits.get(row))
    state.next_no = event.first_no + len(event.terms_of)


def _add_job(
    state: State,
    event: events.JobsSubmitted,
    row: int,
    terms: JobTerms,
    waits: dict[int, bool] | None,
) -> None:
    start = row * JOB_ID_BYTES
    job = Job(
        no=event.first_no + row,
        job_id=event.job_ids[start : start + JOB_ID_BYTES],
        terms=terms,
        priority=event.priorities[row],
        submitted_at=event.submitted_ats[row],
        spec_hash=event.spec_hashes[start : start + JOB_ID_BYTES],
        key_id=event.key_ids[row],
        actor=event.actors[row],
        spec_schema_id=event.spec_schema_ids[row],
        spec=event.specs[row],
        changed_at=state.at,
    )
    state.jobs[job.no] = job
    state.nos[job.job_id] = job.no
    state.queues[terms.pool, terms.queue].waiting += 1
    if waits:
        job.waits_for = waits
        for no in waits:
            state.dependents.setdefault(no, []).append(job.no)
    else:
        lane_of(state, terms, job.priority).fresh[job.no] = None
        state.pools[terms.pool].dirty = True


def tasks_placed(state: State, event: events.TasksPlaced) -> None:
    """Tasks take their room; the first one of an attempt opens it."""
    rows = zip(
        event.job_nos, event.attempts, event.tasks, event.node_nos, event.devices, strict=True
    )
    for no, attempt, index, node_no, devices in rows:
        job = state.jobs[no]
        assert in_lane(job), "only a job in its lane is placed"
        if job.attempt != attempt:
            _open_attempt(state, job, attempt)
        assert index not in job.tasks, "a task is placed once an attempt"
        node = state.nodes[node_no]
        job.tasks[index] = Task(node_no, devices, state.seq)
        book(node, job.terms, devices)
        node.tasks[no, index] = None
        if len(job.tasks) == job.terms.tasks:
            leave_lane(state, job)


def _open_attempt(state: State, job: Job, attempt: int) -> None:
    assert attempt == job.attempt + 1, "attempts are dense"
    assert not job.tasks, "the last attempt's tasks are all dead and cleared"
    job.attempt = attempt
    job.released = False
    set_state(state, job, JobState.SCHEDULED)
    due = state.at + job.terms.start_timeout_s * SECOND_US
    heappush(state.timers, Timer(due, TimerKind.START_TIMEOUT, job.no, attempt))


def tasks_ready(state: State, event: events.TasksReady) -> None:
    """Gang members wait at their barrier."""
    rows = zip(event.job_nos, event.tasks, event.endpoints, strict=True)
    for no, index, endpoint in rows:
        task = state.jobs[no].tasks[index]
        task.phase = TaskPhase.READY
        task.endpoint = endpoint


def gangs_released(state: State, event: events.GangsReleased) -> None:
    """The barrier of whole gangs opened."""
    for no in event.job_nos:
        state.jobs[no].released = True


def tasks_started(state: State, event: events.TasksStarted) -> None:
    """Processes run."""
    for no, index in zip(event.job_nos, event.tasks, strict=True):
        state.jobs[no].tasks[index].phase = TaskPhase.STARTED


def jobs_started(state: State, event: events.JobsStarted) -> None:
    """Jobs run; the time of their attempt begins."""
    for no, attempt in zip(event.job_nos, event.attempts, strict=True):
        job = state.jobs[no]
        set_state(state, job, JobState.RUNNING)
        job.started_at = job.started_at or state.at
        due = state.at + job.terms.timeout_s * SECOND_US
        heappush(state.timers, Timer(due, TimerKind.ATTEMPT_TIMEOUT, no, attempt))


def tasks_ended(state: State, event: events.TasksEnded) -> None:
    """Tasks are dead and their room is free."""
    rows = zip(
        event.job_nos,
        event.tasks,
        event.exit_codes,
        event.failures,
        event.messages,
        strict=True,
    )
    for no, index, exit_code, failure, message in rows:
        task = state.jobs[no].tasks[index]
        task.exit_code = exit_code
        end_task(state, no, index, failure, message)


def end_task(state: State, no: int, index: int, failure: FailureClass, message: str) -> None:
    """A task is dead: its room on its node is free again."""
    job = state.jobs[no]
    task = job.tasks[index]
    assert task.phase is not TaskPhase.ENDED, "a task ends once"
    task.phase = TaskPhase.ENDED
    task.failure = failure
    task.message = message
    node = state.nodes[task.node_no]
    del node.tasks[no, index]
    book(node, job.terms, task.devices, sign=-1)
    pool = state.pools[node.pool]
    pool.freed += 1
    pool.dirty = True


def attempts_ending(state: State, event: events.AttemptsEnding) -> None:
    """Attempts whose tasks were told to stop; what is not placed yet never will be."""
    rows = zip(event.job_nos, event.failures, event.messages, strict=True)
    for no, failure, message in rows:
        _begin_ending(state, state.jobs[no], failure, message)


def cancels_requested(state: State, event: events.CancelsRequested) -> None:
    """Users want jobs that have tasks to end."""
    rows = zip(event.job_nos, event.offsets, event.reasons, event.actors, strict=True)
    for no, offset, reason, actor in rows:
        job = state.jobs[no]
        job.cancel = Cancel(offset, reason, actor)
        if not job.is_ending:
            _begin_ending(state, job, FailureClass.CANCELLED, reason)


def _begin_ending(state: State, job: Job, failure: FailureClass, message: str) -> None:
    assert not job.is_ending, "an attempt begins to end once"
    if in_lane(job):
        leave_lane(state, job)
    job.ending = failure
    job.ending_message = message


def retries_scheduled(state: State, event: events.RetriesScheduled) -> None:
    """Attempts failed and others are due."""
    rows = zip(
        event.job_nos, event.due_ats, event.costs, event.failures, event.messages, strict=True
    )
    for no, due_at, cost, failure, message in rows:
        job = state.jobs[no]
        _close_attempt(state, job)
        set_state(state, job, JobState.RETRYING)
        job.retries_used += cost
        job.due_at = due_at
        job.failure = failure
        job.message = message
        heappush(state.timers, Timer(due_at, TimerKind.RETRY, no, job.attempt))


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


def jobs_cancelled(state: State, event: events.JobsCancelled) -> None:
    """Terminal: by request, or because a dependency can no longer be met."""
    for no, reason in zip(event.job_nos, event.reasons, strict=True):
        job = state.jobs[no]
        if not job.tasks and in_lane(job):
            leave_lane(state, job)
        for other in job.waits_for:
            state.dependents[other].remove(no)
            if not state.dependents[other]:
                del state.dependents[other]
                state.doomed.pop(other, None)
        job.waits_for = {}
        _end_job(state, no, JobState.CANCELLED, FailureClass.CANCELLED, reason)


def _close_attempt(state: State, job: Job) -> None:
    """The attempt is over: its tasks are known dead and leave the job."""
    assert all(task.phase is TaskPhase.ENDED for task in job.tasks.values()), "a task lives"
    if job.tasks and in_lane(job):
        leave_lane(state, job)
    job.tasks = {}
    job.ending = FailureClass.NONE
    job.ending_message = ""


def _end_job(state: State, no: int, new: JobState, failure: FailureClass, message: str) -> None:
    job = state.jobs[no]
    _close_attempt(state, job)
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
