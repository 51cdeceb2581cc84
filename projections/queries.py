"""Questions to the audit view in PostgreSQL: one job in full, lists, commands, dispatch times.

Reads the views of the schema `foldline` (`migrations/readers.sql`), each answer as of one moment and
with the command offsets that the view had consumed by then. Writes nothing. Raises
`ViewUnavailable` where the server does not answer or no generation is live yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import update_wrapper
from typing import Any, Concatenate, Generic, LiteralString, ParamSpec, TypeVar

import structlog

from infra.http.tokens import CommandPlace
from infra.http.waiting import Consumed
from infra.postgres import DatabaseUnavailable, ReadPool, ReadSession, micros
from projections.pipeline import ViewUnavailable

P = ParamSpec("P")
T = TypeVar("T")
Row = dict[str, Any]

SCHEMA = "foldline"
ATTEMPTS_MAX = 100
TASKS_MAX = 2_000
"""Newest first: a gang of thousands that was retried often would fill an answer."""
COMMAND_ROWS_MAX = 10_000
DISPATCH_SAMPLE = 10_000
QUERY_TIMEOUT_S = 3.0

log = structlog.get_logger(__name__)

_POSITIONS = "SELECT shard, next_offset, commands, at FROM foldline.positions"

_JOB = """
SELECT j.*, t.node AS worker_id
FROM foldline.jobs AS j
LEFT JOIN foldline.tasks AS t
    ON (t.shard, t.job_no, t.attempt, t.task) = (j.shard, j.job_no, j.attempt, 0)
WHERE j.job_id = %(job_id)s::uuid
ORDER BY j.job_no DESC
LIMIT 1
"""
"""A key that was forgotten and used again gives the same id to another job: the latest counts."""

_ATTEMPTS = """
SELECT attempt, placed_at, started_at, ended_at, failure, message, fingerprint
FROM foldline.attempts
WHERE (shard, job_no) = (%(shard)s, %(job_no)s)
ORDER BY attempt DESC
LIMIT %(limit)s
"""

_TASKS = """
SELECT attempt, task, node, incarnation, devices, placed_at, started_at, ended_at, exit_code,
    failure, message, log_tail
FROM foldline.tasks
WHERE (shard, job_no) = (%(shard)s, %(job_no)s)
ORDER BY attempt DESC, task
LIMIT %(limit)s
"""

_DEPENDENCIES = """
SELECT needs_id, must_succeed
FROM foldline.dependencies
WHERE (shard, job_no) = (%(shard)s, %(job_no)s)
ORDER BY needs_no
"""

_JOBS = """
SELECT j.*, t.node AS worker_id
FROM (
    SELECT shard, job_no, job_id, tenant, pool, queue, job_type, name, state, priority, attempt,
        retries_used, submitted_at, due_at, started_at, ended_at, failure, message
    FROM foldline.jobs
    WHERE (submitted_at, shard, job_no)
            < (%(at)s::timestamptz, %(shard)s::integer, %(job_no)s::bigint)
        AND (%(status)s::text[] IS NULL OR state = ANY(%(status)s))
        AND (%(job_type)s::text IS NULL OR job_type = %(job_type)s)
        AND (%(queue)s::text IS NULL OR queue = %(queue)s)
        AND (%(cluster)s::text IS NULL OR pool = %(cluster)s)
        AND (%(priority_min)s::bigint IS NULL OR priority >= %(priority_min)s)
    ORDER BY submitted_at DESC, shard DESC, job_no DESC
    LIMIT %(limit)s OFFSET %(offset)s
) AS j
LEFT JOIN foldline.tasks AS t
    ON (t.shard, t.job_no, t.attempt, t.task) = (j.shard, j.job_no, j.attempt, 0)
ORDER BY j.submitted_at DESC, j.shard DESC, j.job_no DESC
"""

_COMMAND = """
SELECT row_no, at, outcome, code, message, job_id
FROM foldline.commands
WHERE (shard, command_offset) = (%(shard)s, %(offset)s)
ORDER BY row_no NULLS FIRST, job_no
LIMIT %(limit)s
"""

_DISPATCH = """
SELECT count(*) AS jobs,
    coalesce(extract(epoch FROM percentile_disc(0.5) WITHIN GROUP (ORDER BY took)), 0) AS p50_s,
    coalesce(extract(epoch FROM percentile_disc(0.99) WITHIN GROUP (ORDER BY took)), 0) AS p99_s
FROM (
    SELECT a.placed_at - j.submitted_at AS took
    FROM foldline.jobs AS j
    JOIN foldline.attempts AS a ON (a.shard, a.job_no, a.attempt) = (j.shard, j.job_no, 1)
    WHERE j.submitted_at >= %(since)s::timestamptz
    ORDER BY j.submitted_at DESC, j.shard DESC, j.job_no DESC
    LIMIT %(sample)s
) AS newest
"""


def _bounded(
    ask: Callable[Concatenate[Queries, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Queries, P], Coroutine[Any, Any, T]]:
    """A question that is given up on after `QUERY_TIMEOUT_S`.

    The server's own limit does not hold where the server hangs, and a query that is cancelled waits
    for the server once more: it is left to end on its own.
    """

    async def asked(queries: Queries, /, *args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.ensure_future(ask(queries, *args, **kwargs))
        try:
            await asyncio.wait({task}, timeout=QUERY_TIMEOUT_S)
        finally:
            if not task.done():
                task.cancel()
                queries.left_behind.add(task)
                task.add_done_callback(queries.forget)
        if not task.done():
            raise ViewUnavailable(f"PostgreSQL: no answer within {QUERY_TIMEOUT_S:g} s")
        return task.result()

    update_wrapper(asked, ask)
    return asked


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """An answer, and how far the view that it came from had consumed commands."""

    value: T
    consumed: Consumed


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a view stands on one shard.

    The next offset of the log, the first command that was not consumed, and the time of the last
    record that was taken in (UTC microseconds).
    """

    next_offset: int
    commands: int
    at: int


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job's rows; attempts and tasks the newest first, bounded."""

    job: Row
    next_offset: int
    attempts: list[Row] = field(default_factory=list)
    tasks: list[Row] = field(default_factory=list)
    dependencies: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Page:
    """Which jobs, from where on: strictly older than (at, shard, job_no)."""

    at: datetime | str
    shard: int
    job_no: int
    limit: int
    offset: int
    status: list[str] | None = None
    job_type: str | None = None
    queue: str | None = None
    cluster: str | None = None
    priority_min: int | None = None


