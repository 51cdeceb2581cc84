"""An engine process in the simulated world: the real `EngineProcess` with simulated hands.

Everything in it is the product's, its loop included; what it takes for Kafka's clients, for the
operating system's clocks and for a thread that saves snapshots is made here and put in its place by
`surroundings.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from infra.kafka_port import KafkaUnavailable, Message
from infra.log import Entry, LogUnavailable, Outcome, ShardLog
from infra.settings import AdmissionSettings, EngineSettings, KafkaSettings
from infra.snapshots import MemoryShelf, Records, SnapshotStore
from infra.state_codec import Snapshot, encode_snapshot, manifest_of
from schemas.codec import decode
from schemas.dispatch import Dispatch
from schemas.envelope import Claim, Decision
from schemas.reports import Probe
from schemas.topics import LOG, REPORTS
from stream_processors import engine_process
from stream_processors.engine import SIGN, SaveSnapshot
from stream_processors.log_clock import Reading
from stream_processors.shard_runner import ShardRunner
from stream_processors.snapshot_loading import load_snapshot
from stream_processors.tail import Tail
from tests.simulation.effects import watch_effects
from tests.simulation.history import EVENT_NAMES, event_names
from tests.simulation.kafka import Group, Kafka, Place, Reader, call
from tests.simulation.world import SECOND, World

if TYPE_CHECKING:
    from tests.simulation.system import System

SHARDS = 2
TIMEOUT_S = 1.5
KAFKA = KafkaSettings.model_construct(bootstrap="simulated", message_timeout_s=TIMEOUT_S)
ADMISSION = AdmissionSettings.model_construct()
ENGINE = EngineSettings.model_construct(
    batch_max_commands=8,
    pipeline_depth=3,
    snapshot_every_records=30,
    snapshot_every_s=8.0,
    resend_after_s=1.0,
    retain_finished_s=6.0,
    lease_drift_milli=50,
    lease_margin_s=0.3,
    poll_s=0.2,
)
"""Everything soon, so that a short run sees much."""
READS = {
    "READING": "read before claim",
    "CLAIMING": "read own claim",
    "RESOLVING": "read after doubt",
}
APPENDS = (
    ("NodesLost", "append node lost"),
    ("GangsReleased", "append gang release"),
    ("RetriesScheduled", "append retry"),
    ("TasksPlaced", "append placement"),
)


class SimLog:
    """One process's handle on a shard's log; `runner` is who uses it, once there is one."""

    def __init__(self, kafka: Kafka, shard: int) -> None:
        self.kafka = kafka
        self.process = kafka.world.me()
        self.place = (LOG.name, shard)
        self.runner: ShardRunner | None = None
        self._outcomes: list[Outcome] = []

    def append(self, value: bytes, token: int) -> None:
        """Send a record; the outcome comes by `poll`."""

        def on_result(offset: int | None, error: str | None) -> None:
            self._outcomes.append(Outcome(token, offset, error))

        self.kafka.send(_append_step(value), (self.place, ""), value, on_result, TIMEOUT_S)

    def poll(self, timeout_s: float) -> list[Outcome]:
        """Outcomes so far; waits a little for the first."""
        if not self._outcomes and timeout_s > 0:
            self.process.wait(int(timeout_s * SECOND), wakeable=True)
        if not self._outcomes:
            return []
        world = self.kafka.world
        fault = world.begin("acknowledgement")
        outcomes, self._outcomes = self._outcomes, []
        world.finish(fault)
        return outcomes

    def read(self, offset: int, max_records: int) -> list[Entry]:
        """Records from `offset` on."""
        part = self.kafka.part(self.place)

        def read() -> list[Entry]:
            return part.read(offset, min(part.end, offset + max_records))

        return call(self.kafka.world, self._step(), read, LogUnavailable)

    def end(self) -> int:
        """Asked of the leader."""
        part = self.kafka.part(self.place)
        return call(self.kafka.world, self._step(), lambda: part.end, LogUnavailable)

    def close(self) -> None:
        """Nothing is held."""

    def _step(self) -> str:
        if self.runner is None:
            return "load snapshot"
        if self.runner.refold is not None:
            return "refold"
        return READS.get(self.runner.driver.ownership.phase.name, "recheck")


def _append_step(value: bytes) -> str:
    record = decode(value)
    if isinstance(record, Claim):
        return "claim"
    assert isinstance(record, Decision)
    names = event_names(record)
    return next((step for name, step in APPENDS if name in names), "append")


class SimShelf(MemoryShelf):
    """The snapshots topic; every call is a step."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def append(self, shard: int, records: Records) -> None:
        """Write all of these."""
        write = super().append
        call(self.world, "save snapshot", lambda: write(shard, records), KafkaUnavailable)

    def windows(self, shard: int) -> Iterator[Records]:
        """Stretches of records, newest first."""
        look = super().windows
        yield from call(self.world, "load snapshot", lambda: look(shard), KafkaUnavailable)


