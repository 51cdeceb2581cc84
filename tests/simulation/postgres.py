"""PostgreSQL in the simulated world, as far as the audit view speaks to it.

`SimDatabase` takes the place of `infra.postgres.Database`: the real `AuditView` runs its own
statements on dictionaries. A writing transaction holds the one lock from its first write on, so
writers wait for each other as they would for a row. What is not committed is undone, at the
latest when the server notices that its client is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from infra.copy_rows import Table
from infra.postgres import DatabaseUnavailable
from tests.simulation.kafka import call
from tests.simulation.world import SECOND, World

Key = tuple[Any, ...]
Rows = dict[Key, dict[str, Any]]
KEYS = {
    "jobs": ("shard", "job_no"),
    "attempts": ("shard", "job_no", "attempt"),
    "tasks": ("shard", "job_no", "attempt", "task"),
    "events": ("shard", "log_offset", "row_no"),
    "answers": ("shard", "command_offset", "row_no", "code", "job_id"),
    "dependencies": ("shard", "job_no", "needs_no"),
    "dead_letters": ("shard", "letter_id", "job_no"),
}
LOCK_WAIT_US = 3 * SECOND
CHANGED = ("jobs", "attempts", "tasks")


@dataclass
class Postgres:
    """The server: committed tables, and the transaction that holds the lock."""

    world: World
    tables: dict[str, Rows] = field(default_factory=dict)
    positions: dict[int, Key] = field(default_factory=dict)
    holder: SimSession | None = None
    on_commit: Callable[[int, Key, Key | None, list[int]], None] | None = None

    def table(self, name: str) -> Rows:
        """A table's rows by key."""
        return self.tables.setdefault(name, {})