class Queries:
    """The audit view, asked through a pool of connections that this owns."""

    def __init__(self, dsn: str) -> None:
        """Connects in `open`."""
        self._pool = ReadPool(dsn, SCHEMA)
        self._is_there = False
        self.left_behind: set[asyncio.Future[Any]] = set()

    async def open(self) -> None:
        """Start connecting; a server that is down is no error yet."""
        await self._pool.open()

    async def close(self) -> None:
        """Give the connections back."""
        await self._pool.close()

    @_bounded
    async def positions(self) -> dict[int, Standing]:
        """Where the view stands, by shard."""
        async with self._snapshot() as session:
            rows = await session.fetch(_POSITIONS)
            return {
                row["shard"]: Standing(row["next_offset"], row["commands"], micros(row["at"]))
                for row in rows
            }

    @_bounded
    async def job(self, job_id: str) -> Seen[JobRecord | None]:
        """One job with its history. `job_id` must be a job id in its usual form."""
        async with self._snapshot() as session:
            positions = await session.fetch(_POSITIONS)
            found = await session.fetch(_JOB, {"job_id": job_id})
            if not found:
                return Seen(None, _consumed(positions))
            job = found[0]
            key = {"shard": job["shard"], "job_no": job["job_no"]}
            offsets = {row["shard"]: row["next_offset"] for row in positions}
            record = JobRecord(
                job=job,
                next_offset=offsets.get(job["shard"], 0),
                attempts=await session.fetch(_ATTEMPTS, {**key, "limit": ATTEMPTS_MAX}),
                tasks=await session.fetch(_TASKS, {**key, "limit": TASKS_MAX}),
                dependencies=await session.fetch(_DEPENDENCIES, key),
            )
            return Seen(record, _consumed(positions))

    @_bounded
    async def job_row(self, job_id: str) -> Row | None:
        """The job's own row alone."""
        async with self._snapshot() as session:
            found = await session.fetch(_JOB, {"job_id": job_id})
            return found[0] if found else None

    @_bounded
    async def jobs(self, page: Page) -> Seen[list[Row]]:
        """A page of jobs, the newest first, and one more where there is one."""
        values = {
            "at": page.at,
            "shard": page.shard,
            "job_no": page.job_no,
            "limit": page.limit + 1,
            "offset": page.offset,
            "status": page.status,
            "job_type": page.job_type,
            "queue": page.queue,
            "cluster": page.cluster,
            "priority_min": page.priority_min,
        }
        async with self._snapshot() as session:
            positions = await session.fetch(_POSITIONS)
            return Seen(await session.fetch(_JOBS, values), _consumed(positions))

    @_bounded
    async def command(self, place: CommandPlace) -> Seen[list[Row]]:
        """What became of a command, row by row; empty where nothing was said of it."""
        values = {"shard": place.shard, "offset": place.offset, "limit": COMMAND_ROWS_MAX}
        async with self._snapshot() as session:
            positions = await session.fetch(_POSITIONS)
            return Seen(await session.fetch(_COMMAND, values), _consumed(positions))

    @_bounded
    async def fetch(self, query: LiteralString, values: Mapping[str, Any]) -> Seen[list[Row]]:
        """The rows of a query on the view, and how far it had come then."""
        async with self._snapshot() as session:
            positions = await session.fetch(_POSITIONS)
            return Seen(await session.fetch(query, values), _consumed(positions))

    @_bounded
    async def dispatch(self, since: datetime) -> Row:
        """Times from submission to first placement, of the newest jobs since a moment."""
        async with self._snapshot() as session:
            return (await session.fetch(_DISPATCH, {"since": since, "sample": DISPATCH_SAMPLE}))[0]

    def forget(self, task: asyncio.Future[Any]) -> None:
        """A question that was given up on has ended after all."""
        self.left_behind.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a query ended after it was given up on", reason=str(error))

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[ReadSession]:
        """A snapshot of the live generation; the reading views are there once one was live."""
        try:
            async with self._pool.snapshot() as session:
                if not self._is_there:
                    named = await session.fetch("SELECT to_regclass('foldline.pools') AS found")
                    self._is_there = named[0]["found"] is not None
                if not self._is_there:
                    raise ViewUnavailable("the audit view has no generation yet")
                yield session
        except DatabaseUnavailable as error:
            raise ViewUnavailable(f"PostgreSQL: {error}") from error


def _consumed(positions: list[dict[str, Any]]) -> dict[int, int]:
    return {row["shard"]: row["commands"] for row in positions}
