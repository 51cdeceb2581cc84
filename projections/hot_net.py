"""What a batch of the log comes to in the hot view: its net effect, computed before anything is sent.

Pure. A job that was submitted, placed, started and ended within one batch costs the view one
removal. Reads a `ViewBatch` (or a whole state, to write a view anew); writes nothing. How the
effect is applied, all of it or nothing: `hot_batch.lua`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from projections.histogram import bucket
from projections.hot_rows import (
    Title,
    count_key,
    encode_job,
    encode_load,
    encode_node,
    encode_pool,
    encode_queue,
    nodes_of,
    queue_key,
    title_of,
)
from projections.pipeline import ViewBatch
from schemas import events
from schemas.events import Event
from schemas.ids import format_job_id
from schemas.terms import ENDED_STATES, JobState
from stream_processors.domain.state import Job, State

MINUTE_US = 60_000_000
PRIORITY_MAX = 100
PRIORITY_STEP = 1 << 46
"""More than a shard ever numbers jobs; times 101 priorities still exact in a Lua number."""

ALL_TENANTS = ""
"""No tenant is called so."""

FILL_JOBS = 2_000
"""Jobs in one step of writing a view anew: a step keeps the server busy for some milliseconds."""

SUBMITTED, STARTED, WAIT, RUN = "submitted", "started", "wait", "run"
"""Counters; `wait.N` and `run.N` are histograms of microseconds by bucket N (`histogram.py`)."""

ENDINGS: dict[type, str] = {
    events.JobsSucceeded: JobState.SUCCEEDED.value,
    events.JobsFailed: JobState.FAILED.value,
    events.JobsDeadLettered: JobState.DEAD_LETTER.value,
    events.JobsCancelled: JobState.CANCELLED.value,
}
"""Counters of ends, by the event that says them."""


@dataclass(slots=True)
class Group:
    """Jobs of one queue that changed: out of every set, then into those they belong to.

    The sets are flat (score, id) lists: `order` is the order of service in the pool, `waiting` and
    `active` are by the moment they came into their state, `retrying` by when they are due.
    """

    queue: str
    pool: str
    ids: list[str] = field(default_factory=list)
    order: list[int | str] = field(default_factory=list)
    waiting: list[int | str] = field(default_factory=list)
    active: list[int | str] = field(default_factory=list)
    retrying: list[int | str] = field(default_factory=list)


@dataclass(slots=True)
class MinuteCounts:
    """What happened in one minute (since 1970): flat (counter, amount) pairs."""

    minute: int
    counts: list[int | str]


@dataclass(slots=True)
class Net:
    """Everything that one script call changes. Lists of pairs are flat: field, value, field, …

    `loads` are by tenant, that of all of them by `ALL_TENANTS`; `unloaded` have none any more.
    """

    jobs: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    all_nodes: bool = False
    lost: list[str] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    queues: list[str] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)
    minutes: list[MinuteCounts] = field(default_factory=list)


@dataclass(slots=True)
class Memory:
    """What the next net effect needs and the state after a batch no longer says.

    `titles` of live jobs, so that a spec is decoded once; names of the nodes that held a job's
    tasks; the name of each registered incarnation; for each job that has not ended, who waits for
    it. Made from a state by `remember`, so it can be lost at any time.
    """

    titles: dict[int, Title] = field(default_factory=dict)
    nodes_of: dict[int, tuple[str, ...]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    waiters: dict[int, tuple[int, ...]] = field(default_factory=dict)


def remember(state: State) -> Memory:
    """The memory that goes with a view that holds exactly this state."""
    memory = Memory()
    memory.names = {node.no: node.name for node in state.nodes.values()}
    memory.waiters = {no: tuple(waiters) for no, waiters in state.dependents.items()}
    for job in state.jobs.values():
        if job.tasks:
            memory.nodes_of[job.no] = nodes_of(state, job)
    return memory


def net_effect(batch: ViewBatch, memory: Memory | None) -> Net:
    """The change from the state before the batch to the one after it.

    Without a memory of the state before, what cannot be known to be unchanged is written again:
    all nodes, every job that came back to its place in the queue, and every one that lost a node.
    """
    state = batch.state
    net = Net()
    jobs = dict(batch.changed)
    jobs.update(_unblocked(batch, memory))
    jobs.update(_bereft(batch, memory))
    _put_jobs(net, state, jobs.values(), memory)
    if memory is None:
        _put_all_nodes(net, state)
    else:
        _put_nodes(net, batch, memory)
    _put_queues(net, batch, jobs.values())
    _put_loads(net, state, dict.fromkeys(job.terms.tenant for job in batch.changed.values()))
    net.minutes = _count(batch)
    return net


def settle(batch: ViewBatch, memory: Memory) -> None:
    """Take the batch into the memory, once it is stored."""
    state = batch.state
    for no, job in batch.changed.items():
        if job.state in ENDED_STATES:
            memory.titles.pop(no, None)
            memory.waiters.pop(no, None)
        if job.tasks:
            memory.nodes_of[no] = nodes_of(state, job)
        else:
            memory.nodes_of.pop(no, None)
        for other in job.waits_for:
            waiters = state.dependents.get(other)
            if waiters:
                memory.waiters[other] = tuple(waiters)
    for event in _events(batch):
        if isinstance(event, events.NodeRegistered | events.NodesLost):
            memory.names = {node.no: node.name for node in state.nodes.values()}
            break


def whole_effects(state: State) -> Iterator[Net]:
    """A whole state in steps, for a generation with nothing in it."""
    net = Net()
    _put_all_nodes(net, state)
    for queue in state.queues.values():
        net.queues += [queue_key(queue.pool, queue.name), encode_queue(queue)]
    for pool in state.pools.values():
        net.pools += [pool.name, encode_pool(pool)]
    _put_loads(net, state, state.loads)
    yield net
    live = (job for job in state.jobs.values() if job.state not in ENDED_STATES)
    while step := list(islice(live, FILL_JOBS)):
        net = Net()
        _put_jobs(net, state, step, None)
        yield net


def order_score(job: Job) -> int:
    """Where a job stands in the order of service: higher priority first, then age."""
    return (PRIORITY_MAX - job.priority) * PRIORITY_STEP + job.no


def _put_jobs(net: Net, state: State, jobs: Iterable[Job], memory: Memory | None) -> None:
    groups: dict[str, Group] = {}
    for job in jobs:
        job_id = format_job_id(job.job_id)
        queue = queue_key(job.terms.pool, job.terms.queue)
        group = groups.get(queue)
        if group is None:
            group = groups[queue] = Group(queue, job.terms.pool)
        group.ids.append(job_id)
        if job.state in ENDED_STATES:
            net.ended.append(job_id)
            continue
        net.jobs += [job_id, encode_job(state, job, _title(job, memory))]
        _rank(group, job, job_id)
    net.groups = list(groups.values())


def _rank(group: Group, job: Job, job_id: str) -> None:
    if job.state is JobState.QUEUED:
        group.waiting += [job.changed_at, job_id]
        if not job.waits_for:
            group.order += [order_score(job), job_id]
    elif job.state is JobState.RETRYING:
        group.retrying += [job.due_at, job_id]
    else:
        group.active += [job.changed_at, job_id]


def _title(job: Job, memory: Memory | None) -> Title:
    if memory is None:
        return title_of(job)
    title = memory.titles.get(job.no)
    if title is None:
        title = memory.titles[job.no] = title_of(job)
    return title


def _unblocked(batch: ViewBatch, memory: Memory | None) -> dict[int, Job]:
    """Jobs that no event names and that may have got a place in the order of service."""
    state = batch.state
    if memory is None:
        lanes = (lane for pool in state.pools.values() for lane in pool.lanes.values())
        return {no: state.jobs[no] for lane in lanes for no in lane.returned}
    found = {}
    for no, job in batch.changed.items():
        if job.state in ENDED_STATES:
            for waiter in memory.waiters.get(no, ()):
                if waiter in state.jobs:
                    found[waiter] = state.jobs[waiter]
    return found


def _bereft(batch: ViewBatch, memory: Memory | None) -> dict[int, Job]:
    """Jobs that no event names and of whose nodes one is gone."""
    state = batch.state
    if memory is None:
        return {
            job.no: job
            for job in state.jobs.values()
            if any(task.node_no not in state.nodes for task in job.tasks.values())
        }
    gone = {name for number, name in memory.names.items() if number not in state.nodes}
    if not gone:
        return {}
    return {
        no: state.jobs[no]
        for no, names in memory.nodes_of.items()
        if no in state.jobs and not gone.isdisjoint(names)
    }


def _put_all_nodes(net: Net, state: State) -> None:
    net.all_nodes = True
    for node in state.nodes.values():
        net.nodes += [node.name, encode_node(node)]


def _put_nodes(net: Net, batch: ViewBatch, memory: Memory) -> None:
    state = batch.state
    for name in _touched_nodes(batch, memory):
        number = state.node_nos.get(name)
        if number is None:
            net.lost.append(name)
        else:
            net.nodes += [name, encode_node(state.nodes[number])]


def _touched_nodes(batch: ViewBatch, memory: Memory) -> dict[str, None]:
    """Names of the nodes that the batch may have changed, in a fixed order."""
    names = dict(memory.names)
    touched: dict[str, None] = {}
    for event in _events(batch):
        if isinstance(event, events.NodeRegistered):
            names[event.node_no] = event.node
            touched[event.node] = None
        for number in getattr(event, "node_nos", ()):
            touched[names[number]] = None
        for no in getattr(event, "job_nos", ()):
            touched.update(dict.fromkeys(memory.nodes_of.get(no, ())))
    return touched


def _put_queues(net: Net, batch: ViewBatch, jobs: Iterable[Job]) -> None:
    state = batch.state
    keys = {(job.terms.pool, job.terms.queue): None for job in jobs}
    pools = dict.fromkeys(pool for pool, _ in keys)
    for event in _events(batch):
        if isinstance(event, events.QueueChanged):
            keys[event.pool, event.name] = None
        elif isinstance(event, events.PoolChanged):
            pools[event.name] = None
    for pool, name in keys:
        net.queues += [queue_key(pool, name), encode_queue(state.queues[pool, name])]
    for name in pools:
        net.pools += [name, encode_pool(state.pools[name])]


def _put_loads(net: Net, state: State, tenants: Iterable[str]) -> None:
    """How much these tenants have that has not ended, and all tenants together."""
    for tenant in tenants:
        load = state.loads.get(tenant)
        if load is None:
            net.unloaded.append(tenant)
        else:
            net.loads += [tenant, encode_load(load)]
    if net.loads or net.unloaded:
        net.loads += [ALL_TENANTS, encode_load(state.load)]


def _count(batch: ViewBatch) -> list[MinuteCounts]:
    minutes: dict[int, Counter[str]] = {}
    for record in batch.records:
        at = record.record.at
        counts = minutes.setdefault(at // MINUTE_US, Counter())
        for event in record.events:
            _count_event(counts, batch.changed, event, at)
    return [
        MinuteCounts(minute, [part for pair in counts.items() for part in pair])
        for minute, counts in minutes.items()
        if counts
    ]


def _count_event(counts: Counter[str], jobs: dict[int, Job], event: Event, at: int) -> None:
    if isinstance(event, events.JobsSubmitted):
        for index, amount in Counter(event.terms_of).items():
            terms = event.terms[index]
            counts[count_key(SUBMITTED, queue_key(terms.pool, terms.queue))] += amount
        return
    if isinstance(event, events.JobsStarted):
        for no, attempt in zip(event.job_nos, event.attempts, strict=True):
            job = jobs[no]
            queue = queue_key(job.terms.pool, job.terms.queue)
            counts[count_key(STARTED, queue)] += 1
            if attempt == 1:
                counts[count_key(f"{WAIT}.{bucket(at - job.submitted_at)}", queue)] += 1
        return
    kind = ENDINGS.get(type(event))
    if kind is None:
        return
    for no in getattr(event, "job_nos", ()):
        job = jobs[no]
        queue = queue_key(job.terms.pool, job.terms.queue)
        counts[count_key(kind, queue)] += 1
        if job.started_at:
            counts[count_key(f"{RUN}.{bucket(at - job.started_at)}", queue)] += 1


def _events(batch: ViewBatch) -> Iterator[Event]:
    return (event for record in batch.records for event in record.events)
