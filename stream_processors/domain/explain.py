"""Why is it (not) running? A function of the state, so it can be asked of any past moment.

Reads the state, writes nothing. Reasons are stable codes for programs with sentences for people.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from schemas.ids import format_job_id
from schemas.terms import ENDED_STATES, JobState, QueueState
from stream_processors.domain.capacity import free_of, how_many, shortage, whole
from stream_processors.domain.placement import not_avoided
from stream_processors.domain.state import Job, Node, Pool, State, TaskPhase


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that holds a job where it is."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a job waits for. `position` counts from 1 in its pool, 0 where it does not wait.

    `at` is the moment of the state that was asked (UTC microseconds).
    """

    job_id: str
    state: JobState
    at: int
    position: int
    reasons: tuple[Reason, ...]


def explain(state: State, job_id: bytes) -> Explanation | None:
    """Why the job stands where it stands; None for a job that the fold does not know."""
    no = state.nos.get(job_id)
    if no is None:
        return None
    job = state.jobs[no]
    position = _position(state, job) if job.state is JobState.QUEUED else 0
    reasons = tuple(_reasons(state, job, position))
    return Explanation(format_job_id(job_id), job.state, state.at, position, reasons)


def _reasons(state: State, job: Job, position: int) -> list[Reason]:
    if job.state in ENDED_STATES:
        said = f": {job.message}" if job.message else ""
        return [Reason("ended", f"the job has ended as {job.state.value}{said}")]
    if job.is_ending:
        living = sum(task.phase is not TaskPhase.ENDED for task in job.tasks.values())
        why = job.ending.value
        message = f"attempt {job.attempt} is being stopped ({why}); {living} tasks still live"
        return [Reason("ending", message)]
    if job.state is JobState.RETRYING and not state.pools[job.terms.pool].retries_on:
        message = (
            f"attempt {job.attempt} failed ({job.failure.value}), and retries are switched off in"
            f" cluster {job.terms.pool!r}; they go on once they are switched on"
        )
        return [Reason("retries_off", message)]
    if job.state is JobState.RETRYING:
        wait = max(0, job.due_at - state.at) // 1_000_000
        message = f"attempt {job.attempt} failed ({job.failure.value}); the next is due in {wait} s"
        return [Reason("backoff", message)]
    if job.state is JobState.RUNNING and len(job.tasks) == job.terms.tasks:
        return [Reason("running", f"attempt {job.attempt} runs")]
    if job.state is JobState.SCHEDULED and len(job.tasks) == job.terms.tasks:
        return [_starting(job)]
    return _waiting(state, job, position)


def _starting(job: Job) -> Reason:
    if not job.terms.is_gang:
        return Reason("starting", f"attempt {job.attempt} is placed; its node has not started it")
    ready = sum(task.phase >= TaskPhase.READY for task in job.tasks.values())
    message = f"{ready} of {job.terms.tasks} gang members are ready at the barrier"
    return Reason("barrier", message)


def _waiting(state: State, job: Job, position: int) -> list[Reason]:
    if job.waits_for:
        names = ", ".join(format_job_id(state.jobs[no].job_id) for no in job.waits_for)
        return [Reason("dependencies", f"waits for {names}")]
    queue = state.queues[job.terms.pool, job.terms.queue]
    if queue.state is QueueState.PAUSED:
        return [Reason("queue_paused", f"queue {queue.name!r} is paused; open it to start jobs")]
    pool = state.pools[job.terms.pool]
    found = _capacity(state, pool, job)
    if position > 1:
        ahead = f"{position - 1} jobs of cluster {pool.name!r} are served before it"
        found.append(Reason("behind", ahead))
    return found


def _capacity(state: State, pool: Pool, job: Job) -> list[Reason]:
    everywhere = [state.nodes[node_no] for node_no in pool.nodes]
    nodes = not_avoided(everywhere, job.terms, job.avoid)
    if not nodes:
        message = f"cluster {pool.name!r} has no nodes; start an agent for it"
        return [Reason("no_nodes", message)]
    wanted = job.terms.tasks - len(job.tasks)
    possible = sum(how_many(node, whole(node), job.terms, wanted) for node in nodes)
    if possible < (wanted if job.terms.is_gang else 1):
        return [Reason("never_fits", _never(job, possible))]
    now = sum(how_many(node, free_of(node), job.terms, wanted) for node in nodes)
    if now >= (wanted if job.terms.is_gang else 1):
        return [Reason("next_decision", "there is room; it is placed with the next decision")]
    found = _shortages(nodes, job)
    if job.terms.is_gang:
        message = f"room for {now} of {wanted} gang members; all start together"
        found.insert(0, Reason("gang_room", message))
    if len(nodes) < len(everywhere):
        message = f"it keeps off nodes where it failed: {', '.join(job.avoid)}"
        found.append(Reason("avoids", message))
    return found


def _never(job: Job, possible: int) -> str:
    if job.terms.is_gang and possible:
        return f"the cluster, all free, has room for {possible} of {job.terms.tasks} members"
    return "no node of the cluster, all free, has room for one task; ask for less or add nodes"


def _shortages(nodes: list[Node], job: Job) -> list[Reason]:
    found = Counter(shortage(node, free_of(node), job.terms) for node in nodes)
    del found[""]
    return [
        Reason("no_room", f"{count} of {len(nodes)} nodes: {what}")
        for what, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))
    ]


def _position(state: State, job: Job) -> int:
    """1 + how many waiting jobs of the pool are served before this one."""
    if job.waits_for:
        return 0
    ahead = 0
    for lane in state.pools[job.terms.pool].lanes.values():
        if lane.priority > job.priority:
            ahead += len(lane)
        elif lane.priority == job.priority:
            ahead += sum(no < job.no for no in lane)
    return ahead + 1
