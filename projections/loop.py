"""The loop of every view's process: read the logs, fold, store, for ever. The I/O around `pipeline`.

Batches adapt: what is at hand is stored at once when the log is quiet, and grows up to the bounds
when the view is behind. A view that cannot be reached is asked again, with growing pauses, for
`retry_for_s`; then the process stops loudly. Nothing is ever counted as stored that the view did
not confirm: after a doubtful failure its own position decides whether the batch is in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic, sleep
from typing import TypeVar

import structlog

from infra.follow import ShardFollower, is_anchored
from infra.kafka_port import KafkaUnavailable
from infra.log import Entry
from infra.state_codec import Snapshot
from infra.telemetry import count, gauge, observe
from projections.logs import LogReader
from projections.pipeline import (
    START,
    Projector,
    RefillableView,
    StaleWriter,
    View,
    ViewBatch,
    ViewDiverged,
    ViewReplaced,
    ViewUnavailable,
    position_of,
)

LOG = structlog.get_logger("foldline.views")
POLL_S = 0.2
"""How long a quiet turn waits for records, and so how late a stop is seen."""
BATCH_ROWS = 10_000
LOOK_EVERY_S = 2.0
"""How often a quiet view that can be written anew is asked whether it still stands."""
PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0

T = TypeVar("T")
FindSnapshot = Callable[[int, int | None], Snapshot | None]
"""A shard's newest snapshot that stands before an offset (None: at all)."""


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """Bounds of one batch, and for how long a view that cannot be reached is asked again.

    `name` is what metrics call the view.
    `breath_s` lies between the beginnings of two small batches: a view that is written for every
    record by itself costs more processor than the work it tells of. A view that was quiet, or is
    behind, never waits.
    """

    name: str = "view"
    batch_records: int = 2_000
    batch_bytes: int = 16 * 1024 * 1024
    retry_for_s: float = 60.0
    breath_s: float = 0.02


def no_snapshot(_shard: int, _before: int | None) -> Snapshot | None:
    """Fold from the log's first record."""
    return None


class Stopped(Exception):
    """The process was told to stop while it waited for a view."""


