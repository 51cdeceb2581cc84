"""The relay: publishes the facts of every shard's log to the public topics. The I/O around
`relay_facts.py`.

Follows the logs by the counting rule, so that nothing of a superseded owner is ever said. How far
it has published is kept per shard as the position of a consumer group, and moved only after every
record before it was acknowledged: a restart folds silently up to there and goes on, without gaps;
what it repeats has the same ids and bytes. Writes to no other view.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, sleep
from typing import Protocol, TypeVar

import structlog

from infra.follow import ShardFollower, is_anchored
from infra.kafka import Sender, commit_group, committed
from infra.kafka_port import KafkaUnavailable
from infra.log import Entry
from infra.state_codec import Snapshot
from infra.telemetry import count, gauge
from projections.logs import LogReader
from projections.loop import PAUSE_FIRST_S, PAUSE_MAX_S, POLL_S, FindSnapshot, no_snapshot
from projections.pipeline import ViewDiverged
from projections.relay_facts import JobFacts, PublicRecord, is_tellable, to_record
from schemas.topics import LOG

GROUP = "foldline-relay"
COMMIT_EVERY_S = 1.0
"""At most so much is said again after a crash; every commit costs the broker a write."""
TURN_RECORDS = 500
"""Log records read in one turn: their facts are under way together and wait for one another."""
BREATH_S = 0.02
"""Between the beginnings of two small turns: log records that come one by one share the broker's
answer. A relay that was quiet, or is behind, never waits."""
MESSAGE_TIMEOUT_S = 10.0

T = TypeVar("T")
_log = structlog.get_logger("foldline.relay")


class PublicTopics(Protocol):
    """Where facts go. Every method raises `KafkaUnavailable`; repeating a call is safe."""

    def published(self, shards: Sequence[int]) -> Mapping[int, int]:
        """For each shard the offset before which everything was published; none for 0."""

    def publish(self, records: Sequence[PublicRecord]) -> None:
        """Send these in order; returns once all of them are acknowledged."""

    def move(self, offsets: Mapping[int, int]) -> None:
        """Note for these shards that everything before the offset was published."""


@dataclass(slots=True)
class RelayShard:
    """One shard: entries in, public records out, none for what lies before `published`. No I/O."""

    shard: int
    published: int
    snapshot: Snapshot | None = None
    _follower: ShardFollower = field(init=False)
    _facts: JobFacts = field(init=False)

    def __post_init__(self) -> None:
        """Stand at the log's beginning, or at a snapshot before `published`."""
        self._follower = ShardFollower(self.shard, self.snapshot)
        self.snapshot = None
        self._facts = JobFacts(self._follower.state)
        assert self.next_offset <= self.published, "a relay begins at or before what it said last"

    @property
    def next_offset(self) -> int:
        """The offset of the entry to feed next."""
        return self._follower.chain.next_offset

    def feed(self, entry: Entry) -> list[PublicRecord]:
        """Fold the next entry; answers what it says. Raises `LogStopped`."""
        record = self._follower.feed(entry)
        if record is None:
            return []
        facts = self._facts.take(record)
        return list(map(to_record, facts)) if entry.offset >= self.published else []


