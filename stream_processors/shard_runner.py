"""One shard in an engine process: joins its `ShardEngine` with its `ShardDriver` and Kafka.

Performs the machine's effects in order, feeds it, and appends its decisions. Decides nothing.
`engine_process.py` gives it turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import structlog

from infra.follow import ShardFollower, naming_the_shard
from infra.log import Entry, ShardLog
from infra.state_codec import Snapshot
from infra.telemetry import count, gauge, observe
from schemas.codec import encode
from schemas.ids import partition_of
from schemas.reports import Probe
from schemas.topics import DISPATCH, REPORTS
from stream_processors.domain.draft import Report
from stream_processors.engine import (
    Effect,
    Refold,
    SaveSnapshot,
    SeekInputs,
    SendMail,
    SendProbe,
    ShardEngine,
    Signal,
)
from stream_processors.log_clock import Reading
from stream_processors.ownership import Phase
from stream_processors.ownership_effects import Counted, Owning, SteppedDown
from stream_processors.shard_driver import ShardDriver

LOG = structlog.get_logger("foldline.engine")
BACKLOG_MAX = 20_000
"""Records read and not decided above which a process reads no more until it has caught up."""
BACKLOG_BYTES_MAX = 64 * 1024 * 1024
"""The same in what they weigh; one fetch of the reader may come on top."""
READ_AT_ONCE = 32
"""As many as `shard_driver` reads in one step, for the same reason."""


class Outbox(Protocol):
    """Where mail and probes go; nothing here needs their outcome, for both are sent again."""

    def send(self, topic: str, partition: int, key: str, value: bytes) -> None:
        """Send one record."""


class Snapshots(Protocol):
    """Where snapshots are kept."""

    def save(self, effect: SaveSnapshot) -> None:
        """Keep one, of the state as it is now; it may be lost without harm."""

    def newest(self, log: ShardLog, shard: int, max_seq: int) -> Snapshot | None:
        """The newest one that can be trusted, up to this record; None: fold from the beginning.

        Raises `KafkaUnavailable` and `LogUnavailable`.
        """


@dataclass(slots=True)
class ShardRunner:
    """One shard's machine and what it is joined with. `seek` is set when inputs must be reread.

    Signals that cannot be done now (the log is not to be reached while the engine folds anew) stay
    in `signals`, and the next step goes on with them.
    """

    engine: ShardEngine
    driver: ShardDriver
    log: ShardLog
    outbox: Outbox
    snapshots: Snapshots
    seek: bool = False
    signals: deque[Signal] = field(default_factory=deque)
    refold: Refold | None = None
    folding: ShardFollower | None = None
    sent_us: dict[int, int] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether this process neither owns the shard nor is about to."""
        return self.driver.ownership.phase is Phase.FOLLOWING

    @property
    def is_busy(self) -> bool:
        """Whether its next turn should come at once."""
        ownership = self.driver.ownership
        waits = self.driver.is_reading or self.refold is not None
        return bool(ownership.in_flight) or waits or self.engine.backlog > 0

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read until some of it has been decided."""
        engine = self.engine
        return engine.backlog > BACKLOG_MAX or engine.backlog_bytes > BACKLOG_BYTES_MAX

    def assigned(self, now: Reading) -> None:
        """The group suggests that this process own the shard."""
        self._perform(self.driver.assigned(now), now)

    def revoked(self, now: Reading) -> None:
        """The group suggests that another process own it."""
        self._perform(self.driver.revoked(now), now)

    def follow(self, entries: Sequence[Entry], now: Reading) -> None:
        """Records of the log, read while another owns the shard: in order, without a gap."""
        with naming_the_shard(self.engine.shard):
            signals = self.driver.follow(entries, now)
        self._perform(signals, now)

    def receive_report(self, offset: int, size: int, report: Report, now: Reading) -> None:
        """One record of the reports, in order: an input of the owner."""
        self.hear(report)
        self.engine.receive_report(offset, size, report, now)

    def hear(self, report: Report) -> None:
        """What may be a sign of life of whoever owns the shard. No input: others may lie before it.

        The log that is followed and the marks come by one reader: a claim of ours may have begun
        to count just before, and the inputs are then read from where the fold stands.
        """
        if isinstance(report, Probe):
            self.driver.heard(report.epoch, report.owner)

    def step(self, now: Reading, timeout_s: float) -> None:
        """Outcomes, reading and time; waits at most `timeout_s` for an outcome."""
        with naming_the_shard(self.engine.shard):
            signals = self.driver.step(now, timeout_s)
        self._perform(signals, now)
        if self.signals:
            return
        for effect in self.engine.tick(now, self.driver.ownership.in_flight):
            self._do(effect)

    def decide(self, now: Reading) -> None:
        """Append decisions while there is something to say and room in flight."""
        ownership = self.driver.ownership
        while self.engine.is_ready and ownership.can_append:
            if self.engine.snapshot_is_due(now) and ownership.in_flight:
                return
            at = ownership.log_time(now)
            if not self.engine.wants_to_decide(at, now):
                return
            begun = perf_counter()
            batch = self.engine.decide(at, now)
            observe("foldline_decide_seconds", perf_counter() - begun, shard=self.engine.shard)
            token = self.driver.append(batch.events, batch.consumed, batch.at, now)
            self.sent_us[token] = now.monotonic_us
            self.engine.sent(token, batch)

    def _perform(self, signals: list[Signal], now: Reading) -> None:
        self.signals.extend(signals)
        while self._refolded() and self.signals:
            signal = self.signals.popleft()
            self._tell(signal, now)
            with naming_the_shard(self.engine.shard):
                effects = self.engine.handle(signal, now)
            for effect in effects:
                self._do(effect)
            if isinstance(signal, Counted) and self._may_snapshot(signal, now):
                self._do(self.engine.snapshot(signal, now))

    def _may_snapshot(self, signal: Counted, now: Reading) -> bool:
        return (
            signal.own
            and self.driver.ownership.in_flight == 0
            and self.engine.snapshot_is_due(now)
            and signal.chain.seq == self.engine.state.seq
        )

    def _tell(self, signal: Signal, now: Reading) -> None:
        shard = self.engine.shard
        if isinstance(signal, Counted):
            count("foldline_log_records_total", shard=shard)
            begun = self.sent_us.pop(signal.token, None) if signal.token else None
            if begun is not None:
                observe("foldline_append_seconds", (now.monotonic_us - begun) / 1e6, shard=shard)
        elif isinstance(signal, Owning):
            LOG.info("owning", shard=shard, epoch=signal.epoch, seq=signal.chain.seq)
            count("foldline_ownerships_total", shard=shard, outcome="begun")
            gauge("foldline_shard_epoch", signal.epoch, shard=shard)
        elif isinstance(signal, SteppedDown):
            LOG.warning("stepped_down", shard=shard, reason=signal.reason)
            count("foldline_ownerships_total", shard=shard, outcome="ended")
            gauge("foldline_shard_epoch", 0, shard=shard)
        else:
            self.sent_us.clear()

    def _do(self, effect: Effect) -> None:
        shard = self.engine.shard
        if isinstance(effect, SendMail):
            for mail in effect.mail:
                partition = partition_of(mail.node, DISPATCH.partitions)
                self.outbox.send(DISPATCH.name, partition, mail.node, encode(mail))
                count("foldline_dispatches_total", shard=shard)
        elif isinstance(effect, SendProbe):
            self.outbox.send(REPORTS.name, shard, "", encode(effect.probe))
        elif isinstance(effect, SeekInputs):
            self.seek = True
        elif isinstance(effect, Refold):
            LOG.warning("folding_anew", shard=shard, seq=effect.seq, stop=effect.stop)
            self.refold = effect
        else:
            self.snapshots.save(effect)

    def _refolded(self) -> bool:
        """Go on folding anew, if that is to be done; whether nothing of it is left."""
        if self.refold is None:
            return True
        if self.folding is None:
            shard, seq = self.engine.shard, self.refold.seq
            self.folding = ShardFollower(shard, self.snapshots.newest(self.log, shard, seq))
        while self.folding.chain.next_offset < self.refold.stop:
            start = self.folding.chain.next_offset
            entries = self.log.read(start, min(READ_AT_ONCE, self.refold.stop - start))
            if not entries:
                return False
            for entry in entries:
                if entry.offset < self.refold.stop:
                    self.folding.feed(entry)
        self.engine.refolded(self.folding)
        self.refold = self.folding = None
        return True


def read_range(log: ShardLog, start: int, stop: int) -> list[Entry]:
    """The entries `start <= offset < stop`, which the log is known to hold."""
    found: list[Entry] = []
    while start < stop:
        entries = log.read(start, min(READ_AT_ONCE, stop - start))
        found.extend(entry for entry in entries if entry.offset < stop)
        start = entries[-1].offset + 1 if entries else start
    return found
