"""Doubles of Kafka for an `EngineProcess`, and what tests ask of such a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from infra.kafka import Message, OffsetOutOfRange
from infra.log import Entry, LogUnavailable, MemoryLog, MemoryPartition
from schemas.codec import encode
from schemas.terms import Micros
from schemas.topics import COMMANDS, LOG, REPORTS
from stream_processors import engine_process
from stream_processors.domain.draft import Command
from stream_processors.engine_process import EngineProcess
from stream_processors.log_clock import Reading
from tests.engine_world import SECOND, START, Process, World

SHARDS = 2
Place = tuple[str, int]


@dataclass
class Brokers:
    """What Kafka holds and says to one process: logs, inputs, the group's wish, the producers."""

    logs: dict[int, MemoryPartition]
    inputs: dict[Place, list[bytes]]
    begins: dict[Place, int] = field(default_factory=dict)
    unavailable: set[int] = field(default_factory=set)
    wished: frozenset[int] = frozenset()
    told: frozenset[int] = frozenset()
    readers: list[ReaderDouble] = field(default_factory=list)
    senders: list[SenderDouble] = field(default_factory=list)
    closed_logs: list[int] = field(default_factory=list)
    now_us: int = START

    @property
    def reading(self) -> dict[Place, int]:
        """What the first reader reads, which is the one of the inputs."""
        return self.readers[0].places

    @property
    def following(self) -> dict[Place, int]:
        """What the second one reads: of shards that others own."""
        return self.readers[1].places

    @property
    def polls(self) -> int:
        return self.readers[0].polls

    def pass_time(self, seconds: float) -> None:
        self.now_us += int(seconds * SECOND)
        for log in self.logs.values():
            log.now = self.now_us

    def clocks(self) -> Reading:
        return Reading(self.now_us, self.now_us)

    def put(self, topic: str, shard: int, message: object) -> None:
        self.inputs[topic, shard].append(encode(message))


class SenderDouble:
    """A producer: probes reach the reports at once, mail is kept."""

    def __init__(self, brokers: Brokers) -> None:
        self.fatal: str | None = None
        self.is_closed = False
        self.sent: list[Place] = []
        self._brokers = brokers
        brokers.senders.append(self)

    def send(
        self,
        topic: str,
        value: bytes,
        *,
        key: str | None,
        partition: int,
        on_result: Callable[[int | None, str | None], None],
    ) -> None:
        del key, on_result
        assert not self.is_closed
        assert self.fatal is None
        self.sent.append((topic, partition))
        if topic == REPORTS.name:
            self._brokers.inputs[topic, partition].append(value)

    def poll(self, timeout_s: float) -> None:
        del timeout_s
        assert not self.is_closed

    def close(self) -> None:
        self.is_closed = True


class LogDouble(MemoryLog):
    """A shard's log that cannot be asked while its shard is unavailable."""

    def __init__(self, brokers: Brokers, shard: int) -> None:
        super().__init__(brokers.logs[shard])
        self._brokers = brokers
        self._shard = shard

    def _ask(self) -> None:
        if self._shard in self._brokers.unavailable:
            raise LogUnavailable("leader not available")

    def read(self, offset: int, max_records: int) -> list[Entry]:
        self._ask()
        return super().read(offset, max_records)

    def end(self) -> int:
        self._ask()
        return super().end()

    def close(self) -> None:
        self._brokers.closed_logs.append(self._shard)


@dataclass
class ReaderDouble:
    """Reads where it was told to; an offset that is gone is an error."""

    brokers: Brokers
    places: dict[Place, int] = field(default_factory=dict)
    polls: int = 0

    def __post_init__(self) -> None:
        self.brokers.readers.append(self)

    def assign(self, positions: dict[Place, int]) -> None:
        self.places = dict(positions)

    def poll(self, timeout_s: float, max_records: int) -> list[Message]:
        del timeout_s, max_records
        self.polls += 1
        return list(self._records())

    def _records(self) -> Iterator[Message]:
        for place, position in self.places.items():
            if position < self.begin_offset(*place):
                raise OffsetOutOfRange(f"{place} does not hold {position}")
            values = self._values(place)
            self.places[place] = len(values)
            for offset in range(position, len(values)):
                yield Message(*place, offset, None, values[offset], [], self.brokers.now_us)

    def _values(self, place: Place) -> list[bytes]:
        topic, shard = place
        if topic != LOG.name:
            return self.brokers.inputs[place]
        if shard in self.brokers.unavailable:
            return []
        return [entry.value for entry in self.brokers.logs[shard].entries]

    def begin_offset(self, topic: str, partition: int) -> int:
        return self.brokers.begins.get((topic, partition), 0)

    def end_offset(self, topic: str, partition: int) -> int:
        return len(self._values((topic, partition)))


@dataclass
class MembershipDouble:
    """The group's wish, as the test sets it."""

    brokers: Brokers

    def poll(self, timeout_s: float) -> tuple[frozenset[int], bool]:
        del timeout_s
        changed = self.brokers.told != self.brokers.wished
        self.brokers.told = self.brokers.wished
        return self.brokers.wished, changed

    def commit(self, offsets: dict[int, int]) -> None:
        assert set(offsets) <= set(self.brokers.logs)


def doubled(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    """Puts doubles in the place of Kafka's clients and the clocks."""
    made = Brokers(
        {shard: MemoryPartition(now=Micros(START)) for shard in range(SHARDS)},
        {(topic.name, shard): [] for topic in (COMMANDS, REPORTS) for shard in range(SHARDS)},
    )

    def open_snapshot(_store: object, log: LogDouble, _shard: int) -> None:
        log.end()

    doubles: dict[str, object] = {
        "shard_count": lambda _bootstrap: SHARDS,
        "Sender": lambda _bootstrap, **_options: SenderDouble(made),
        "Reader": lambda _bootstrap: ReaderDouble(made),
        "Membership": lambda *_names: MembershipDouble(made),
        "SnapshotStore": lambda _bootstrap: None,
        "KafkaLog": lambda _bootstrap, shard, _timeout_s: LogDouble(made, shard),
        "load_snapshot": open_snapshot,
        "delete_before": lambda *_place: None,
        "read_clocks": made.clocks,
    }
    for name, double in doubles.items():
        monkeypatch.setattr(engine_process, name, double)
    monkeypatch.setattr("stream_processors.engine_process.time.sleep", lambda _seconds: None)
    return made


def go_on(process: EngineProcess, brokers: Brokers, turns: int = 12, apart_s: float = 0.2) -> None:
    """So many turns, far enough apart for the group to be asked in each."""
    for _ in range(turns):
        brokers.pass_time(apart_s)
        process.turn()


def owned(process: EngineProcess) -> list[int]:
    return sorted(shard for shard, runner in process._runners.items() if runner.engine.is_ready)


def owning(process: EngineProcess, brokers: Brokers, *shards: int) -> None:
    brokers.wished = frozenset(shards)
    go_on(process, brokers)
    assert owned(process) == sorted(shards)


def rival(brokers: Brokers, shard: int, *commands: Command) -> None:
    """Another process claims the shard, uses these commands and is heard of no more."""
    other = Process(World(brokers.logs[shard], list(commands), now_us=brokers.now_us), 2)
    other.settle()
    assert other.engine.is_ready


def jobs(process: EngineProcess, shard: int) -> int:
    return len(process._runners[shard].engine.state.jobs)
