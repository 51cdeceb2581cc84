"""The one way of every view: receive, decode and fold, convert, store, move the position.

This file holds the words of it and the pure half: a `Projector` takes the records of one shard's
log and answers batches. It reads no log and writes no view; the loop around it is `loop.py`.
A view's stored position is checked against the log: what folding gives at its offset must be the
same claim, decision and chain value, else `ViewDiverged` stops the process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from infra.follow import CountedRecord, ShardFollower, touched_jobs
from infra.log import Entry
from schemas import events
from schemas.events import Event
from stream_processors.domain.counting import GENESIS, Chain
from stream_processors.domain.state import Job, State


class StaleWriter(Exception):
    """Somebody else writes the view, or it lost its tail: it is not where this writer left it.

    Nothing was stored.
    """


class ViewUnavailable(Exception):
    """The view cannot be reached or written now. Whether the last batch was stored is unknown."""


class ViewDiverged(Exception):
    """The view says it follows another history than the log's. It must be rebuilt."""


class ViewBehind(Exception):
    """A generation cannot become the live one yet: it must catch up with the one that is."""


class ViewReplaced(Exception):
    """Another generation of the view is live now: go on with that one."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a shard's log a view stands; the fields of `Chain`, flat, as a view stores them.

    `next_offset` follows the last record taken in, `commands` and `reports` the last inputs that
    those records consumed. `at` is UTC microseconds.
    """

    next_offset: int
    epoch: int
    owner: bytes
    seq: int
    value: bytes
    at: int
    commands: int
    reports: int


def position_of(chain: Chain) -> Position:
    """The position of a view that has taken in everything up to here."""
    return Position(
        next_offset=chain.next_offset,
        epoch=chain.epoch,
        owner=chain.owner,
        seq=chain.seq,
        value=chain.value,
        at=chain.at,
        commands=chain.consumed.commands,
        reports=chain.consumed.reports,
    )


START = position_of(GENESIS)
"""The position of a view with nothing in it."""


@dataclass(frozen=True, slots=True)
class ViewBatch:
    """Records that counted, in order, with what a view needs to know of their jobs.

    `start` is where the view stands before it, `stop` after it. `state` is the fold after the
    whole batch; `changed` are all jobs that it touched, by number, those forgotten in it included.
    """

    shard: int
    start: Position
    stop: Position
    records: tuple[CountedRecord, ...]
    state: State
    changed: dict[int, Job]


class View(Protocol):
    """A view of all shards, as one process writes it."""

    def position(self, shard: int) -> Position | None:
        """Where the view stands; None while it is empty. Raises `ViewUnavailable`."""

    def store(self, batch: ViewBatch) -> None:
        """Take in a batch and move the position with it, both or neither.

        Raises `StaleWriter` if it does not stand at `batch.start`, `ViewUnavailable`,
        `ViewReplaced`.
        """


@runtime_checkable
class RefillableView(View, Protocol):
    """A view that can be written anew from live state alone, without the records before it."""

    def refill(self, shard: int, state: State, at: Position) -> None:
        """Replace all of a shard by what `state` says, and stand at `at`.

        Raises `ViewUnavailable`, `ViewReplaced`, and `StaleWriter` if the view stands further.
        """


@dataclass(slots=True)
class Projector:
    """One shard on its way into a view. Feed it every record of the log from `next_offset` on.

    `stored` is where the view stands. Records before it are folded only; at it the fold and the
    view must agree. `refilling` is set where the view must be written whole (only for one that
    `can_refill`): nothing is batched until `refilled`.
    """

    shard: int
    follower: ShardFollower
    stored: Position
    can_refill: bool = False
    refilling: bool = False
    _records: list[CountedRecord] = field(default_factory=list)
    _touched: set[int] = field(default_factory=set)
    _rows: int = 0
    _bytes: int = 0

    def __post_init__(self) -> None:
        """A fold that begins behind the view is of use only where the view is written whole."""
        if self.follower.chain.next_offset > self.stored.next_offset:
            assert self.can_refill, "the fold must begin where the view stands, or before"
            self.refilling = True
        self._check()

    @property
    def next_offset(self) -> int:
        """The offset of the record to feed next."""
        return self.follower.chain.next_offset

    def feed(self, entry: Entry) -> None:
        """Take the next record. Raises `ViewDiverged`, `LogStopped`."""
        behind = entry.offset < self.stored.next_offset
        record = self.follower.feed(entry)
        if behind:
            self._check()
        elif record is not None and not self.refilling:
            self._records.append(record)
            self._touched |= touched_jobs(record.events)
            self._rows += sum(map(row_count, record.events))
            self._bytes += len(entry.value)

    def is_full(self, max_records: int, max_rows: int, max_bytes: int) -> bool:
        """Whether what waits to be stored has reached one of these bounds."""
        full = len(self._records) >= max_records or self._rows >= max_rows
        return full or self._bytes >= max_bytes

    def take(self) -> ViewBatch | None:
        """What was fed since the last batch, None where nothing counted.

        The state in it is the follower's own: store the batch before feeding on.
        """
        if not self._records:
            return None
        batch = ViewBatch(
            shard=self.shard,
            start=self.stored,
            stop=position_of(self.follower.chain),
            records=tuple(self._records),
            state=self.follower.state,
            changed=self._changed(),
        )
        self._records, self._touched, self._rows, self._bytes = [], set(), 0, 0
        return batch

    def settle(self, position: Position) -> None:
        """The view stands here now, where the fold stands too."""
        assert position == position_of(self.follower.chain), "a view stands where its batch ended"
        self.stored = position

    def refilled(self) -> None:
        """The view was written whole from the state as it is now."""
        self.refilling = False
        self.settle(position_of(self.follower.chain))

    def _changed(self) -> dict[int, Job]:
        forgotten = {job.no: job for record in self._records for job in record.forgotten}
        jobs = self.follower.state.jobs
        return {no: forgotten[no] if no in forgotten else jobs[no] for no in sorted(self._touched)}

    def _check(self) -> None:
        here = position_of(self.follower.chain)
        if self.refilling or here.next_offset != self.stored.next_offset or here == self.stored:
            return
        if self.can_refill:
            self.refilling = True
            return
        raise ViewDiverged(
            f"shard {self.shard}: at offset {here.next_offset} the log is at epoch {here.epoch},"
            f" seq {here.seq}, chain {here.value.hex()[:16]}, but the view at epoch"
            f" {self.stored.epoch}, seq {self.stored.seq}, chain {self.stored.value.hex()[:16]}:"
            " one of the two was changed; run `foldline verify`, then `foldline rebuild`"
        )


def row_count(event: Event) -> int:
    """How many things an event speaks of."""
    if isinstance(event, events.JobsSubmitted):
        return len(event.terms_of)
    if isinstance(event, events.CommandsRefused | events.ReportsRefused):
        return len(event.offsets)
    return len(getattr(event, "job_nos", getattr(event, "node_nos", (1,))))
