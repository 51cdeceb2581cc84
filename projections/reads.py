"""The views together: what lives from Redis, what was from PostgreSQL, as the API answers it.

Each answer says how far the view that it came from had consumed commands. A job is read from the
audit view and, where the hot view stands further, shown as that one knows it. Writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from time import time_ns
from typing import TypeVar

import structlog

from infra.http.tokens import CommandPlace
from infra.http.waiting import Consumed, is_reached
from projections.answers import (
    ClusterAnswer,
    ClusterList,
    CommandAnswer,
    CommandRow,
    DispatchAnswer,
    JobAnswer,
    JobList,
    MetricsAnswer,
    QueueAnswer,
    QueueList,
    ThroughputAnswer,
)
from projections.dlq.answers import depth_answer
from projections.dlq.queries import LetterQueries
from projections.fleet_answers import (
    cluster_answer,
    counted_from,
    counts_of,
    queue_statistics,
    queue_summary,
)
from projections.hot_read import HotReader, JobReading, Reading, Statistics
from projections.job_answers import (
    JobFacts,
    JobHistory,
    facts_of_row,
    job_answer,
    moment,
    summary,
    terms_of_row,
)
from projections.job_history import attempts_of, dependencies_of, spec_of_row
from projections.pipeline import ViewUnavailable
from projections.queries import JobRecord, Page, Queries, Row, Seen
from projections.read_ports import ViewName
from schemas.ids import parse_job_id, shard_of

T = TypeVar("T")
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
THROUGHPUT_S = 300
HOT_TIMEOUT_S = 3.0
LIVE_TIMEOUT_S = 1.0
"""A job can be shown without its live state, so less patience is enough."""
HOT_THREADS = 8

log = structlog.get_logger(__name__)


class ViewReads:
    """The `Reads` on both views of an installation with this many shards."""

    def __init__(self, queries: Queries, hot: HotReader, shards: int) -> None:
        """Owns neither view; the composer opens and closes them."""
        self._queries = queries
        self._hot = hot
        self._shards = range(shards)
        self._threads = ThreadPoolExecutor(HOT_THREADS, "hot-reads")

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def consumed(self, view: ViewName) -> Consumed:
        """How far a view has consumed commands."""
        if view == "audit":
            stands = await self._queries.positions()
            return {shard: place.commands for shard, place in stands.items()}
        found = {}
        for shard in self._shards:
            position = await self._ask(partial(self._hot.position, shard))
            if position is not None:
                found[shard] = position.commands
        return found

    async def job(self, job_id: str) -> Seen[JobAnswer | None]:
        """One job in full."""
        raw = parse_job_id(job_id)
        assert raw is not None, "the caller has parsed it"
        seen, live = await asyncio.gather(
            self._queries.job(job_id), self._live(shard_of(raw), job_id)
        )
        record = seen.value
        if record is None:
            return Seen(None, seen.consumed)
        facts, position = _latest(facts_of_row(record.job), record, live)
        history = JobHistory(
            actor=record.job["actor"],
            causation_id=record.job["causation_id"],
            redrives=str(record.job["redrives"]) if record.job["redrives"] is not None else None,
            queue_position=position,
            depends_on=dependencies_of(record.dependencies),
            attempts=attempts_of(record.attempts, record.tasks),
        )
        answer = job_answer(facts, terms_of_row(record.job), spec_of_row(record.job), history)
        return Seen(answer, seen.consumed)

    async def jobs(self, page: Page) -> Seen[JobList]:
        """A page of jobs."""
        seen = await self._queries.jobs(page)
        rows = seen.value[: page.limit]
        more = len(seen.value) > page.limit
        cursor = cursor_of(facts_of_row(rows[-1])) if more and rows else None
        found = [summary(facts_of_row(row)) for row in rows]
        return Seen(JobList(jobs=found, next_cursor=cursor), seen.consumed)

    async def command(self, place: CommandPlace) -> Seen[CommandAnswer | None]:
        """What became of a command."""
        seen = await self._queries.command(place)
        if not seen.value and is_reached(seen.consumed, (place,)):
            return Seen(None, seen.consumed)
        return Seen(_command(place, seen.value), seen.consumed)

    async def queues(self) -> Seen[QueueList]:
        """All queues."""
        readings = await self._each(self._hot.queues)
        found = [queue for queues in _values(readings) for queue in queues]
        now = _now()
        answer = QueueList(queues=[queue_summary(queue, now) for queue in found])
        return Seen(answer, _consumed(readings))

    async def queue(self, cluster: str, name: str) -> Seen[QueueAnswer | None]:
        """One queue with its last hour."""
        shard = self._hot.shard_of_pool(cluster)
        reading = await self._ask(lambda: self._hot.queue(cluster, name))
        since = _now() - HOUR_US
        counted = await self._ask(lambda: self._hot.statistics(shard, since, (cluster, name)))
        if reading is None or counted is None:
            raise ViewUnavailable(f"the hot view holds nothing of shard {shard} yet")
        consumed = {shard: reading.position.commands}
        if reading.value is None:
            return Seen(None, consumed)
        known = queue_summary(reading.value, _now())
        hour = queue_statistics(counted.value, since)
        return Seen(QueueAnswer(**known.model_dump(), last_hour=hour), consumed)

    async def clusters(self) -> Seen[ClusterList]:
        """All clusters with their nodes."""
        readings = await self._each(self._hot.pools)
        found = [cluster_answer(pool) for pools in _values(readings) for pool in pools]
        found.sort(key=lambda cluster: cluster.name)
        return Seen(ClusterList(clusters=found), _consumed(readings))

    async def cluster(self, name: str) -> Seen[ClusterAnswer | None]:
        """One cluster with its nodes."""
        shard = self._hot.shard_of_pool(name)
        reading = await self._ask(lambda: self._hot.pools(shard))
        if reading is None:
            raise ViewUnavailable(f"the hot view holds nothing of shard {shard} yet")
        found = next((pool for pool in reading.value if pool.row.name == name), None)
        consumed = {shard: reading.position.commands}
        return Seen(cluster_answer(found) if found is not None else None, consumed)

    async def metrics(self) -> Seen[MetricsAnswer]:
        """The installation in figures."""
        now = _now()
        day = await self._each(lambda shard: self._hot.statistics(shard, now - DAY_US))
        recent = await self._each(
            lambda shard: self._hot.statistics(shard, now - THROUGHPUT_S * 1_000_000)
        )
        queues = [
            queue for queues in _values(await self._each(self._hot.queues)) for queue in queues
        ]
        since = moment(now - DAY_US)
        assert since is not None
        answer = MetricsAnswer(
            last_24_hours=counts_of(_values(day)),
            counted_from=counted_from(_values(day), now - DAY_US),
            dispatch=_dispatch(await self._queries.dispatch(since)),
            throughput=_throughput(_values(recent)),
            jobs_now={
                "waiting": sum(queue.waiting for queue in queues),
                "active": sum(queue.active for queue in queues),
                "retrying": sum(queue.retrying for queue in queues),
            },
            dead_letters=depth_answer(await LetterQueries(self._queries).depth(), now),
        )
        return Seen(answer, _consumed(day))

    async def _live(self, shard: int, job_id: str) -> Reading[JobReading | None] | None:
        """The job as the hot view knows it; without that view the answer is only less fresh."""
        try:
            return await self._ask(lambda: self._hot.job(shard, job_id), LIVE_TIMEOUT_S)
        except ViewUnavailable as error:
            log.warning("a job is shown without its live state", reason=str(error))
            return None

    async def _each(self, look: Callable[[int], Reading[T] | None]) -> dict[int, Reading[T]]:
        """A reading of every shard that the hot view holds something of."""
        found = {}
        for shard in self._shards:
            reading = await self._ask(partial(look, shard))
            if reading is not None:
                found[shard] = reading
        return found

    async def _ask(self, look: Callable[[], T], timeout_s: float = HOT_TIMEOUT_S) -> T:
        """What the hot view answers, within a bound, without holding up the event loop."""
        asked = asyncio.get_running_loop().run_in_executor(self._threads, look)
        try:
            return await asyncio.wait_for(asked, timeout_s)
        except TimeoutError as error:
            raise ViewUnavailable(f"Redis: no answer within {timeout_s:g} s") from error


def cursor_of(facts: JobFacts) -> str:
    """Where a page ended, for `next_cursor`: submission time, shard and number of its last job."""
    row = facts.row
    return f"{row.submitted_at}.{row.shard}.{row.job_no}"


def _latest(
    facts: JobFacts, record: JobRecord, live: Reading[JobReading | None] | None
) -> tuple[JobFacts, int | None]:
    """The job as the view that stands further knows it, and its place in the order of service."""
    if live is None or live.value is None or live.position.next_offset < record.next_offset:
        return facts, None
    hot, rank = live.value.job, live.value.rank
    worker = hot.nodes[0] if hot.nodes else facts.worker_id
    position = rank + 1 if rank is not None else None
    return replace(facts, row=hot.row, worker_id=worker), position


def _command(place: CommandPlace, rows: list[Row]) -> CommandAnswer:
    """The answer of a command: of one row its own, of many refused if any was."""
    found = [
        CommandRow(
            row=row["row_no"],
            status=row["outcome"],
            code=row["code"] or None,
            message=row["message"] or None,
            job_id=str(row["job_id"]) if row["job_id"] is not None else None,
        )
        for row in rows
    ]
    worst = next((row for row in found if row.status == "refused"), found[0] if found else None)
    return CommandAnswer(
        position=str(place),
        status=worst.status if worst is not None else "pending",
        code=worst.code if worst is not None else None,
        message=worst.message if worst is not None else None,
        job_id=found[0].job_id if len(found) == 1 else None,
        decided_at=rows[0]["at"] if rows else None,
        rows=found if len(found) > 1 else [],
    )


def _dispatch(row: Row) -> DispatchAnswer:
    return DispatchAnswer(
        jobs=row["jobs"],
        p50_ms=round(float(row["p50_s"]) * 1000, 3),
        p99_ms=round(float(row["p99_s"]) * 1000, 3),
    )


def _throughput(statistics: Iterable[Statistics]) -> ThroughputAnswer:
    counts = counts_of(statistics)
    finished = counts.succeeded + counts.failed + counts.dead_letter + counts.cancelled
    return ThroughputAnswer(
        window_seconds=THROUGHPUT_S,
        submitted_per_second=round(counts.submitted / THROUGHPUT_S, 3),
        finished_per_second=round(finished / THROUGHPUT_S, 3),
    )


def _consumed(readings: Mapping[int, Reading[T]]) -> dict[int, int]:
    return {shard: reading.position.commands for shard, reading in readings.items()}


def _values(readings: Mapping[int, Reading[T]]) -> list[T]:
    return [reading.value for reading in readings.values()]


def _now() -> int:
    return time_ns() // 1000
