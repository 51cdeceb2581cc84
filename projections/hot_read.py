"""The hot view's reading side: jobs that live, queue depths, nodes and pools, rates and waits.

Every answer comes with the position that it reflects, and is taken in one script call: no reading
mixes two batches or two generations. Writes nothing. A pool's shard follows from its name.
Raises `ViewUnavailable` where the server does not answer; `None` where the view holds nothing yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from infra.redis_store import RedisStore, StoreUnavailable
from projections.histogram import quantile
from projections.hot import READ
from projections.hot_keys import REGISTRY, decode_position, meta
from projections.hot_net import MINUTE_US, RUN, WAIT
from projections.hot_rows import (
    HotJob,
    HotNode,
    PoolRow,
    QueueRow,
    decode_job,
    decode_load,
    decode_node,
    decode_pool,
    decode_queue,
    parse_count,
    queue_key,
)
from projections.pipeline import Position, ViewUnavailable
from schemas.ids import partition_of
from stream_processors.domain.state import Load

T = TypeVar("T")
LOOKS = 3
"""Generations can change between a look into the registry and the reading, hardly thrice."""


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """An answer, and where in its shard's log the view stood when it was true."""

    position: Position
    value: T


@dataclass(frozen=True, slots=True)
class JobReading:
    """A live job and its place in its pool's order of service, 0 for the next; None if not in it.

    Jobs that wait for others have no place; jobs of paused queues keep theirs.
    """

    job: HotJob
    rank: int | None


@dataclass(frozen=True, slots=True)
class HotQueue:
    """A queue with its depths: jobs queued, scheduled or running, and waiting out a backoff.

    `oldest_since` is when the job that waits longest was queued (UTC microseconds), 0 for none.
    """

    row: QueueRow
    waiting: int
    active: int
    retrying: int
    oldest_since: int


