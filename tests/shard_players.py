"""Processes on one log, memory or Kafka, on real time: for the contract tests of logs.

`log_case` gives one adapter; `FaultyLog` stands between a process and its log and makes faults on
either; `Player` is one process, an `Ownership` with what it was told. Fake time and drawn
schedules are in `shard_world.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol, Self
from uuid import uuid4

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented, not re-exported
    AdminClient,
    NewTopic,
)

from infra.kafka_log import KafkaLog
from infra.log import (
    Entry,
    LogUnavailable,
    MemoryLog,
    MemoryPartition,
    Outcome,
    ShardLog,
    read_record,
)
from schemas.envelope import Consumed, Decision, EncodedEvent, Input
from stream_processors.domain.counting import GENESIS, Chain, Verdict, judge
from stream_processors.log_clock import Reading
from stream_processors.ownership import Ownership, OwnershipOptions, Phase
from stream_processors.ownership_effects import Counted, Signal
from stream_processors.shard_driver import ShardDriver

WITHIN_S = 15.0
FOREIGN_TOKEN = 1 << 40
"""Tokens from here on are the tests' own sends, not an owner's."""
TOKENS = count(FOREIGN_TOKEN)


class Servers(Protocol):
    """What the `servers` fixture gives to these tests."""

    @property
    def bootstrap(self) -> str: ...


@dataclass
class LogCase:
    """One adapter: `open` gives a new process's handle on the same log, `other` a second log."""

    open: Callable[[], ShardLog]
    open_other: Callable[[], ShardLog]


def now() -> Reading:
    return Reading(time.monotonic_ns() // 1000, time.time_ns() // 1000)


@contextmanager
def log_case(request: pytest.FixtureRequest) -> Iterator[LogCase]:
    """The adapter that the fixture's parameter names."""
    if request.param == "memory":
        partitions = [MemoryPartition(now=now().wall_us) for _ in range(2)]
        yield LogCase(lambda: MemoryLog(partitions[0]), lambda: MemoryLog(partitions[1]))
        return
    servers: Servers = request.getfixturevalue("servers")
    with KafkaTopic(servers.bootstrap) as topic:
        yield LogCase(lambda: topic.open(0), lambda: topic.open(1))


class KafkaTopic:
    """A topic of its own with two partitions, and handles that are closed at the end."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.topic = f"foldline.test.log.{uuid4().hex}"
        self.handles: list[KafkaLog] = []

    def __enter__(self) -> Self:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        config = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "9000000"}
        wanted = [NewTopic(self.topic, 2, 1, config=config)]
        for created in admin.create_topics(wanted).values():
            created.result(WITHIN_S)
        until(lambda: all(self._is_led(shard) for shard in range(2)))
        return self

    def _is_led(self, shard: int) -> bool:
        log = self.open(shard)
        try:
            return log.end() == 0
        except LogUnavailable:
            return False

    def open(self, shard: int, bootstrap: str = "", send_timeout_s: float = 5.0) -> KafkaLog:
        log = KafkaLog(bootstrap or self.bootstrap, shard, send_timeout_s, topic=self.topic)
        self.handles.append(log)
        return log

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.close()


@dataclass
class FaultyLog:
    """A handle whose sends can be held, repeated, or left without an answer."""

    log: ShardLog
    holds: bool = False
    loses_answers: bool = False
    held: list[tuple[bytes, int]] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    waiting: list[Outcome] = field(default_factory=list)

    def close(self) -> None:
        self.log.close()

    def append(self, value: bytes, token: int) -> None:
        self.sent.append(value)
        if self.holds:
            self.held.append((value, token))
        else:
            self.log.append(value, token)

    def poll(self, timeout_s: float) -> list[Outcome]:
        self._collect(timeout_s)
        outcomes, self.waiting = self.waiting, []
        return outcomes

    def read(self, offset: int, max_records: int) -> list[Entry]:
        return self.log.read(offset, max_records)

    def end(self) -> int:
        return self.log.end()

    def give_up(self) -> None:
        """What is held is reported as failed, but may still land."""
        self.waiting += [Outcome(token, None, "no answer in time") for _, token in self.held]

    def land(self, value: bytes) -> None:
        """These bytes appear in the log now, whoever sent them, and nobody is told."""
        end = self.end()
        self.log.append(value, next(TOKENS))
        until(lambda: self.end() > end, lambda: self._collect(0.01))

    def _collect(self, timeout_s: float) -> None:
        found = [one for one in self.log.poll(timeout_s) if one.token < FOREIGN_TOKEN]
        if self.loses_answers:
            found = [Outcome(one.token, None, "the answer was lost") for one in found]
        self.waiting += found


@dataclass
class Player:
    """One process: an ownership on a log, and what it was told."""

    log: FaultyLog
    owner: bytes
    signals: list[Signal] = field(default_factory=list)
    options: OwnershipOptions = field(
        default_factory=lambda: OwnershipOptions(wait_us=50_000, recheck_us=50_000)
    )

    def __post_init__(self) -> None:
        self.ownership = Ownership(self.owner, self.options)
        self.driver = ShardDriver(self.ownership, self.log)

    def assign(self) -> None:
        self.signals += self.driver.assigned(now())

    def step(self) -> None:
        self.signals += self.driver.step(now(), 0.002)

    def own(self) -> Player:
        self.assign()
        self.step_until(lambda: self.ownership.phase is Phase.OWNING)
        return self

    def decide(self, data: bytes = b"", inputs: int = 1) -> int:
        start = self.ownership.head.consumed.commands
        consumed = (Consumed(Input.COMMANDS, start, start + inputs),)
        at = self.ownership.log_time(now())
        return self.driver.append((EncodedEvent(1, data),), consumed, at, now())

    def step_until(self, condition: Callable[[], bool]) -> None:
        until(condition, self.step)

    def of(self, kind: type[Signal]) -> list[Signal]:
        return [signal for signal in self.signals if isinstance(signal, kind)]

    @property
    def effects(self) -> list[int]:
        """Offsets of the decisions whose effects it would have run."""
        return [
            signal.offset
            for signal in self.signals
            if isinstance(signal, Counted) and signal.own and isinstance(signal.record, Decision)
        ]


def until(condition: Callable[[], bool], step: Callable[[], object] = lambda: None) -> None:
    """Step until the condition holds, at most `WITHIN_S`."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        step()
        time.sleep(0.001)


def append(log: ShardLog, *values: bytes) -> list[int]:
    """Append and wait for the offsets."""
    outcomes: list[Outcome] = []
    for value in values:
        log.append(value, next(TOKENS))
    until(lambda: len(outcomes) == len(values), lambda: outcomes.extend(log.poll(0.01)))
    offsets = [outcome.offset for outcome in sorted(outcomes, key=lambda one: one.token)]
    assert all(outcome.error is None for outcome in outcomes), outcomes
    return [offset for offset in offsets if offset is not None]


def read_all(log: ShardLog) -> list[Entry]:
    entries: list[Entry] = []
    end = log.end()
    until(lambda: len(entries) == end, lambda: entries.extend(log.read(len(entries), 100)))
    return entries


def counted(entries: Sequence[Entry]) -> tuple[Chain, list[Verdict]]:
    """What any reader finds who reads from the beginning."""
    chain, verdicts = GENESIS, []
    for entry in entries:
        chain, verdict = judge(chain, read_record(entry.value), entry.value, entry.offset)
        verdicts.append(verdict)
    return chain, verdicts
