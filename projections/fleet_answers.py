"""Queues, clusters and counts of the hot view as the API shows them. Pure. Read by `reads.py`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from projections.answers import (
    ClusterAnswer,
    CountsAnswer,
    GpuAnswer,
    NodeAnswer,
    QueueStatistics,
    QueueSummary,
)
from projections.hot_read import HotPool, HotQueue, Statistics
from projections.hot_rows import HotGpu, HotNode
from projections.job_answers import moment
from projections.policy_answers import job_defaults

WHOLE_GPU_MILLI = 1000
_COUNTERS = ("submitted", "started", "succeeded", "failed", "dead_letter", "cancelled")


def queue_summary(queue: HotQueue, now: int) -> QueueSummary:
    """A queue as it is now (UTC microseconds)."""
    age_us = max(now - queue.oldest_since, 0) if queue.oldest_since else None
    return QueueSummary(
        name=queue.row.name,
        cluster=queue.row.pool,
        state=queue.row.state,
        description=queue.row.description,
        depth=queue.waiting,
        processing=queue.active,
        retrying=queue.retrying,
        oldest_age_seconds=round(age_us / 1e6, 3) if age_us is not None else None,
        defaults=job_defaults(queue.row.defaults),
        retries_per_hour=queue.row.retries_per_hour,
    )


def queue_statistics(statistics: Statistics, since: int) -> QueueStatistics:
    """What happened since a moment."""
    return QueueStatistics(
        counted_from=counted_from([statistics], since),
        **_counts([statistics]),
        wait_p50_ms=statistics.wait_p50_us / 1000,
        wait_p99_ms=statistics.wait_p99_us / 1000,
        run_p50_ms=statistics.run_p50_us / 1000,
        run_p99_ms=statistics.run_p99_us / 1000,
    )


def counts_of(statistics: Iterable[Statistics]) -> CountsAnswer:
    """Counts of several shards together."""
    return CountsAnswer(**_counts(statistics))


def counted_from(statistics: Iterable[Statistics], since: int) -> datetime | None:
    """When counting began, where that is later than the window's begin."""
    latest = max((one.counted_from for one in statistics), default=0)
    return moment(latest) if latest > since else None


def cluster_answer(pool: HotPool) -> ClusterAnswer:
    """A cluster with its nodes and what is free on those that take something."""
    taking = [node for node in pool.nodes if not node.draining]
    return ClusterAnswer(
        name=pool.row.name,
        description=pool.row.description,
        retries="on" if pool.row.retries_on else "off",
        tenant_retries_per_hour=pool.row.tenant_retries_per_hour,
        waiting=pool.waiting,
        gpus=sum(len(node.gpus) for node in pool.nodes),
        gpus_free=sum(_free(node.gpus) for node in taking),
        cpu_milli=sum(node.cpu_milli for node in pool.nodes),
        cpu_free_milli=sum(node.cpu_free_milli for node in taking),
        memory_mib=sum(node.memory_mib for node in pool.nodes),
        memory_free_mib=sum(node.memory_free_mib for node in taking),
        nodes=[node_answer(node) for node in pool.nodes],
    )


def node_answer(node: HotNode) -> NodeAnswer:
    """One node."""
    registered = moment(node.registered_at)
    assert registered is not None, "a node is registered at a moment"
    return NodeAnswer(
        name=node.name,
        cluster=node.pool,
        incarnation=node.incarnation,
        address=node.address,
        draining=node.draining,
        registered_at=registered,
        tasks=node.tasks,
        cpu_milli=node.cpu_milli,
        cpu_free_milli=node.cpu_free_milli,
        memory_mib=node.memory_mib,
        memory_free_mib=node.memory_free_mib,
        gpus=[
            GpuAnswer(model=gpu.model, memory_mib=gpu.memory_mib, free_milli=gpu.free_milli)
            for gpu in node.gpus
        ],
        gpus_free=_free(node.gpus),
        extras=node.extras,
        extras_free=node.extras_free,
        labels=node.labels,
    )


def _free(gpus: Iterable[HotGpu]) -> int:
    return sum(gpu.free_milli == WHOLE_GPU_MILLI for gpu in gpus)


def _counts(statistics: Iterable[Statistics]) -> dict[str, int]:
    found = list(statistics)
    return {name: sum(one.counts.get(name, 0) for one in found) for name in _COUNTERS}