class ViewRunner:
    """All shards of one view. `open` it, then `turn`; or `run_to` an offset of each shard."""

    def __init__(
        self,
        view: View,
        logs: LogReader,
        options: ViewOptions,
        stop: Callable[[], bool],
        find_snapshot: FindSnapshot = no_snapshot,
    ) -> None:
        """Does nothing yet."""
        self._view = view
        self._logs = logs
        self._options = options
        self._stop = stop
        self._find_snapshot = find_snapshot
        self._held: dict[int, list[Entry]] = {}
        self._ends: dict[int, int] = {}
        self._look_at = 0.0
        self.projectors: dict[int, Projector] = {}

    def open(self) -> None:
        """Find out where the view stands, and begin to read from there or before.

        Raises `ViewUnavailable`, `KafkaUnavailable`, `ViewDiverged`, `Stopped`.
        """
        self._held = {}
        for shard in self._logs.shards:
            projector = self.insist(partial(self._open_shard, shard))
            self.projectors[shard] = projector
            self._logs.seek(shard, projector.next_offset)

    def turn(self) -> None:
        """Take what is at hand into the view, waiting a moment if there is nothing."""
        found = self._logs.poll(POLL_S, self._options.batch_records)
        begun = monotonic()
        for shard, entry in found:
            self._feed(shard, entry)
        for projector in self.projectors.values():
            self._settle(projector)
        if not found:
            self._look_after()
        elif len(found) < self._options.batch_records:
            sleep(max(begun + self._options.breath_s - monotonic(), 0.0))

    def _look_after(self) -> None:
        """While the log is quiet: a view that lost its data is written anew without being told."""
        if not isinstance(self._view, RefillableView) or monotonic() < self._look_at:
            return
        self._look_at = monotonic() + LOOK_EVERY_S
        for shard, projector in self.projectors.items():
            stands = self.insist(partial(self._view.position, shard)) or START
            if not projector.refilling and stands != projector.stored:
                LOG.warning("view_lost_its_tail", shard=shard, stands=stands.next_offset)
                self._refill(projector)

    def run_to(self, targets: Mapping[int, int]) -> None:
        """Bring each shard exactly to its target offset (or leave it where it stands further)."""
        for shard, target in targets.items():
            held = self._held.pop(shard, [])
            for place, entry in enumerate(held):
                if entry.offset >= target:
                    self._held[shard] = held[place:]
                    break
                self._feed(shard, entry)
        while any(self.projectors[shard].next_offset < at for shard, at in targets.items()):
            if self._stop():
                raise Stopped
            for shard, entry in self._logs.poll(POLL_S, self._options.batch_records):
                if shard in self._held or entry.offset >= targets.get(shard, 0):
                    self._held.setdefault(shard, []).append(entry)
                else:
                    self._feed(shard, entry)
        for projector in self.projectors.values():
            self._settle(projector)

    def insist(self, call: Callable[[], T]) -> T:
        """Ask again, with growing pauses, while what is asked cannot be reached."""
        deadline = monotonic() + self._options.retry_for_s
        pause = PAUSE_FIRST_S
        while True:
            try:
                return call()
            except (ViewUnavailable, KafkaUnavailable) as error:
                if monotonic() >= deadline:
                    raise
                LOG.warning("view_waits", error=str(error), pause_s=pause)
            if self._stop():
                raise Stopped
            sleep(pause)
            pause = min(pause * 2, PAUSE_MAX_S)

    def _open_shard(self, shard: int) -> Projector:
        stored = self._view.position(shard) or START
        self._ends[shard] = self._logs.end(shard)
        can_refill = isinstance(self._view, RefillableView)
        if stored.next_offset > self._ends[shard]:
            raise ViewDiverged(
                f"shard {shard}: the view stands at offset {stored.next_offset}, but the log ends"
                f" at {self._ends[shard]}: it is not the log that the view was made from"
            )
        snapshot = self._find_snapshot(shard, None if can_refill else stored.next_offset)
        if snapshot and not is_anchored(snapshot, self._logs.read_one(shard, snapshot.offset)):
            LOG.warning("snapshot_not_in_the_log", shard=shard, offset=snapshot.offset)
            snapshot = None
        projector = Projector(shard, ShardFollower(shard, snapshot), stored, can_refill)
        LOG.info(
            "view_opened",
            shard=shard,
            stands=stored.next_offset,
            folds_from=projector.next_offset,
            end=self._ends[shard],
        )
        return projector

    def _feed(self, shard: int, entry: Entry) -> None:
        projector = self.projectors[shard]
        projector.feed(entry)
        if projector.is_full(self._options.batch_records, BATCH_ROWS, self._options.batch_bytes):
            self._store(projector)

    def _settle(self, projector: Projector) -> None:
        if not projector.refilling:
            self._store(projector)
        elif projector.next_offset >= self._ends[projector.shard]:
            self._refill(projector)
            projector.refilled()

    def _store(self, projector: Projector) -> None:
        """Store what waits, once: after a failure the view's position tells what became of it."""
        batch = projector.take()
        if batch is None:
            return
        in_doubt = False

        def attempt() -> None:
            nonlocal in_doubt
            if in_doubt and (self._view.position(batch.shard) or START) == batch.stop:
                return
            in_doubt = True
            self._view.store(batch)

        begun = monotonic()
        try:
            self.insist(attempt)
        except StaleWriter as error:
            if not projector.can_refill:
                raise
            LOG.warning("view_lost_its_tail", shard=batch.shard, error=str(error))
            self._refill(projector)
        projector.settle(batch.stop)
        self._measure(batch, monotonic() - begun)

    def _measure(self, batch: ViewBatch, seconds: float) -> None:
        view, shard = self._options.name, batch.shard
        observe("foldline_view_store_seconds", seconds, view=view, shard=shard)
        count("foldline_view_records_total", len(batch.records), view=view, shard=shard)
        gauge("foldline_view_offset", batch.stop.next_offset, view=view, shard=shard)

    def _refill(self, projector: Projector) -> None:
        view, follower = self._view, projector.follower
        assert isinstance(view, RefillableView), "only a view that can be refilled is"
        at = position_of(follower.chain)
        self.insist(lambda: view.refill(projector.shard, follower.state, at))
        LOG.info("view_refilled", shard=projector.shard, at=at.next_offset)


def run_view(
    view: View,
    logs: LogReader,
    options: ViewOptions,
    stop: Callable[[], bool],
    find_snapshot: FindSnapshot = no_snapshot,
) -> None:
    """Follow the logs into a view until told to stop.

    When another generation becomes the live one, that one is gone on with. Raises
    `ViewUnavailable`, `KafkaUnavailable`, `StaleWriter`, `ViewDiverged` and `LogStopped`, all of
    which should end the process with an error: a supervisor starts it again, and people are told.
    """
    runner = ViewRunner(view, logs, options, stop, find_snapshot)
    while not stop():
        try:
            runner.open()
            while not stop():
                runner.turn()
        except ViewReplaced as error:
            LOG.info("view_replaced", reason=str(error))
        except Stopped:
            return
