"""The one reader of a shard's log: applies the counting rule, decodes what counts, and folds it.

Used by everybody who follows a log without owning it: projections, relay, followers, verification,
and the engine when it must fold anew. Fed with entries in order; answers what counted. What must
not be skipped and cannot be folded stops the reader: `LogStopped` says which shard, which offset,
what is wrong, and what to do. Bytes and records that do not count are passed over by everyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

from infra.log import Entry, read_record
from infra.state_codec import Snapshot
from schemas.codec import MalformedRecord, UnknownSchema, decode_event
from schemas.envelope import Claim, Decision
from schemas.events import Event, JobsForgotten
from stream_processors.domain.counting import CHANGED, GENESIS, Chain, LogStopped, judge
from stream_processors.domain.evolve import begin_record, evolve, touched_jobs
from stream_processors.domain.state import Job, State, initial_state

__all__ = [
    "CountedRecord",
    "ShardFollower",
    "decode_events",
    "fold_record",
    "is_anchored",
    "naming_the_shard",
    "touched_jobs",
]


@dataclass(frozen=True, slots=True)
class CountedRecord:
    """A record that counts, its events (none for a claim), and the chain after it.

    `forgotten` are the jobs that left the state with it, as they were.
    """

    offset: int
    chain: Chain
    record: Claim | Decision
    events: tuple[Event, ...]
    forgotten: tuple[Job, ...]


class ShardFollower:
    """The fold of one shard's log, up to the last entry fed."""

    def __init__(self, shard: int, snapshot: Snapshot | None = None) -> None:
        """From the log's beginning, or from a snapshot (whose state it then owns)."""
        self.shard = shard
        self.state: State = snapshot.state if snapshot else initial_state(shard)
        self.chain: Chain = snapshot.chain if snapshot else GENESIS

    def feed(
        self, entry: Entry, before_event: Callable[[State, Event], None] | None = None
    ) -> CountedRecord | None:
        """Judge and fold one entry; None where it does not count. Raises `LogStopped`.

        `before_event` is called with the state right before each event is folded.
        """
        record = read_record(entry.value)
        with naming_the_shard(self.shard):
            self.chain, verdict = judge(self.chain, record, entry.value, entry.offset)
            if record is None or not verdict.counts:
                return None
            if isinstance(record, Claim):
                return CountedRecord(entry.offset, self.chain, record, (), ())
            events = decode_events(record, entry.offset)
            forgotten = fold_record(self.state, (record, events), entry.offset, before_event)
            return CountedRecord(entry.offset, self.chain, record, events, forgotten)


@contextmanager
def naming_the_shard(shard: int) -> Iterator[None]:
    """Whoever is stopped by the log inside learns of which shard it is."""
    try:
        yield
    except LogStopped as error:
        raise LogStopped(f"shard {shard} stops: {error}") from error


def decode_events(record: Decision, offset: int) -> tuple[Event, ...]:
    """The events of a decision that counts. Raises `LogStopped` for one that cannot be read:
    skipping it would fork history.
    """
    try:
        return tuple(map(decode_event, record.events))
    except UnknownSchema as error:
        raise LogStopped(
            f"the record at offset {offset} counts but holds an event that this release cannot"
            f" read ({error}): start a newer release"
        ) from error
    except MalformedRecord as error:
        raise LogStopped(
            f"the record at offset {offset} counts but holds an event that is broken ({error}):"
            f" {CHANGED}"
        ) from error


def fold_record(
    state: State,
    decided: tuple[Decision, tuple[Event, ...]],
    offset: int,
    before_event: Callable[[State, Event], None] | None = None,
) -> tuple[Job, ...]:
    """Fold a decision that counts into the state; answers the jobs that left it, as they were.

    Raises `LogStopped` where an event does not fit the state, which is then not to be used.
    """
    record, events = decided
    forgotten: list[Job] = []
    event: Event | None = None
    try:
        begin_record(state, record.seq, record.at)
        for event in events:
            if before_event is not None:
                before_event(state, event)
            if isinstance(event, JobsForgotten):
                forgotten.extend(state.jobs[no] for no in event.job_nos)
            evolve(state, event)
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        what = "time or seq" if event is None else type(event).__name__
        raise LogStopped(
            f"the record at offset {offset} counts but its {what} does not fit"
            f" what comes before it ({type(error).__name__}: {error}): {CHANGED}"
        ) from error
    return tuple(forgotten)


def is_anchored(snapshot: Snapshot, entry: Entry | None) -> bool:
    """Whether the snapshot stands where it says: `entry` is the log's record at its offset."""
    if entry is None or entry.offset != snapshot.offset:
        return False
    record = read_record(entry.value)
    if not isinstance(record, Decision):
        return False
    chain = snapshot.chain
    same = (record.epoch, record.owner, record.seq) == (chain.epoch, chain.owner, chain.seq)
    return same and sha256(record.prev + entry.value).digest() == chain.value
