"""The engine's process: one loop that polls, then drains, then decides, for all its shards.

Reads commands and reports of the shards it owns, writes their log, dispatch and snapshots; follows
the log of all others and stands by for them (`tail.py`). Who should own which shard is suggested by
a consumer group, and by an owner's silence; the log decides (`ownership.py`). A record that must
not be skipped, or an input offset out of range, ends the process loudly.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import structlog

from infra.collector import spare_the_fold
from infra.kafka import (
    KafkaUnavailable,
    Membership,
    Message,
    OffsetOutOfRange,
    Reader,
    Sender,
    delete_before,
    shard_count,
)
from infra.kafka_log import KafkaLog
from infra.log import LogUnavailable
from infra.settings import AdmissionSettings, EngineSettings, KafkaSettings
from infra.snapshots import SnapshotStore
from infra.telemetry import count, gauge
from schemas.topics import COMMANDS, REPORTS
from stream_processors.domain.counting import Positions
from stream_processors.domain.draft import Command, CommandAt, Policy, Report, Unreadable
from stream_processors.engine import EngineOptions, ShardEngine
from stream_processors.inputs import command_of, report_of
from stream_processors.leases import LeaseRules
from stream_processors.log_clock import Reading
from stream_processors.ownership import Ownership, OwnershipOptions
from stream_processors.shard_driver import ShardDriver
from stream_processors.shard_runner import ShardRunner
from stream_processors.snapshot_loading import load_snapshot
from stream_processors.snapshot_saving import KafkaSnapshots
from stream_processors.tail import Tail

LOG = structlog.get_logger("foldline.engine")
GROUP = "foldline.engine.v1"
DRAIN_RECORDS = 10_000
ACK_WAIT_S = 0.001
"""How long a turn waits for acknowledgements while decisions are in flight."""
MEMBERSHIP_EVERY_US = 100_000
MISSING_PATIENCE_US = 15_000_000
HOUSEKEEPING_EVERY_US = 10_000_000


def read_clocks() -> Reading:
    """The boot-time clock, which goes on while the host sleeps, and wall time; microseconds."""
    return Reading(time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000, time.time_ns() // 1000)


@dataclass(slots=True)
class _KafkaOutbox:
    """Mail and probes by one producer; failures are told and sent again by the machines."""

    make: Callable[[], Sender]
    sender: Sender = field(init=False)

    def __post_init__(self) -> None:
        """The first producer."""
        self.sender = self.make()

    def send(self, topic: str, partition: int, key: str, value: bytes) -> None:
        """Send one record; a producer that has failed for good is replaced first."""
        if self.sender.fatal is not None:
            self.sender.close()
            self.sender = self.make()
        self.sender.send(
            topic, value, key=key or None, partition=partition, on_result=self._on_result
        )

    @staticmethod
    def _on_result(_offset: int | None, error: str | None) -> None:
        if error is not None:
            LOG.warning("mail_not_sent", error=error)


class EngineProcess:
    """All shards that this process owns or stands by for."""

    def __init__(
        self, kafka: KafkaSettings, engine: EngineSettings, admission: AdmissionSettings
    ) -> None:
        """Connects; `run` works until told to stop."""
        self._kafka = kafka
        self._settings = engine
        self._shards = frozenset(range(shard_count(kafka.bootstrap)))
        self._options = engine_options(engine, admission, len(self._shards))
        self._outbox = _KafkaOutbox(
            partial(Sender, kafka.bootstrap, message_timeout_s=kafka.message_timeout_s)
        )
        self._reader = Reader(kafka.bootstrap)
        self._tail = Tail(Reader(kafka.bootstrap))
        self._follows_anew = False
        self._membership = Membership(kafka.bootstrap, GROUP, COMMANDS.name)
        self._store = SnapshotStore(kafka.bootstrap)
        self._snapshots = KafkaSnapshots(SnapshotStore(kafka.bootstrap))
        self._runners: dict[int, ShardRunner] = {}
        self._assigned: set[int] = set()
        self._missing_us: dict[int, int] = {}
        self._missed_us = 0
        self._membership_us = 0
        self._kept_us = 0

    def run(self, stop: Callable[[], bool]) -> int:
        """The loop, until `stop` says so; then gives the shards back."""
        while not stop():
            with self._passing_over("turn"):
                self.turn()
        self._membership.close()
        self._snapshots.close()
        self._outbox.sender.flush(5.0)
        return 0

    def turn(self) -> None:
        """One round: membership, outcomes, inputs, decisions."""
        now = read_clocks()
        self._follow_membership(now)
        for shard, runner in self._runners.items():
            with self._passing_over("shard", shard):
                in_flight = runner.driver.ownership.in_flight > 0
                runner.step(now, ACK_WAIT_S if in_flight else 0.0)
        self._seek()
        busy = self._tail.is_behind or any(runner.is_busy for runner in self._runners.values())
        self._receive(0.0 if busy else self._settings.poll_s)
        now = read_clocks()
        with self._passing_over("following"):
            self._tail.poll(self._runners, now)
        for shard, runner in self._runners.items():
            with self._passing_over("shard", shard):
                runner.decide(now)
        self._outbox.sender.poll(0.0)
        self._keep_house(now)

    @contextmanager
    def _passing_over(self, what: str, shard: int | None = None) -> Iterator[None]:
        """What cannot be reached now is tried again in the next turn, and holds nobody else up.

        An offset out of range passes: never a silent reset, the process ends and people look.
        """
        try:
            yield
        except OffsetOutOfRange:
            raise
        except (KafkaUnavailable, LogUnavailable) as error:
            LOG.warning("kafka_unavailable", what=what, shard=shard, error=str(error))

    def _receive(self, timeout_s: float) -> None:
        """Poll, then drain; nothing is read while too much is waiting to be decided."""
        if any(runner.is_full for runner in self._runners.values()):
            return
        try:
            messages = self._reader.poll(timeout_s, DRAIN_RECORDS)
        except OffsetOutOfRange as error:
            self._miss(error, read_clocks())
            return
        # Not before: this process may have been stopped while it polled, and would then date
        # heartbeats before they were sent.
        now = read_clocks()
        for message in messages:
            self._deliver(message, now)

    def _miss(self, error: OffsetOutOfRange, now: Reading) -> None:
        """An input lost records that we have not used: fatal, unless another owner used them.

        A process that was paused may find that its successor has consumed and let go of them. Its
        ownerships read on every few seconds and step down then; only if the error outlives that
        is it ours.
        """
        if now.monotonic_us - self._missed_us > MISSING_PATIENCE_US:
            self._missing_us = {}  # it had been mended since
        self._missed_us = now.monotonic_us
        since = {
            shard: self._missing_us.get(shard, now.monotonic_us)
            for shard, runner in self._runners.items()
            if runner.engine.is_ready and self._lacks(shard, runner.engine.read_positions)
        }
        self._missing_us = since
        LOG.error("input_out_of_range", shards=sorted(since), error=str(error))
        if any(now.monotonic_us - begun > MISSING_PATIENCE_US for begun in since.values()):
            raise error
        time.sleep(self._settings.poll_s)
        for runner in self._runners.values():
            runner.seek = True

    def _lacks(self, shard: int, positions: Positions) -> bool:
        places = ((COMMANDS, positions.commands), (REPORTS, positions.reports))
        return any(self._reader.begin_offset(topic.name, shard) > at for topic, at in places)

    def _deliver(self, message: Message, now: Reading) -> None:
        runner = self._runners.get(message.partition)
        if runner is None:
            return
        size = len(message.value or b"")
        if message.topic == COMMANDS.name:
            command = command_of(message)
            _note_parked("commands", message, command)
            received = CommandAt(message.offset, message.at, command)
            runner.engine.receive_command(received, size)
        else:
            report = report_of(message)
            _note_parked("reports", message, report)
            runner.receive_report(message.offset, size, report, now)

    def _seek(self) -> None:
        """Assign all anew when a shard must reread its inputs, or is followed from now on."""
        if any(runner.seek for runner in self._runners.values()):
            self._assign_inputs()
            self._follows_anew = True
        if self._follows_anew:
            runners = self._runners.items()
            with self._passing_over("following"):
                self._tail.assign({key: one for key, one in runners if not one.engine.is_ready})
                self._follows_anew = False

    def _assign_inputs(self) -> None:
        offsets: dict[tuple[str, int], int] = {}
        for shard, runner in self._runners.items():
            if runner.engine.is_ready:
                positions = runner.engine.read_positions
                offsets[COMMANDS.name, shard] = positions.commands
                offsets[REPORTS.name, shard] = positions.reports
            runner.seek = False
        self._reader.assign(offsets)

    def _follow_membership(self, now: Reading) -> None:
        if now.monotonic_us - self._membership_us < MEMBERSHIP_EVERY_US:
            return
        self._membership_us = now.monotonic_us
        assigned, changed = self._membership.poll(0.0)
        if changed:
            LOG.info("assigned", shards=sorted(assigned))
        for shard in sorted(self._assigned - assigned):
            self._assigned.discard(shard)
            self._runners[shard].revoked(now)
        wanted = assigned | (
            self._shards - self._tail.given_up if self._settings.stands_by else set()
        )
        for shard in [key for key, runner in self._runners.items() if runner.is_done]:
            if shard not in wanted:
                self._close(shard)
        for shard in sorted(wanted):
            with self._passing_over("open", shard):
                self._open(shard)
                if shard in assigned - self._assigned:
                    self._assigned.add(shard)
                    self._runners[shard].assigned(now)

    def _close(self, shard: int) -> None:
        self._runners.pop(shard).log.close()
        self._follows_anew = True

    def _open(self, shard: int) -> None:
        """Make the shard's runner, if it is not there already; it follows."""
        if shard in self._runners:
            return
        log = KafkaLog(self._kafka.bootstrap, shard, self._kafka.message_timeout_s)
        try:
            snapshot = load_snapshot(self._store, log, shard)
        except (KafkaUnavailable, LogUnavailable):
            log.close()
            raise
        owner = os.urandom(16)
        engine = ShardEngine(shard, owner, self._options, snapshot)
        ownership = Ownership(owner, ownership_options(self._kafka, self._settings))
        if snapshot is not None:
            ownership.restore(snapshot.chain)
        driver = ShardDriver(ownership, log)
        runner = ShardRunner(engine, driver, log, self._outbox, self._snapshots)
        runner.seek = True
        self._runners[shard] = runner
        spare_the_fold()
        LOG.info("following", shard=shard, seq=ownership.counted.seq)

    def _keep_house(self, now: Reading) -> None:
        """Lag for dashboards, and room: inputs below what the log has consumed may go."""
        if now.monotonic_us - self._kept_us < HOUSEKEEPING_EVERY_US:
            return
        self._kept_us = now.monotonic_us
        for shard, runner in self._runners.items():
            if runner.engine.is_ready:
                with self._passing_over("housekeeping", shard):
                    self._keep_shard(shard, runner)

    def _keep_shard(self, shard: int, runner: ShardRunner) -> None:
        consumed = runner.driver.ownership.counted.consumed
        self._membership.commit({shard: consumed.commands})
        for topic, offset in ((COMMANDS, consumed.commands), (REPORTS, consumed.reports)):
            delete_before(self._kafka.bootstrap, topic.name, shard, offset)
            lag = self._reader.end_offset(topic.name, shard) - offset
            gauge("foldline_input_lag_records", lag, shard=shard, input=topic.name)


