"""The logs of all shards as a view's process reads them: one reader, from any offset of each.

`LogReader` is the port. `KafkaLogs` is Kafka's log topic, `MemoryLogs` the double over the
partitions of `infra/log.py`. Neither commits anything: where to go on is the view's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Protocol

from infra.kafka import KafkaUnavailable, OffsetOutOfRange, Reader, shard_count
from infra.log import Entry, MemoryPartition
from schemas.terms import Micros
from schemas.topics import LOG

READ_ONE_S = 10.0
"""How long one record that is known to be there may take to come."""


class LogReader(Protocol):
    """Reads every shard's log. Every method raises `KafkaUnavailable` where waiting is no use."""

    @property
    def shards(self) -> tuple[int, ...]:
        """The shards there are."""

    def seek(self, shard: int, offset: int) -> None:
        """Go on from this offset; a shard that was never sought is not read."""

    def poll(self, timeout_s: float, max_records: int) -> list[tuple[int, Entry]]:
        """What is at hand, by shard and in each shard's order; else what comes in that time."""

    def end(self, shard: int) -> int:
        """The offset that the shard's next record will have."""

    def read_one(self, shard: int, offset: int) -> Entry | None:
        """The record at an offset, None where there is none; `poll` is not disturbed."""


class KafkaLogs:
    """The log topic; close it to let go of the broker."""

    def __init__(self, bootstrap: str) -> None:
        """Connects in the background. Raises `KafkaUnavailable` where the topic is not there."""
        self._bootstrap = bootstrap
        self._shards = tuple(range(shard_count(bootstrap)))
        self._reader = Reader(bootstrap)

    @property
    def shards(self) -> tuple[int, ...]:
        """The partitions of the topic."""
        return self._shards

    def seek(self, shard: int, offset: int) -> None:
        """Go on from this offset."""
        self._reader.seek(LOG.name, shard, offset)

    def poll(self, timeout_s: float, max_records: int) -> list[tuple[int, Entry]]:
        """Poll, then drain."""
        return [
            (message.partition, Entry(message.offset, message.value or b"", Micros(message.at)))
            for message in self._reader.poll(timeout_s, max_records)
        ]

    def end(self, shard: int) -> int:
        """Asked of the broker anew."""
        return self._reader.end_offset(LOG.name, shard)

    def read_one(self, shard: int, offset: int) -> Entry | None:
        """By a reader of its own."""
        reader = Reader(self._bootstrap)
        try:
            if not reader.begin_offset(LOG.name, shard) <= offset < self.end(shard):
                return None
            reader.assign({(LOG.name, shard): offset})
            deadline = monotonic() + READ_ONE_S
            while monotonic() < deadline:
                for message in reader.poll(0.5, 1):
                    return Entry(message.offset, message.value or b"", Micros(message.at))
        finally:
            reader.close()
        raise KafkaUnavailable(f"{LOG.name}[{shard}]: record {offset} did not come")

    def close(self) -> None:
        """Let go of the broker."""
        self._reader.close()


class MemoryLogs:
    """Partitions in memory, for tests: everything that is there is at hand."""

    def __init__(self, partitions: Mapping[int, MemoryPartition]) -> None:
        """Partitions by shard; they may grow while they are read."""
        self._partitions = partitions
        self._offsets: dict[int, int] = {}

    @property
    def shards(self) -> tuple[int, ...]:
        """The shards given."""
        return tuple(self._partitions)

    def seek(self, shard: int, offset: int) -> None:
        """Go on from this offset."""
        self._offsets[shard] = offset

    def poll(self, timeout_s: float, max_records: int) -> list[tuple[int, Entry]]:
        """What is there; never waits."""
        del timeout_s
        found: list[tuple[int, Entry]] = []
        for shard, offset in self._offsets.items():
            partition = self._partitions[shard]
            if offset < partition.start:
                raise OffsetOutOfRange(f"shard {shard}: {offset} is before {partition.start}")
            start = offset - partition.start
            room = max_records - len(found)
            entries = partition.entries[start : start + room]
            found.extend((shard, entry) for entry in entries)
            self._offsets[shard] = offset + len(entries)
        return found

    def end(self, shard: int) -> int:
        """The offset that the next record will have."""
        partition = self._partitions[shard]
        return partition.start + len(partition.entries)

    def read_one(self, shard: int, offset: int) -> Entry | None:
        """The record at an offset."""
        partition = self._partitions[shard]
        place = offset - partition.start
        return partition.entries[place] if 0 <= place < len(partition.entries) else None