class SimSnapshots:
    """Saves and finds snapshots: the state as it is now, written by a thread of the process."""

    def __init__(self, system: System) -> None:
        self.process = system.world.me()
        self.store = SnapshotStore(system.shelf)
        self.on_saved = system.snapshot_made
        self._saving: dict[int, None] = {}

    def save(self, effect: SaveSnapshot) -> None:
        """Keep one, soon; none while another of the shard is being kept."""
        shard = effect.snapshot.state.shard
        if shard in self._saving:
            return
        self._saving[shard] = None
        data = encode_snapshot(effect.snapshot)
        manifest = manifest_of(effect.snapshot, data)
        self.on_saved(shard, data)

        def keep() -> None:
            try:
                self.store.save(manifest, data)
            except KafkaUnavailable:
                return
            finally:
                self._saving.pop(shard, None)

        self.process.spawn_thread("snapshots", keep)

    def newest(self, log: ShardLog, shard: int, max_seq: int) -> Snapshot | None:
        """As the product finds them."""
        return load_snapshot(self.store, log, shard, max_seq)

    def close(self) -> None:
        """Nothing is held."""


class SimReader:
    """What the process takes for a Kafka consumer."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.reader = Reader(kafka, kafka.world.me(), "poll inputs")

    def assign(self, offsets: dict[Place, int]) -> None:
        """Read these, each from its offset."""
        self.reader.assign(offsets)

    def poll(self, timeout_s: float, most: int) -> list[Message]:
        """What is at hand, or comes in time."""
        return [
            Message(*place, entry.offset, key.encode(), entry.value, [], entry.at)
            for place, entry, key in self.reader.poll(timeout_s, most)
        ]

    def begin_offset(self, topic: str, shard: int) -> int:
        """The first record that is still there."""
        part = self.kafka.part((topic, shard))
        return call(self.kafka.world, "find end", lambda: part.start, KafkaUnavailable)

    def end_offset(self, topic: str, shard: int) -> int:
        """Where the next record will lie."""
        part = self.kafka.part((topic, shard))
        return call(self.kafka.world, "find end", lambda: part.end, KafkaUnavailable)


class SimSender:
    """What the process takes for a Kafka producer: mail, probes and signs of life."""

    fatal = None

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.process = kafka.world.me()

    def send(
        self, topic: str, value: bytes, *, key: str | None, partition: int, on_result: Any
    ) -> None:
        """Produce a record."""
        step = _report_step(value) if topic == REPORTS.name else _dispatch_step(value)
        self.kafka.send(step, ((topic, partition), key or ""), value, on_result, TIMEOUT_S)

    def poll(self, _timeout_s: float) -> None:
        """A turn takes time, however little."""
        self.process.wait(300)


class SimMembership:
    """What the process takes for its membership in the group of engines."""

    def __init__(self, world: World, group: Group) -> None:
        self.world = world
        self.group = group
        self.process = world.me()
        self._last: set[int] = set()

    def poll(self, _timeout_s: float) -> tuple[set[int], bool]:
        """The shards that the group means this process to own, and whether that has changed."""
        before, process = self._last, self.process
        try:
            self._last = call(
                self.world, "join group", lambda: self.group.poll(process), KafkaUnavailable
            )
        except KafkaUnavailable:
            return before, False
        return self._last, self._last != before

    def commit(self, _offsets: dict[int, int]) -> None:
        """Positions for dashboards."""


def run_engine() -> None:
    """One start of an engine process, for ever."""
    engine_process.EngineProcess(KAFKA, ENGINE, ADMISSION).run(lambda: False)


def engine_hands(system: System) -> dict[str, Any]:
    """Names of `engine_process.py`, and what stands for them in the simulated world."""
    world, kafka = system.world, system.kafka

    def read_clocks() -> Reading:
        host, now = world.me().host, world.now_us
        return Reading(host.boot_us(now), host.wall_us(now))

    def tail(reader: SimReader) -> Tail:
        reader.reader.step = "follow owner"
        return Tail(reader)  # type: ignore[arg-type]  # it reads as the real one does

    def runner(*parts: Any) -> ShardRunner:
        made = ShardRunner(*parts)
        assert isinstance(made.log, SimLog)
        made.log.runner = made
        watch_effects(made, EVENT_NAMES)
        return made

    def trim(_bootstrap: str, topic: str, shard: int, offset: int) -> None:
        call(world, "trim inputs", lambda: system.trim((topic, shard), offset), KafkaUnavailable)

    return {
        "Reader": lambda _: SimReader(kafka),
        "Sender": lambda *_, **__: SimSender(kafka),
        "Membership": lambda *_: SimMembership(world, system.group),
        "KafkaLog": lambda _bootstrap, shard, _timeout_s: SimLog(kafka, shard),
        "KafkaSnapshots": lambda _: SimSnapshots(system),
        "SnapshotStore": lambda _: SnapshotStore(system.shelf),
        "ShardRunner": runner,
        "Tail": tail,
        "delete_before": trim,
        "shard_count": lambda _: SHARDS,
        "read_clocks": read_clocks,
        "spare_the_fold": lambda: None,
        "gauge": lambda *_, **__: None,
        "os": SimpleNamespace(urandom=world.chance.randbytes),
        "time": SimpleNamespace(sleep=lambda seconds: world.me().wait(int(seconds * SECOND))),
        "ACK_WAIT_S": 0.01,
        "MEMBERSHIP_EVERY_US": SECOND // 2,
        "HOUSEKEEPING_EVERY_US": 3 * SECOND,
    }


def _report_step(value: bytes) -> str:
    mark = decode(value)
    assert isinstance(mark, Probe)
    return "sign of life" if mark.nonce == SIGN else "probe"


def _dispatch_step(value: bytes) -> str:
    mail = decode(value)
    assert isinstance(mail, Dispatch)
    if mail.starts.job_nos:
        return "dispatch starts"
    if mail.releases.job_nos:
        return "dispatch releases"
    return "dispatch stops" if mail.stops.job_nos else "dispatch answers"