class KafkaTopics:
    """The public topics on Kafka, with the group's positions; close it to let go of the broker."""

    def __init__(self, bootstrap: str, group: str = GROUP) -> None:
        """Connects in the background. One relay of an installation, one group."""
        self._bootstrap = bootstrap
        self._group = group
        self._sender: Sender | None = None

    def published(self, shards: Sequence[int]) -> Mapping[int, int]:
        """The positions of the group."""
        places = [(LOG.name, shard) for shard in shards]
        found = committed(self._bootstrap, self._group, places)
        return {shard: offset for (_, shard), offset in found.items()}

    def publish(self, records: Sequence[PublicRecord]) -> None:
        """A sender that has failed is given up, with all that it has under way."""
        if self._sender is None:
            self._sender = Sender(self._bootstrap, message_timeout_s=MESSAGE_TIMEOUT_S)
        sender, errors = self._sender, list[str]()

        def result(_offset: int | None, error: str | None) -> None:
            if error is not None:
                errors.append(error)

        for record in records:
            sender.send(
                record.topic,
                record.value,
                key=record.key,
                headers=record.headers,
                on_result=result,
            )
        left = sender.flush(MESSAGE_TIMEOUT_S * 2)
        if left or errors:
            reason = errors[0] if errors else f"{left} records were not acknowledged in time"
            self.close()
            raise KafkaUnavailable(f"cannot publish: {reason}")

    def move(self, offsets: Mapping[int, int]) -> None:
        """Store the positions of the group."""
        places = {(LOG.name, shard): offset for shard, offset in offsets.items()}
        commit_group(self._bootstrap, self._group, places)

    def close(self) -> None:
        """Let go of the broker."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None


class Relay:
    """All shards of one process: `open`, then `turn` again and again, then `settle`."""

    def __init__(
        self,
        topics: PublicTopics,
        logs: LogReader,
        stop: Callable[[], bool],
        find_snapshot: FindSnapshot = no_snapshot,
        retry_for_s: float = 60.0,
    ) -> None:
        """`retry_for_s` bounds how long Kafka is asked again before the process stops loudly."""
        self._topics = topics
        self._logs = logs
        self._stop = stop
        self._find_snapshot = find_snapshot
        self._retry_for_s = retry_for_s
        self._shards: dict[int, RelayShard] = {}
        self._moved: dict[int, int] = {}
        self._move_at = 0.0

    def open(self) -> None:
        """Find out what was published, and begin to read from there or before.

        Raises `ViewDiverged` where the log is shorter than what was published of it.
        """
        published = self._insist(partial(self._topics.published, self._logs.shards))
        for shard in self._logs.shards:
            said = published.get(shard, 0)
            end = self._insist(partial(self._logs.end, shard))
            if said > end:
                raise ViewDiverged(
                    f"shard {shard}: the relay has published up to offset {said}, but the log"
                    f" ends at {end}: it is not the log that was published"
                )
            opened = RelayShard(shard, said, self._snapshot(shard, said))
            self._shards[shard] = opened
            self._logs.seek(shard, opened.next_offset)
            _log.info("relay_opened", shard=shard, said=said, folds_from=opened.next_offset)

    def turn(self) -> int:
        """Publish what is at hand; answers how many records that were."""
        records: list[PublicRecord] = []
        moved: dict[int, int] = {}
        found = self._logs.poll(POLL_S, TURN_RECORDS)
        begun = monotonic()
        for shard, entry in found:
            records += self._shards[shard].feed(entry)
            if entry.offset >= self._shards[shard].published:
                moved[shard] = entry.offset + 1
        if records:
            self._insist(partial(self._topics.publish, records))
        self._moved.update(moved)
        _measure(records, moved)
        if self._moved and monotonic() >= self._move_at:
            self.settle()
        if 0 < len(found) < TURN_RECORDS:
            sleep(max(begun + BREATH_S - monotonic(), 0.0))
        return len(records)

    def settle(self) -> None:
        """Note how far everything was published."""
        if self._moved:
            self._insist(partial(self._topics.move, dict(self._moved)))
            self._moved = {}
        self._move_at = monotonic() + COMMIT_EVERY_S

    def _snapshot(self, shard: int, said: int) -> Snapshot | None:
        """One that stands before what was said last and tells all that facts need."""
        snapshot = self._find_snapshot(shard, said) if said else None
        if snapshot is None or not is_tellable(snapshot.state):
            return None
        entry = self._insist(partial(self._logs.read_one, shard, snapshot.offset))
        return snapshot if is_anchored(snapshot, entry) else None

    def _insist(self, call: Callable[[], T]) -> T:
        """Ask again, with growing pauses, while Kafka does not answer and nobody says stop."""
        deadline = monotonic() + self._retry_for_s
        pause = PAUSE_FIRST_S
        while True:
            try:
                return call()
            except KafkaUnavailable as error:
                if monotonic() >= deadline or self._stop():
                    raise
                _log.warning("relay_waits", error=str(error), pause_s=pause)
            sleep(pause)
            pause = min(pause * 2, PAUSE_MAX_S)


def _measure(records: Sequence[PublicRecord], moved: Mapping[int, int]) -> None:
    for topic, amount in Counter(record.topic for record in records).items():
        count("foldline_relayed_total", amount, topic=topic)
    for shard, offset in moved.items():
        gauge("foldline_view_offset", offset, view="relay", shard=shard)


def run_relay(
    topics: PublicTopics,
    logs: LogReader,
    stop: Callable[[], bool],
    find_snapshot: FindSnapshot = no_snapshot,
) -> None:
    """Publish the logs' facts until told to stop.

    Raises `KafkaUnavailable`, `ViewDiverged` and `LogStopped`, which should end the process with
    an error: a supervisor starts it again, and people are told.
    """
    relay = Relay(topics, logs, stop, find_snapshot)
    try:
        relay.open()
        while not stop():
            relay.turn()
        relay.settle()
    except KafkaUnavailable as error:
        if not stop():
            raise
        # Told to stop while Kafka was away: what was not noted is said again, alike.
        _log.warning("relay_stopped_unsettled", error=str(error))
