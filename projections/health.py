"""Whether what the API needs is there: Kafka, PostgreSQL, Redis, and views that keep up.

Each check is bounded and says in words what is wrong. Reads ends of the shard logs and positions of
the views; changes nothing. A view is behind when it lacks more records than `LAG_MAX_RECORDS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from threading import Lock

from infra.kafka import KafkaUnavailable, Reader
from infra.postgres import DatabaseUnavailable
from infra.redis_store import StoreUnavailable
from projections.answers import CheckAnswer, HealthAnswer
from projections.hot_read import HotReader
from projections.pipeline import ViewUnavailable
from projections.queries import Queries
from schemas.topics import LOG

CHECK_TIMEOUT_S = 3.0
LAG_MAX_RECORDS = 10_000

_FAILURES = (
    DatabaseUnavailable,
    KafkaUnavailable,
    StoreUnavailable,
    TimeoutError,
    ViewUnavailable,
)


class StackHealth:
    """The `Health` of an API process."""

    def __init__(self, bootstrap: str, queries: Queries, hot: HotReader, shards: int) -> None:
        """Owns neither view."""
        self._queries = queries
        self._hot = hot
        self._shards = range(shards)
        self._ends = _LogEnds(bootstrap)

    async def ready(self) -> HealthAnswer:
        """Each dependency, checked now and side by side."""
        kafka, audit, hot = await asyncio.gather(
            _bounded(asyncio.to_thread(self._ends.of, self._shards)),
            _bounded(self._audit_offsets()),
            _bounded(asyncio.to_thread(self._hot_offsets)),
        )
        checks = [
            _check("kafka", kafka, lambda ends: f"{len(ends)} shards"),
            _check("postgres", audit, lambda _: "answers"),
            _check("redis", hot, lambda _: "answers"),
            _lag("audit view", kafka, audit),
            _lag("hot view", kafka, hot),
        ]
        is_well = all(check.ok for check in checks)
        return HealthAnswer(status="ok" if is_well else "degraded", checks=checks)

    def close(self) -> None:
        """Give the connections back."""
        self._ends.close()

    async def _audit_offsets(self) -> dict[int, int]:
        return {shard: place[0] for shard, place in (await self._queries.positions()).items()}

    def _hot_offsets(self) -> dict[int, int]:
        found = {}
        for shard in self._shards:
            position = self._hot.position(shard)
            if position is not None:
                found[shard] = position.next_offset
        return found


class _LogEnds:
    """The ends of the shard logs. One caller at a time; the reader is made when first needed."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._reader: Reader | None = None
        self._lock = Lock()

    def of(self, shards: range) -> dict[int, int]:
        if not self._lock.acquire(timeout=CHECK_TIMEOUT_S):
            raise KafkaUnavailable("an earlier check still waits for its answer")
        try:
            if self._reader is None:
                self._reader = Reader(self._bootstrap)
            return {shard: self._reader.end_offset(LOG.name, shard) for shard in shards}
        finally:
            self._lock.release()

    def close(self) -> None:
        with self._lock:
            if self._reader is not None:
                self._reader.close()


_Offsets = Mapping[int, int]
_Outcome = _Offsets | str
"""Offsets by shard, or why there are none."""


async def _bounded(asked: Awaitable[_Offsets]) -> _Outcome:
    try:
        return await asyncio.wait_for(asked, CHECK_TIMEOUT_S)
    except _FAILURES as error:
        return str(error) or f"no answer within {CHECK_TIMEOUT_S:g} s"


def _check(name: str, outcome: _Outcome, describe: Callable[[_Offsets], str]) -> CheckAnswer:
    if isinstance(outcome, str):
        return CheckAnswer(name=name, ok=False, detail=outcome)
    return CheckAnswer(name=name, ok=True, detail=describe(outcome))


def _lag(name: str, ends: _Outcome, offsets: _Outcome) -> CheckAnswer:
    if isinstance(ends, str) or isinstance(offsets, str):
        return CheckAnswer(name=name, ok=False, detail="unknown: see the checks above")
    lags = {shard: max(end - offsets.get(shard, 0), 0) for shard, end in ends.items()}
    worst = max(lags.values(), default=0)
    detail = f"{worst} records behind" if worst else "up to date"
    return CheckAnswer(name=name, ok=worst <= LAG_MAX_RECORDS, detail=detail)