class SimSession:
    """One transaction. `undo` holds what each changed row was before."""

    def __init__(self, server: Postgres, *, reads_only: bool) -> None:
        self.server = server
        self.reads_only = reads_only
        self.is_open = True
        self.moved: tuple[int, Key, Key | None] | None = None
        self.jobs: list[int] = []
        self._undo: list[Callable[[], None]] = []
        self._changed: dict[str, list[dict[str, Any]]] = {}

    @property
    def writes(self) -> bool:
        """Whether it holds the lock."""
        return self.server.holder is self

    def lock(self) -> None:
        """Wait for other writers."""
        server = self.server
        if server.holder is self:
            return
        if server.world.current is None:
            server.holder = self
            return
        process, give_up = server.world.me(), server.world.now_us + LOCK_WAIT_US
        while server.holder is not None:
            if server.world.now_us > give_up:
                raise DatabaseUnavailable("canceling statement due to lock timeout")
            process.wait(30_000)
        server.holder = self
        process.on_death.append(lambda: server.world.at(SECOND // 3, self.rollback))

    def commit(self) -> None:
        """Make it all true."""
        if not self.is_open:
            raise DatabaseUnavailable("the connection was closed")
        self.is_open = False
        server = self.server
        if self.writes:
            server.holder = None
        if self.moved is not None:
            shard, after, before = self.moved
            server.positions[shard] = after
            if server.on_commit is not None:
                server.on_commit(shard, after, before, self.jobs)

    def rollback(self) -> None:
        """Make it all as it was; nothing where it is over already."""
        if not self.is_open:
            return
        self.is_open = False
        for back in reversed(self._undo):
            back()
        if self.writes:
            self.server.holder = None

    # What `Session` offers.

    def fetch(self, query: str, values: Sequence[Any] = ()) -> list[Key]:
        """The few questions that a writer asks."""
        if query.startswith("SELECT to_regclass"):
            return [("foldline.generations",)]
        if query.startswith("SELECT number FROM foldline.generations"):
            return [(1,)]
        if query.startswith("SELECT state FROM foldline.generations"):
            return [("live",)]
        assert query.startswith("SELECT next_offset"), query
        shard = values[0]
        own = self.moved is not None and self.moved[0] == shard
        found = self.moved[1] if own and self.moved else self.server.positions.get(shard)
        return [] if found is None else [found]

    def execute(self, query: str, given: Sequence[Any] | dict[str, Any] = ()) -> int:
        """One statement; answers how many rows it touched."""
        self.lock()
        words = query.split()
        values = tuple(given.values()) if isinstance(given, dict) else given
        if query.startswith("INSERT INTO positions"):
            return self._move(values[-1], tuple(values[:-1]), None)
        if query.startswith("UPDATE positions"):
            return self._move(values[8], tuple(values[:8]), tuple(values[9:]))
        if words[0] == "UPDATE" and words[1] in CHANGED:
            return self._change(words[1])
        # Fleet and whatever else is stored one by one: a row is its statement and its values.
        self._put("other", (words[0], words[1], words[2], *map(str, values)), {})
        return 1

    def execute_many(self, query: str, rows: Sequence[Any]) -> None:
        """One statement for each row."""
        self.lock()
        for row in rows:
            if query.startswith("INSERT INTO attempts"):
                key = tuple(row[:3])
                if key not in self.server.table("attempts"):
                    named = ("shard", "job_no", "attempt", "placed_at")
                    value = dict(zip(named, row, strict=True)) | _OPEN_ATTEMPT
                    self._put("attempts", key, value)
            elif query.startswith("INSERT INTO answers"):
                self._answer(row)
            else:
                self.execute(query, row)

    def copy_rows(self, table: Table, rows: Sequence[Key]) -> None:
        """Add rows."""
        if not rows:
            return
        self.lock()
        call(self.server.world, "audit rows", lambda: None, DatabaseUnavailable)
        names = [name for name, _ in table.columns]
        for row in rows:
            value = dict(zip(names, row, strict=True))
            if table.name.startswith("changed_"):
                self._changed.setdefault(table.name.removeprefix("changed_"), []).append(value)
                continue
            key = tuple(value[name] for name in KEYS[table.name])
            assert key not in self.server.table(table.name), f"{table.name}: {key} is there"
            self._put(table.name, key, value)
            if table.name == "jobs":
                self.jobs.append(value["job_no"])

    def create_partition(self, table: str, part: str, start: str, stop: str) -> None:
        """Nothing to be made."""
        del table, part, start, stop

    def _answer(self, row: dict[str, Any]) -> None:
        answers = self.server.table("answers")
        if not any(key[:2] == (row["shard"], row["offset"]) for key in answers):
            self._put("answers", (row["shard"], row["offset"], -1, "", b""), dict(row))

    def _move(self, shard: int, after: Key, expected: Key | None) -> int:
        stands = self.server.positions.get(shard)
        if expected is None and stands is not None:
            return 0
        if expected is not None and (stands is None or _place_of(stands) != expected):
            return 0
        self.moved = (shard, after, stands)
        return 1

    def force(self, shard: int, after: Key) -> int:
        """Move the position wherever it stands; no statement of the product does."""
        self.moved = (shard, after, self.server.positions.get(shard))
        return 1

    def _change(self, name: str) -> int:
        rows, touched = self.server.table(name), 0
        for value in self._changed.pop(name, []):
            key = tuple(value[part] for part in KEYS[name])
            old = rows.get(key)
            if old is None:
                continue
            touched += 1
            self._put(name, key, old | _MERGE[name](old, value))
            if name == "jobs":
                self.jobs.append(value["job_no"])
        return touched

    def _put(self, table: str, key: Key, value: dict[str, Any]) -> None:
        rows = self.server.table(table)
        old = rows.get(key)
        rows[key] = value
        self._undo.append(lambda: _restore(rows, key, old))


_OPEN_ATTEMPT = {"failure": "none", "message": "", "started_at": 0, "ended_at": 0}


def _place_of(position: Key) -> Key:
    """What a position is compared by: offset, epoch, seq and chain value."""
    return (position[0], position[1], position[3], position[4])


def _restore(rows: Rows, key: Key, old: dict[str, Any] | None) -> None:
    if old is None:
        del rows[key]
    else:
        rows[key] = old


def _kept(old: dict[str, Any], new: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Moments that are set once (SQL's coalesce)."""
    return {name: old.get(name) or new.get(name) for name in names}


def _merge_attempt(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    said = old if old.get("ended_at") else new
    ends = {name: said.get(name, "") for name in ("failure", "message", "fingerprint")}
    return new | _kept(old, new, ("started_at", "ended_at")) | ends


_MERGE: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
    "jobs": lambda _, new: new,
    "attempts": _merge_attempt,
    "tasks": lambda old, new: new | _kept(old, new, ("ready_at", "started_at", "ended_at")),
}


class SimDatabase:
    """What `AuditView` takes for a `Database`."""

    def __init__(self, server: Postgres) -> None:
        self.server = server

    @contextmanager
    def transaction(self, *, snapshot: bool = False) -> Iterator[SimSession]:
        """Committed at the end, rolled back by an exception."""
        world = self.server.world
        session = SimSession(self.server, reads_only=snapshot)
        if snapshot:
            call(world, "audit position", lambda: None, DatabaseUnavailable)
            yield session
            return
        try:
            yield session
        except Exception:
            session.rollback()
            raise
        if not session.writes:
            return
        try:
            call(world, "audit commit", session.commit, DatabaseUnavailable)
        except DatabaseUnavailable:
            # The server learns of it in its own time, unless the commit still comes.
            world.at(world.between(0, 2), session.rollback)
            raise

    def close(self) -> None:
        """Nothing is held."""