def _note_parked(name: str, message: Message, read: Command | Report) -> None:
    """Tell people of an input that cannot be read; it goes to the dead letters by the log."""
    if isinstance(read, Unreadable):
        place = {"input": name, "shard": message.partition, "offset": message.offset}
        LOG.warning("input_parked", **place, code=read.code, reason=read.message)
        count("foldline_inputs_parked_total", input=name, code=read.code)


def engine_options(
    settings: EngineSettings, admission: AdmissionSettings, shards: int
) -> EngineOptions:
    """The machine's options from what the operator set."""
    return EngineOptions(
        policy=Policy(
            shards=shards,
            retain_finished_s=int(settings.retain_finished_s),
            pending_jobs_max=admission.pending_jobs_max,
            pending_bytes_max=admission.pending_bytes_max,
            tenant_pending_jobs_max=admission.tenant_pending_jobs_max,
            tenant_pending_bytes_max=admission.tenant_pending_bytes_max,
        ),
        leases=LeaseRules(settings.lease_drift_milli, int(settings.lease_margin_s * 1_000_000)),
        batch_records=settings.batch_max_commands,
        batch_bytes=settings.batch_max_bytes,
        resend_after_us=int(settings.resend_after_s * 1_000_000),
        snapshot_records=settings.snapshot_every_records,
        snapshot_bytes=settings.snapshot_every_bytes,
        snapshot_after_us=int(settings.snapshot_every_s * 1_000_000),
        sign_us=int(settings.sign_every_s * 1_000_000),
    )


def ownership_options(kafka: KafkaSettings, settings: EngineSettings) -> OwnershipOptions:
    """The ownership's bounds from what the operator set."""
    return OwnershipOptions(
        max_in_flight=settings.pipeline_depth,
        send_timeout_us=int(kafka.message_timeout_s * 2_000_000),
        silence_us=int(settings.takeover_after_s * 1_000_000),
    )
