"""First come, first fit: which waiting tasks get which nodes and devices now.

Lanes are served by priority, then by the age of their head; a shape that does not fit waits until
something is freed, and the others go on. A gang gets all its places or none.
Works on scratch copies of the nodes' free amounts and emits one `TasksPlaced`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace

from schemas.events import TasksPlaced
from schemas.terms import JobTerms, QueueState
from stream_processors.domain.capacity import (
    Free,
    admits,
    fit,
    free_of,
    how_many,
    take,
    whole,
)
from stream_processors.domain.draft import Draft
from stream_processors.domain.state import Job, Lane, Node, Pool, Shape, State

_Place = tuple[int, bytes]
SPEC_BYTES_MAX = 64 * 1024 * 1024
"""Of specs that one decision sends to nodes, about: so much fits into the sender's buffer."""
BLOCKED_SPARE = 1_000


@dataclass(slots=True)
class _Scratch:
    """Free amounts of nodes as this decision leaves them, and the placements so far."""

    state: State
    pool: Pool
    free: dict[int, Free] = field(default_factory=dict)
    rows: list[tuple[int, int, int, int, bytes]] = field(default_factory=list)
    admitting: dict[object, list[Node]] = field(default_factory=dict)
    spec_bytes: int = 0

    def candidates(self, lane: Lane) -> list[Node]:
        """The nodes that may take tasks of a lane, whatever is free, in their fixed order."""
        terms = lane.terms
        key = (terms.gpu_milli > 0, terms.gpu_models, terms.node_selector)
        if key not in self.admitting:
            nodes = [self.state.nodes[node_no] for node_no in self.pool.nodes]
            self.admitting[key] = [node for node in nodes if admits(node, terms)]
        return not_avoided(self.admitting[key], terms, lane.avoid)

    def room(self, node: Node) -> Free:
        """The scratch amounts of a node."""
        free = self.free.get(node.no)
        if free is None:
            free = self.free[node.no] = free_of(node)
        return free


@dataclass(slots=True)
class _Served:
    """One lane in this cycle: the jobs still to try, and the nodes that may still have room."""

    lane: Lane
    jobs: list[int]
    nodes: list[Node]
    next_job: int = 0
    next_node: int = 0


def not_avoided(nodes: list[Node], terms: JobTerms, avoid: tuple[str, ...]) -> list[Node]:
    """The nodes without those to keep off; all of them where the others, all free, do not do."""
    if not avoid:
        return nodes
    others = [node for node in nodes if node.name not in avoid]
    missing = terms.tasks if terms.is_gang else 1
    for node in others:
        missing -= how_many(node, whole(node), terms, missing)
        if not missing:
            return others
    return nodes


def shape_of(terms: JobTerms, avoid: tuple[str, ...]) -> Shape:
    """What placement asks of nodes: lanes of one shape fit or fail alike until something is freed."""
    return (
        terms.cpu_milli,
        terms.memory_mib,
        terms.gpu_milli,
        terms.extras,
        terms.gpu_models,
        terms.node_selector,
        terms.tasks if terms.is_gang else 1,
        avoid,
    )


def place(draft: Draft) -> None:
    """Place what fits in every pool in which something has changed."""
    for pool in draft.state.pools.values():
        if pool.dirty:
            _place_pool(draft, pool)


def _place_pool(draft: Draft, pool: Pool) -> None:
    pool.dirty = False
    if pool.blocked_at != pool.freed or len(pool.blocked) > len(pool.lanes) + BLOCKED_SPARE:
        pool.blocked.clear()
        pool.blocked_at = pool.freed
    scratch = _Scratch(draft.state, pool)
    heap = [
        (-lane.priority, lane.head(), order, lane)
        for order, lane in enumerate(pool.lanes.values())
        if shape_of(lane.terms, lane.avoid) not in pool.blocked and _is_served(draft.state, lane)
    ]
    heapify(heap)
    served: dict[int, _Served] = {}
    while heap:
        priority, no, order, lane = heap[0]
        if shape_of(lane.terms, lane.avoid) in pool.blocked:
            heappop(heap)
            continue
        if order not in served:
            served[order] = _begin(scratch, lane, draft.policy.placements_max)
        is_full = len(scratch.rows) >= draft.policy.placements_max
        if is_full or scratch.spec_bytes >= SPEC_BYTES_MAX:
            pool.dirty = True
            break
        following = _serve(scratch, served[order], draft.state.jobs[no])
        if following is None:
            heappop(heap)
        else:
            heapreplace(heap, (priority, following, order, lane))
    if scratch.rows:
        nos, attempts, tasks, node_nos, devices = zip(*scratch.rows, strict=True)
        draft.emit(
            TasksPlaced(list(nos), list(attempts), list(tasks), list(node_nos), list(devices))
        )


def _is_served(state: State, lane: Lane) -> bool:
    queue = state.queues[lane.terms.pool, lane.terms.queue]
    return queue.state is not QueueState.PAUSED


def _begin(scratch: _Scratch, lane: Lane, most: int) -> _Served:
    jobs = []
    for no in lane:
        jobs.append(no)
        if len(jobs) > most:
            break
    return _Served(lane, jobs, scratch.candidates(lane))


def _serve(scratch: _Scratch, served: _Served, job: Job) -> int | None:
    """Place one job of a lane; the next job's number, or None where the lane is done for now."""
    wanted = job.terms.tasks - len(job.tasks)
    places = _find_places(scratch, served, wanted)
    if job.terms.is_gang and len(places) < wanted:
        for node_no, devices in places:
            take(scratch.free[node_no], job.terms, devices, sign=-1)
        places = []
    scratch.spec_bytes += len(places) * len(job.spec)
    first = len(job.tasks)
    attempt = job.attempt if job.tasks else job.attempt + 1
    for index, (node_no, devices) in enumerate(places):
        scratch.rows.append((job.no, attempt, first + index, node_no, devices))
    if len(places) < wanted:
        scratch.pool.blocked.add(shape_of(job.terms, job.avoid))
        return None
    served.next_job += 1
    return served.jobs[served.next_job] if served.next_job < len(served.jobs) else None


def _find_places(scratch: _Scratch, served: _Served, wanted: int) -> list[_Place]:
    """Up to `wanted` places, booked on the scratch, in the fixed order of the nodes.

    Tasks of one lane are alike: a node that had no room for one has none for the next, so the
    walk goes on where it stopped.
    """
    terms = served.lane.terms
    places: list[_Place] = []
    while len(places) < wanted and served.next_node < len(served.nodes):
        node = served.nodes[served.next_node]
        free = scratch.room(node)
        devices = fit(node, free, terms)
        if devices is None:
            served.next_node += 1
            continue
        take(free, terms, devices)
        places.append((node.no, devices))
    return places
