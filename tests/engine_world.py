"""An engine of one shard over a log in memory: real machines, faults on demand, time by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from infra.follow import ShardFollower
from infra.log import MemoryLog, MemoryPartition, ShardLog
from infra.state_codec import Snapshot, decode_snapshot, encode_snapshot
from schemas.codec import decode
from schemas.dispatch import Dispatch
from schemas.terms import Micros
from schemas.topics import DISPATCH, REPORTS
from stream_processors.domain.draft import Command, CommandAt, Policy, Report
from stream_processors.engine import EngineOptions, SaveSnapshot, ShardEngine
from stream_processors.log_clock import Reading
from stream_processors.ownership import Ownership, OwnershipOptions
from stream_processors.shard_driver import ShardDriver
from stream_processors.shard_runner import ShardRunner

SECOND = 1_000_000
START = 1_000_000 * SECOND


@dataclass
class World:
    """What survives processes: the log, the inputs, the clock, and what was sent."""

    partition: MemoryPartition = field(default_factory=MemoryPartition)
    commands: list[Command] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    mail: list[Dispatch] = field(default_factory=list)
    now_us: int = START
    holds_probes: bool = False
    probes: list[Report] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.partition.now = Micros(self.now_us)

    def pass_time(self, seconds: float) -> None:
        self.now_us += int(seconds * SECOND)
        self.partition.now = Micros(self.now_us)

    def fold(self) -> ShardFollower:
        follower = ShardFollower(0)
        for entry in self.partition.entries:
            follower.feed(entry)
        return follower


@dataclass
class Process:
    """One engine process on the world. Stop calling it and it is dead."""

    world: World
    name: int
    options: EngineOptions = field(default_factory=lambda: EngineOptions(Policy(shards=1)))

    def __post_init__(self) -> None:
        owner = bytes([self.name]) * 16
        self.log = MemoryLog(self.world.partition)
        self.saved: list[bytes] = []
        self.marks = len(self.world.reports)
        driver = ShardDriver(Ownership(owner, OwnershipOptions(max_in_flight=3)), self.log)
        engine = ShardEngine(0, owner, self.options)
        self.runner = ShardRunner(engine, driver, self.log, self, self)
        self.runner.assigned(self.now)

    @property
    def now(self) -> Reading:
        return Reading(self.world.now_us, self.world.now_us)

    @property
    def engine(self) -> ShardEngine:
        return self.runner.engine

    def send(self, topic: str, partition: int, key: str, value: bytes) -> None:
        del partition, key
        if topic == DISPATCH.name:
            self.world.mail.append(decode(value))
        else:
            assert topic == REPORTS.name
            (self.world.probes if self.world.holds_probes else self.world.reports).append(
                decode(value)
            )

    def save(self, effect: SaveSnapshot) -> None:
        self.saved.append(encode_snapshot(effect.snapshot))

    def newest(self, log: ShardLog, shard: int, max_seq: int) -> Snapshot | None:
        del log, shard
        snapshots = [decode_snapshot(data) for data in reversed(self.saved[-2:])]
        return next((one for one in snapshots if one.chain.seq <= max_seq), None)

    def turn(self, *, decides: bool = True) -> None:
        """One round of the process's loop: outcomes, inputs, decisions."""
        self.runner.step(self.now, 0.0)
        self.runner.seek = False
        engine = self.engine
        if not engine.is_ready:
            self.follow()
            return
        for offset in range(engine.read_positions.commands, len(self.world.commands)):
            received = CommandAt(offset, self.world.now_us, self.world.commands[offset])
            engine.receive_command(received, 100)
        for offset in range(engine.read_positions.reports, len(self.world.reports)):
            self.runner.receive_report(offset, 100, self.world.reports[offset], self.now)
        if decides:
            self.runner.decide(self.now)

    def follow(self) -> None:
        """Go on with the log and the marks of a shard that another owns."""
        stands = self.runner.driver.ownership.counted.next_offset
        self.runner.follow(self.world.partition.entries[stands:], self.now)
        for offset in range(self.marks, len(self.world.reports)):
            self.runner.receive_report(offset, 100, self.world.reports[offset], self.now)
        self.marks = len(self.world.reports)

    def settle(self, turns: int = 12) -> None:
        """Enough rounds for everything that can happen without time passing."""
        for _ in range(turns):
            self.turn()