@dataclass(frozen=True, slots=True)
class HotPool:
    """A pool, its nodes, and how many jobs stand in its order of service."""

    row: PoolRow
    waiting: int
    nodes: tuple[HotNode, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What happened from a minute on: counts of jobs, and waits and runs in microseconds.

    `counts` has `submitted`, `started` (attempts) and every state in which jobs ended. A wait is
    from the submission to the first start, a run from the first start to the end; quantiles are
    within 1/16 of the truth. `counted_from` is when the view began to count (UTC microseconds),
    0 for the log's beginning.
    """

    counted_from: int
    counts: dict[str, int]
    wait_p50_us: int
    wait_p99_us: int
    run_p50_us: int
    run_p99_us: int


class HotReader:
    """Readings of the live generations. `shards` is the installation's number of shards."""

    def __init__(self, url: str, shards: int) -> None:
        """Connects at the first reading; may be shared by threads."""
        self._store = RedisStore(url)
        self._shards = shards
        self._live: dict[int, int] = {}

    def shard_of_pool(self, pool: str) -> int:
        """The shard that a pool lives on."""
        return partition_of(pool, self._shards)

    def position(self, shard: int) -> Position | None:
        """Where the view of this shard stands."""
        answer = self._ask(shard, "position")
        return None if answer is None else answer.position

    def job(self, shard: int, job_id: str) -> Reading[JobReading | None] | None:
        """A live job by its id; the value is None where no job of that id lives."""
        answer = self._ask(shard, "job", job_id)
        if answer is None:
            return None
        row, rank = answer.value
        found = None if row is None else JobReading(decode_job(row), rank)
        return Reading(answer.position, found)

    def waiting_rank(self, job: HotJob) -> Reading[int | None] | None:
        """The job's place in its pool's order of service, as `JobReading.rank`."""
        answer = self.job(job.row.shard, job.row.job_id)
        if answer is None:
            return None
        return Reading(answer.position, None if answer.value is None else answer.value.rank)

    def queue(self, pool: str, name: str) -> Reading[HotQueue | None] | None:
        """One queue with its depths; the value is None where there is no such queue."""
        answer = self._ask(self.shard_of_pool(pool), "queue", queue_key(pool, name))
        if answer is None:
            return None
        row = answer.value[0]
        return Reading(answer.position, None if row[0] is None else _queue(row))

    def queues(self, shard: int) -> Reading[list[HotQueue]] | None:
        """Every queue of a shard, by pool and name."""
        answer = self._ask(shard, "queues")
        if answer is None:
            return None
        found = [_queue(row) for row in answer.value[0]]
        found.sort(key=lambda queue: (queue.row.pool, queue.row.name))
        return Reading(answer.position, found)

    def nodes(self, pool: str) -> Reading[list[HotNode]] | None:
        """Every registered node of a pool, by name."""
        answer = self._ask(self.shard_of_pool(pool), "nodes")
        if answer is None:
            return None
        found = [node for node in map(decode_node, answer.value[0]) if node.pool == pool]
        return Reading(answer.position, sorted(found, key=lambda node: node.name))

    def pools(self, shard: int) -> Reading[list[HotPool]] | None:
        """Every pool of a shard with its nodes, by name."""
        answer = self._ask(shard, "pools")
        if answer is None:
            return None
        rows, nodes = answer.value
        by_pool: dict[str, list[HotNode]] = defaultdict(list)
        for node in sorted(map(decode_node, nodes), key=lambda node: node.name):
            by_pool[node.pool].append(node)
        found = []
        for row, waiting in rows:
            pool = decode_pool(row)
            found.append(HotPool(pool, waiting, tuple(by_pool[pool.name])))
        return Reading(answer.position, sorted(found, key=lambda pool: pool.row.name))

    def loads(self, shard: int, tenant: str) -> Reading[tuple[Load, Load]] | None:
        """What has not ended on a shard: of all tenants, and of this one."""
        answer = self._ask(shard, "loads", tenant)
        if answer is None:
            return None
        everyone, one = map(decode_load, answer.value)
        return Reading(answer.position, (everyone, one))

    def statistics(
        self, shard: int, since: int, queue: tuple[str, str] | None = None
    ) -> Reading[Statistics] | None:
        """What happened since a moment (UTC microseconds, whole minutes, at most 24 hours back).

        Of one queue (pool, name), or of the whole shard.
        """
        answer = self._ask(shard, "counts", str(since // MINUTE_US))
        if answer is None:
            return None
        flat, counted_from = answer.value
        wanted = None if queue is None else queue_key(*queue)
        return Reading(answer.position, _statistics(flat, int(counted_from or 0), wanted))

    def close(self) -> None:
        """Give the connections back."""
        self._store.close()

    def _ask(self, shard: int, *asked: str) -> Reading[Sequence[Any]] | None:
        """One reading of the live generation, which is looked up where it has changed."""
        try:
            for _ in range(LOOKS):
                generation = self._live.get(shard)
                if generation is not None:
                    answer = self._store.run(READ, [meta(shard, generation)], asked)
                    if answer:
                        return Reading(decode_position(answer[0]), answer[1])
                live = self._store.get_fields(REGISTRY).get(f"live:{shard}")
                if live is None:
                    return None
                self._live[shard] = int(live)
        except StoreUnavailable as error:
            raise ViewUnavailable(f"Redis: {error}") from error
        return None


def _queue(row: Sequence[Any]) -> HotQueue:
    stored, waiting, active, retrying, oldest = row
    return HotQueue(decode_queue(stored), waiting, active, retrying, int(oldest))


def _statistics(flat: Sequence[Any], counted_from: int, wanted: str | None) -> Statistics:
    counts: dict[str, int] = defaultdict(int)
    histograms: dict[str, dict[int, int]] = {WAIT: defaultdict(int), RUN: defaultdict(int)}
    for name, amount in zip(flat[::2], flat[1::2], strict=True):
        kind, queue = parse_count(name.decode())
        if wanted is not None and queue != wanted:
            continue
        word, _, index = kind.partition(".")
        if word in histograms:
            histograms[word][int(index)] += int(amount)
        else:
            counts[kind] += int(amount)
    return Statistics(
        counted_from=counted_from,
        counts=dict(counts),
        wait_p50_us=quantile(histograms[WAIT], 500),
        wait_p99_us=quantile(histograms[WAIT], 990),
        run_p50_us=quantile(histograms[RUN], 500),
        run_p99_us=quantile(histograms[RUN], 990),
    )
