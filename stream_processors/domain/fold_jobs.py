"""The fold of events about jobs that live: how each changes the state. Called through `evolve` alone.

No choice is made here: an event that does not fit the state is a bug and fails an assertion. How
attempts and jobs end is in `fold_ends.py`.
"""

from __future__ import annotations

from heapq import heappush

from schemas import events
from schemas.ids import JOB_ID_BYTES
from schemas.terms import FailureClass, JobState, JobTerms
from stream_processors.domain.capacity import book
from stream_processors.domain.retries import SECOND_US
from stream_processors.domain.state import (
    Cancel,
    Job,
    Lane,
    Load,
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


def lane_of(state: State, job: Job) -> Lane:
    """The lane of a job, made where there is none."""
    lanes = state.pools[job.terms.pool].lanes
    key = (job.priority, job.terms, job.avoid)
    lane = lanes.get(key)
    if lane is None:
        lane = lanes[key] = Lane(*key)
    return lane


def enter_lane(state: State, job: Job) -> None:
    """Put a job (back) at its place by age."""
    lane_of(state, job).give_back(job.no)
    state.pools[job.terms.pool].dirty = True


def leave_lane(state: State, job: Job) -> None:
    """Take a job out of its lane; an empty lane goes."""
    lanes = state.pools[job.terms.pool].lanes
    key = (job.priority, job.terms, job.avoid)
    lane = lanes[key]
    lane.remove(job.no)
    if not lane:
        del lanes[key]


def jobs_submitted(state: State, event: events.JobsSubmitted) -> None:
    """New jobs, queued; those without dependencies enter their lanes."""
    assert event.first_no == state.next_no, "job numbers are dense"
    waits: dict[int, dict[int, bool]] = {}
    for row, no, succeeds in zip(event.dep_rows, event.dep_nos, event.dep_succeeds, strict=True):
        waits.setdefault(row, {})[no] = succeeds
    for row, index in enumerate(event.terms_of):
        _add_job(state, event, row, event.terms[index], waits.get(row))
    causes = zip(event.cause_rows, event.causation_ids, event.redrives, strict=True)
    for row, causation_id, redrives in causes:
        job = state.jobs[event.first_no + row]
        job.causation_id = causation_id
        job.redrives = redrives
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
    load_job(state, job, 1)
    if waits:
        job.waits_for = waits
        for no in waits:
            state.dependents.setdefault(no, []).append(job.no)
    else:
        lane_of(state, job).fresh[job.no] = None
        state.pools[terms.pool].dirty = True
    if terms.deadline_s > 0:
        due = job.submitted_at + terms.deadline_s * SECOND_US
        heappush(state.timers, Timer(due, TimerKind.DEADLINE, job.no, 0))


def load_job(state: State, job: Job, sign: int) -> None:
    """Count a job that has not ended (or, with sign -1, one that now has)."""
    tenant = job.terms.tenant
    load = state.loads.get(tenant)
    if load is None:
        load = state.loads[tenant] = Load()
    for counted in (load, state.load):
        counted.jobs += sign
        counted.spec_bytes += sign * len(job.spec)
    if not load.jobs:
        del state.loads[tenant]


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
        job.tasks[index] = Task(node_no, node.name, devices, state.seq)
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
    for row, tail in zip(event.tail_rows, event.tails, strict=True):
        state.jobs[event.job_nos[row]].tasks[event.tasks[row]].tail = tail


def end_task(state: State, no: int, index: int, failure: FailureClass, message: str) -> None:
    """A task is dead: its room on its node is free again."""
    job = state.jobs[no]
    task = job.tasks[index]
    assert task.phase is not TaskPhase.ENDED, "a task ends once"
    task.reached = task.phase
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


def deadlines_passed(state: State, event: events.DeadlinesPassed) -> None:
    """Jobs with tasks are out of time for good."""
    for no in event.job_nos:
        state.jobs[no].overdue = True
