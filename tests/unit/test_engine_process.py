"""The engine's process with several shards, on doubles for Kafka: one shard's trouble is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from infra.kafka import Message, OffsetOutOfRange
from infra.log import Entry, LogUnavailable, MemoryLog, MemoryPartition
from infra.settings import EngineSettings, KafkaSettings
from schemas.codec import encode
from schemas.commands import SubmitJob
from schemas.terms import JobSpec, JobTerms, Micros
from schemas.topics import COMMANDS, DISPATCH, REPORTS
from stream_processors import engine_process
from stream_processors.domain.draft import Command, CommandAt
from stream_processors.engine_process import MISSING_PATIENCE_US, EngineProcess
from stream_processors.log_clock import Reading
from stream_processors.shard_runner import BACKLOG_MAX
from tests.cluster import node, put_queue
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
    reading: dict[Place, int] = field(default_factory=dict)
    polls: int = 0
    senders: list[SenderDouble] = field(default_factory=list)
    closed_logs: list[int] = field(default_factory=list)
    now_us: int = START

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
    """Reads the inputs where it was told to; an offset that is gone is an error."""

    brokers: Brokers

    def assign(self, positions: dict[Place, int]) -> None:
        self.brokers.reading = dict(positions)

    def poll(self, timeout_s: float, max_records: int) -> list[Message]:
        del timeout_s, max_records
        self.brokers.polls += 1
        return list(self._records())

    def _records(self) -> Iterator[Message]:
        reading = self.brokers.reading
        for place, position in reading.items():
            if position < self.begin_offset(*place):
                raise OffsetOutOfRange(f"{place} does not hold {position}")
            values = self.brokers.inputs[place]
            reading[place] = len(values)
            for offset in range(position, len(values)):
                yield Message(*place, offset, None, values[offset], [], self.brokers.now_us)

    def begin_offset(self, topic: str, partition: int) -> int:
        return self.brokers.begins.get((topic, partition), 0)

    def end_offset(self, topic: str, partition: int) -> int:
        return len(self.brokers.inputs[topic, partition])


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


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
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


@pytest.fixture
def process(brokers: Brokers) -> EngineProcess:
    return EngineProcess(KafkaSettings(), EngineSettings())


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


def test_a_shard_that_could_not_be_opened_is_opened_later(
    brokers: Brokers, process: EngineProcess
) -> None:
    brokers.unavailable = {0}
    brokers.wished = frozenset({0})
    go_on(process, brokers)
    assert owned(process) == []
    assert len(brokers.closed_logs) == 12, "a handle that came to nothing is let go of"
    brokers.unavailable = set()
    go_on(process, brokers)
    assert owned(process) == [0]


def test_a_shard_opened_beside_one_that_could_not_be_is_given_up_when_revoked(
    brokers: Brokers, process: EngineProcess
) -> None:
    brokers.unavailable = {1}
    brokers.wished = frozenset({0, 1})
    go_on(process, brokers)
    assert owned(process) == [0]
    brokers.wished = frozenset()
    go_on(process, brokers)
    assert owned(process) == []
    rival(brokers, 0)
    go_on(process, brokers, apart_s=1.0)
    assert process._runners == {}, "nothing of it can count any more"
    assert brokers.closed_logs.count(0) == 1


def test_a_revoked_shard_with_a_backlog_does_not_stop_its_neighbour_from_reading(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0, 1)
    leaving = process._runners[0]
    command = put_queue("q")
    for offset in range(BACKLOG_MAX + 1):
        leaving.engine.receive_command(CommandAt(offset, START, command), 100)
    brokers.wished = frozenset({1})
    brokers.put(COMMANDS.name, 1, put_queue("fast"))
    polls = brokers.polls
    go_on(process, brokers, turns=2)
    assert brokers.polls == polls + 2
    assert leaving.engine.backlog == 0


def test_nothing_is_read_while_a_shard_has_too_much_to_decide(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0)
    brokers.unavailable = {0}
    engine = process._runners[0].engine
    for offset in range(BACKLOG_MAX + 1):
        engine.receive_command(CommandAt(offset, START, put_queue("q")), 100)
    polls = brokers.polls
    process._receive(0.0)
    assert brokers.polls == polls


def test_inputs_of_a_revoked_shard_are_no_longer_read(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0, 1)
    assert {shard for _, shard in brokers.reading} == {0, 1}
    brokers.wished = frozenset({1})
    go_on(process, brokers, turns=1)
    assert {shard for _, shard in brokers.reading} == {1}
    brokers.wished = frozenset()
    go_on(process, brokers, turns=1)
    assert brokers.reading == {}


def test_a_shard_whose_log_is_unavailable_does_not_stop_its_neighbour(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0, 1)
    brokers.unavailable = {0}
    polls, records = brokers.polls, len(brokers.logs[1].entries)
    brokers.put(COMMANDS.name, 1, put_queue("fast"))
    go_on(process, brokers, turns=20, apart_s=6.0)
    assert brokers.polls == polls + 20
    assert len(brokers.logs[1].entries) > records
    brokers.unavailable = set()
    go_on(process, brokers)
    assert owned(process) == [0, 1]


def missing(brokers: Brokers, shard: int) -> None:
    """The first two commands are deleted, and the reader is sent back to the first."""
    brokers.begins[COMMANDS.name, shard] = 2
    brokers.reading[COMMANDS.name, shard] = 0


def test_an_input_out_of_range_ends_the_process_only_when_it_outlives_the_patience(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0, 1)
    missing(brokers, 0)
    go_on(process, brokers, turns=2, apart_s=MISSING_PATIENCE_US / SECOND / 2)
    assert owned(process) == [0, 1]
    with pytest.raises(OffsetOutOfRange):
        go_on(process, brokers, turns=2, apart_s=MISSING_PATIENCE_US / SECOND / 2)


def test_an_input_out_of_range_that_was_there_again_for_long_begins_its_patience_anew(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0)
    for _ in range(3):
        missing(brokers, 0)
        go_on(process, brokers, turns=2, apart_s=5.0)
        brokers.begins.clear()
        go_on(process, brokers, turns=2, apart_s=MISSING_PATIENCE_US / SECOND)
    assert owned(process) == [0]


def test_inputs_that_another_owner_has_used_and_let_go_of_are_no_fault(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0)
    rival(brokers, 0, put_queue("fast"), put_queue("slow"))
    missing(brokers, 0)
    brokers.inputs[COMMANDS.name, 0] = [b"", b""]
    go_on(process, brokers, turns=20, apart_s=3.0)
    assert owned(process) == [0], "it has read on, and claimed again behind the other"
    assert brokers.reading[COMMANDS.name, 0] == 2


def test_a_mail_producer_that_failed_for_good_is_replaced(
    brokers: Brokers, process: EngineProcess
) -> None:
    home = next(shard for shard in range(SHARDS) if has_default_pool(process, brokers, shard))
    brokers.senders[0].fatal = "fenced by the broker"
    brokers.put(REPORTS.name, home, node())
    brokers.put(
        COMMANDS.name, home, SubmitJob(JobTerms(), "a", 50, (), 0, "me", JobSpec("training"))
    )
    go_on(process, brokers)
    first, second = brokers.senders
    assert first.is_closed
    assert any(topic == DISPATCH.name for topic, _ in second.sent)
    assert jobs(process, home) == 1


def has_default_pool(process: EngineProcess, brokers: Brokers, shard: int) -> bool:
    owning(process, brokers, shard)
    return "default" in process._runners[shard].engine.state.pools


def test_a_shard_that_is_wished_for_again_before_anyone_took_it_is_claimed_anew(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0)
    runner = process._runners[0]
    brokers.wished = frozenset()
    go_on(process, brokers)
    assert owned(process) == []
    owning(process, brokers, 0)
    assert process._runners[0] is runner
    assert runner.engine.epoch == 2
