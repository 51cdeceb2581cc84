"""Whether what the API needs is there: Kafka, PostgreSQL, Redis, and views that keep up.

Each check is bounded and says in words what is wrong. Reads ends of the shard logs and positions of
the views; changes nothing. A view is behind when it lacks more records than `LAG_MAX_RECORDS`. How
far it is behind is asked from here, not told by itself: a view whose process hangs says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from time import time_ns
from typing import TypeVar

from infra.kafka import KafkaUnavailable, Reader
from infra.postgres import DatabaseUnavailable
from infra.redis_store import StoreUnavailable
from projections.answers import CheckAnswer, HealthAnswer
from projections.hot_read import HotReader
from projections.pipeline import ViewUnavailable
from projections.queries import Queries, Standing
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


T = TypeVar("T")
_Outcome = Mapping[int, T] | str
"""Something by shard, or why it cannot be told."""


@dataclass(frozen=True, slots=True)
class ViewLag:
    """How far a view is behind on the shard where it is behind most.

    `seconds` is the age of the last record that it has taken in, so at most so long is missing.
    """

    records: int
    seconds: float


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
        kafka, audit, hot = await self._look()
        checks = [
            _check("kafka", kafka, lambda ends: f"{len(ends)} shards"),
            _check("postgres", audit, lambda _: "answers"),
            _check("redis", hot, lambda _: "answers"),
            _lag_check("audit view", _lag(kafka, audit)),
            _lag_check("hot view", _lag(kafka, hot)),
        ]
        is_well = all(check.ok for check in checks)
        return HealthAnswer(status="ok" if is_well else "degraded", checks=checks)

    async def lags(self) -> dict[str, ViewLag]:
        """How far each view is behind; one of which that cannot be told now is left out."""
        kafka, audit, hot = await self._look()
        found = {"audit": _lag(kafka, audit), "hot": _lag(kafka, hot)}
        return {view: lag for view, lag in found.items() if lag is not None}

    async def _look(self) -> tuple[_Outcome[int], _Outcome[Standing], _Outcome[Standing]]:
        return await asyncio.gather(
            _bounded(asyncio.to_thread(self._ends.of, self._shards)),
            _bounded(self._queries.positions()),
            _bounded(asyncio.to_thread(self._hot_stands)),
        )

    def close(self) -> None:
        """Give the connections back."""
        self._ends.close()

    def _hot_stands(self) -> dict[int, Standing]:
        found = {}
        for shard in self._shards:
            position = self._hot.position(shard)
            if position is not None:
                found[shard] = Standing(position.next_offset, position.commands, position.at)
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


async def _bounded(asked: Awaitable[Mapping[int, T]]) -> _Outcome[T]:
    try:
        return await asyncio.wait_for(asked, CHECK_TIMEOUT_S)
    except _FAILURES as error:
        return str(error) or f"no answer within {CHECK_TIMEOUT_S:g} s"


def _check(
    name: str, outcome: _Outcome[T], describe: Callable[[Mapping[int, T]], str]
) -> CheckAnswer:
    if isinstance(outcome, str):
        return CheckAnswer(name=name, ok=False, detail=outcome)
    return CheckAnswer(name=name, ok=True, detail=describe(outcome))


def _lag(ends: _Outcome[int], stands: _Outcome[Standing]) -> ViewLag | None:
    if isinstance(ends, str) or isinstance(stands, str):
        return None
    nowhere = Standing(0, 0, 0)
    worst = ViewLag(0, 0.0)
    for shard, end in ends.items():
        standing = stands.get(shard, nowhere)
        records = max(end - standing.next_offset, 0)
        if records:
            age_s = (time_ns() // 1000 - standing.at) / 1e6 if standing.at else 0.0
            worst = ViewLag(max(worst.records, records), max(worst.seconds, age_s))
    return worst


def _lag_check(name: str, lag: ViewLag | None) -> CheckAnswer:
    if lag is None:
        return CheckAnswer(name=name, ok=False, detail="unknown: see the checks above")
    behind = f"{lag.records} records behind; what it shows is {lag.seconds:.1f} s old"
    detail = behind if lag.records else "up to date"
    return CheckAnswer(name=name, ok=lag.records <= LAG_MAX_RECORDS, detail=detail)
