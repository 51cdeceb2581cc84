"""The door to PostgreSQL (16 or newer). The only file that imports psycopg and yoyo.

`Database` is one connection with one schema in its search path, opened when needed and again after
it broke. Work happens in `transaction()`; rows go in by binary COPY (`infra/copy_rows.py`). Never
retries by itself: whether a transaction may be repeated is known by the caller, who finds its
position stored beside the data. `ReadPool` is for asyncio readers. Which tables there are:
`projections/migrations/`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote, urlencode

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from yoyo import get_backend, read_migrations  # type: ignore[import-untyped]  # ships no types

from infra.copy_rows import Table, pack_rows

CONNECT_TIMEOUT_S = 5
SILENCE_MS = 15_000
"""How long sent bytes may stay unacknowledged before the connection counts as broken."""
STREAM_ROWS = 5_000
COPY_CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Values = Sequence[Any] | Mapping[str, Any]
"""What a statement's placeholders stand for: `%s` in order, or `%(name)s`."""


class DatabaseUnavailable(Exception):
    """The server cannot be reached, broke off, or asks to try again.

    Whether a transaction that was being committed took place is unknown.
    """


@dataclass(frozen=True, slots=True)
class Session:
    """One open transaction. Table names without a schema mean the database's search path."""

    connection: psycopg.Connection[tuple[Any, ...]]

    def execute(self, query: LiteralString, values: Values = ()) -> int:
        """Run one statement; how many rows it touched.

        Planned afresh each time: a plan made while a table was small would be kept too long.
        """
        return self.connection.execute(query, values or None, prepare=False).rowcount

    def execute_many(self, query: LiteralString, rows: Sequence[Values]) -> None:
        """Run one statement for each row of values, in their order."""
        with self.connection.cursor() as cursor:
            cursor.executemany(query, rows)

    def fetch(self, query: LiteralString, values: Values = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self.connection.execute(query, values or None).fetchall()

    def stream(self, query: LiteralString, values: Values = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query of any size, a few thousand at a time."""
        with self.connection.cursor(name="stream", scrollable=False) as cursor:
            cursor.itersize = STREAM_ROWS
            cursor.execute(query, values or None, binary=True)
            yield from cursor

    def run_script(self, text: str) -> None:
        """Run a file of statements of ours, which takes no values."""
        self.connection.execute(text.encode())

    def copy_rows(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows by binary COPY; nothing is sent where there are none."""
        if not rows:
            return
        query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            sql.Identifier(table.name),
            sql.SQL(", ").join(sql.Identifier(name) for name, _ in table.columns),
        )
        data = memoryview(pack_rows(table, rows))
        with self.connection.cursor() as cursor, cursor.copy(query) as copy:
            for start in range(0, len(data), COPY_CHUNK_BYTES):
                copy.write(data[start : start + COPY_CHUNK_BYTES])

    def create_schema(self, name: str) -> None:
        """Make a schema that is not there yet."""
        self.connection.execute(sql.SQL("CREATE SCHEMA {}").format(_identifier(name)))

    def drop_schema(self, name: str) -> None:
        """Remove a schema with all that is in it, if it is there."""
        query = sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(_identifier(name))
        self.connection.execute(query)

    def look_in(self, schema: str) -> None:
        """Use another schema's tables until the end of the transaction."""
        query = sql.SQL("SET LOCAL search_path TO {}").format(_identifier(schema))
        self.connection.execute(query)

    def create_partition(self, table: str, part: str, start: str, stop: str) -> None:
        """Make the partition of `table` that holds `start <= key < stop`, if it is not there."""
        query = sql.SQL(
            "CREATE TABLE IF NOT EXISTS {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})"
        ).format(_identifier(part), _identifier(table), sql.Literal(start), sql.Literal(stop))
        self.connection.execute(query)


@dataclass(slots=True)
class Database:
    """A server, named by its URL (`postgresql://user@host:port/name`), seen through one schema.

    `settings` are server settings of the connection, `on_connect` a script that is run on every
    new one. One thread at a time.
    """

    url: str = field(repr=False)
    schema: str
    settings: Mapping[str, str] = field(default_factory=dict)
    on_connect: str = ""
    _connection: psycopg.Connection[tuple[Any, ...]] | None = None

    @contextmanager
    def transaction(self, *, snapshot: bool = False) -> Iterator[Session]:
        """A transaction: committed at the end, rolled back by an exception.

        With `snapshot` it only reads, and sees the database as of one moment. Raises
        `DatabaseUnavailable`; any other error of the server is a bug and passes as it is.
        """
        try:
            connection = self._connect()
            with connection.transaction():
                if snapshot:
                    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                yield Session(connection)
        except psycopg.Error as error:
            if _is_passing(error):
                self.close()
                raise DatabaseUnavailable(str(error).strip()) from error
            raise

    def close(self) -> None:
        """Give the connection back; the next transaction opens one again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            options = {"search_path": self.schema, "timezone": "UTC", **self.settings}
            self._connection = psycopg.connect(
                self.url,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                tcp_user_timeout=SILENCE_MS,
                application_name="foldline",
                options=" ".join(f"-c {name}={value}" for name, value in options.items()),
            )
            if self.on_connect:
                self._connection.execute(self.on_connect.encode())
        return self._connection


def migrate_schema(url: str, schema: str, folder: Path) -> list[str]:
    """Apply the folder's numbered SQL files that this schema has not seen; their names.

    Forwards only, each in a transaction of its own together with its mark. The caller sees to it
    that no two processes do this at once. Raises `DatabaseUnavailable`.
    """
    _identifier(schema)
    given = conninfo_to_dict(url)
    named = {str(name): str(value) for name, value in given.items() if value is not None}
    database = quote(named.pop("dbname", ""), safe="")
    # The rest goes into the query, whose names the library hands on as they are.
    address = f"postgresql+psycopg:///{database}?{urlencode({**named, 'schema': schema})}"
    try:
        backend = get_backend(address)
        try:
            due = backend.to_apply(read_migrations(str(folder)))
            names = [item.id for item in due]
            backend.apply_migrations(due)
        finally:
            backend.connection.close()
    except psycopg.Error as error:
        if _is_passing(error):
            raise DatabaseUnavailable(str(error).strip()) from error
        raise
    return names


RECONNECT_S = 2.0


class ReadPool:
    """A few connections for the readers of one asyncio process; they can only read."""

    def __init__(self, url: str, schema: str, size: int = 4, timeout_s: float = 5.0) -> None:
        """Connects in `open`; `timeout_s` bounds the wait for a free connection and a query."""
        options = {
            "search_path": schema,
            "timezone": "UTC",
            "default_transaction_read_only": "on",
            "statement_timeout": str(int(timeout_s * 1000)),
        }
        self._pool = AsyncConnectionPool(
            url,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "connect_timeout": CONNECT_TIMEOUT_S,
                "tcp_user_timeout": SILENCE_MS,
                "application_name": "foldline-reads",
                "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            },
            min_size=1,
            max_size=size,
            timeout=timeout_s,
            # Attempts back off for ever longer; given up this soon, the next question makes a new one.
            reconnect_timeout=RECONNECT_S,
            open=False,
            check=AsyncConnectionPool.check_connection,
        )

    async def open(self) -> None:
        """Start connecting in the background; a server that is down is no error yet."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Give the connections back."""
        await self._pool.close()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[ReadSession]:
        """Several queries that see the database as of one moment. Raises `DatabaseUnavailable`."""
        try:
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                yield ReadSession(connection)
        except errors.UndefinedTable as error:
            raise DatabaseUnavailable("the tables are not there yet: migrate first") from error
        except (psycopg.Error, PoolTimeout) as error:
            if _is_passing(error):
                raise DatabaseUnavailable(str(error).strip()) from error
            raise

    async def fetch(self, query: LiteralString, values: Values = ()) -> list[dict[str, Any]]:
        """All rows of one query, by column name. Raises `DatabaseUnavailable`."""
        async with self.snapshot() as session:
            return await session.fetch(query, values)


@dataclass(frozen=True, slots=True)
class ReadSession:
    """One open snapshot of a `ReadPool`."""

    connection: psycopg.AsyncConnection[Any]

    async def fetch(self, query: LiteralString, values: Values = ()) -> list[dict[str, Any]]:
        """All rows of one query, by column name."""
        cursor = await self.connection.execute(query, values or None)
        return await cursor.fetchall()


def moment(micros: int) -> datetime:
    """The time that so many microseconds since 1970 (UTC) are."""
    return _EPOCH + micros * _MICROSECOND


def micros(at: datetime | None) -> int:
    """Microseconds since 1970 (UTC); 0 for NULL."""
    return 0 if at is None else (at - _EPOCH) // _MICROSECOND


def _is_passing(error: BaseException) -> bool:
    """Whether it may be over a moment later: connections, restarts, conflicts, full disks."""
    passing = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)
    return isinstance(error, passing)


def _identifier(name: str) -> sql.Identifier:
    assert _NAME.fullmatch(name), f"{name!r} is no name that we make"
    return sql.Identifier(name)
