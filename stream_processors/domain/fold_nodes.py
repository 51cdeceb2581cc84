"""The fold of events about nodes, queues and pools. Called through `evolve` alone."""

from __future__ import annotations

from heapq import heappush

from schemas import events
from schemas.terms import FailureClass, JobState
from stream_processors.domain.fold_jobs import end_task
from stream_processors.domain.state import (
    WHOLE_GPU_MILLI,
    Node,
    Pool,
    Queue,
    State,
    Timer,
    TimerKind,
)


def pool_changed(state: State, event: events.PoolChanged) -> None:
    """A pool exists, with this description."""
    pool = state.pools.get(event.name)
    if pool is None:
        pool = state.pools[event.name] = Pool(event.name)
    pool.description = event.description
    pool.tenant_retries_per_hour = event.tenant_retries_per_hour
    resumes = event.retries_on and not pool.retries_on
    pool.retries_on = event.retries_on
    if resumes:
        _await_retries(state, pool)


def _await_retries(state: State, pool: Pool) -> None:
    """Retries count again: their timers may have been dropped while they were void."""
    for job in state.jobs.values():
        if job.state is JobState.RETRYING and job.terms.pool == pool.name:
            heappush(state.timers, Timer(job.due_at, TimerKind.RETRY, job.no, job.attempt))


def queue_changed(state: State, event: events.QueueChanged) -> None:
    """A queue exists, in this state."""
    key = (event.pool, event.name)
    queue = state.queues.get(key)
    if queue is None:
        queue = state.queues[key] = Queue(event.pool, event.name)
    queue.state = event.state
    queue.description = event.description
    queue.defaults = event.defaults
    queue.retries_per_hour = event.retries_per_hour
    pool = state.pools[event.pool]
    pool.freed += 1
    pool.dirty = True


def node_registered(state: State, event: events.NodeRegistered) -> None:
    """A new incarnation offers its room; what an earlier one of its name held is lost."""
    assert event.node_no == state.next_node_no, "node numbers are dense"
    assert event.incarnation > state.incarnations.get(event.node, -1), "incarnations only rise"
    earlier = state.node_nos.get(event.node)
    if earlier is not None:
        lose_node(state, earlier, "registered again")
    node = Node(
        no=event.node_no,
        name=event.node,
        pool=event.pool,
        incarnation=event.incarnation,
        address=event.address,
        cpu_milli=event.cpu_milli,
        memory_mib=event.memory_mib,
        gpus=event.gpus,
        extras=event.extras,
        labels=event.labels,
        lease_s=event.lease_s,
        registered_at=state.at,
        cpu_free=event.cpu_milli,
        memory_free=event.memory_mib,
        gpu_free=[WHOLE_GPU_MILLI] * len(event.gpus),
        extras_free={extra.name: extra.amount for extra in event.extras},
    )
    state.next_node_no += 1
    state.nodes[node.no] = node
    state.node_nos[node.name] = node.no
    state.incarnations[node.name] = node.incarnation
    pool = state.pools[node.pool]
    pool.nodes[node.no] = None
    pool.freed += 1
    pool.dirty = True


def nodes_draining(state: State, event: events.NodesDraining) -> None:
    """Incarnations take nothing new."""
    for node_no in event.node_nos:
        state.nodes[node_no].draining = True


def nodes_lost(state: State, event: events.NodesLost) -> None:
    """Incarnations are gone, with all that they held."""
    for node_no, reason in zip(event.node_nos, event.reasons, strict=True):
        lose_node(state, node_no, reason)


def lose_node(state: State, node_no: int, reason: str) -> None:
    """End what the incarnation held as `node_lost`, and drop it."""
    node = state.nodes[node_no]
    message = f"node {node.name} was lost: {reason}"
    for no, index in list(node.tasks):
        end_task(state, no, index, FailureClass.NODE_LOST, message)
    del state.nodes[node_no]
    del state.node_nos[node.name]
    del state.pools[node.pool].nodes[node_no]
