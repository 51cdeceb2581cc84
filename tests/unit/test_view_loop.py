"""The loop of every view, over a memory log and a view in memory that fails on demand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from infra.follow import ShardFollower
from infra.state_codec import Snapshot, decode_snapshot, encode_snapshot
from projections import loop
from projections.logs import MemoryLogs
from projections.loop import Stopped, ViewOptions, ViewRunner, run_view
from projections.pipeline import (
    START,
    Position,
    Projector,
    StaleWriter,
    ViewBatch,
    ViewDiverged,
    ViewReplaced,
    ViewUnavailable,
    position_of,
)
from stream_processors.domain.rows import job_row
from stream_processors.domain.state import State
from tests.view_log import LifeLog

LIMITS = ViewOptions(batch_records=7, retry_for_s=0.2, breath_s=0)


class MemoryView:
    """Rows of one shard; `faults` are raised by the next stores, before or after they happen."""

    def __init__(self) -> None:
        self.at: Position | None = None
        self.rows: dict[int, object] = {}
        self.faults: deque[tuple[str, Exception]] = deque()
        self.batches: list[ViewBatch] = []

    def position(self, shard: int) -> Position | None:
        assert shard == 0
        return self.at

    def store(self, batch: ViewBatch) -> None:
        when, fault = self.faults.popleft() if self.faults else ("", None)
        if fault and when == "before":
            raise fault
        if batch.start != (self.at or START):
            raise StaleWriter(f"the view stands at {self.at}")
        self.rows.update({no: job_row(0, job) for no, job in batch.changed.items()})
        self.at = batch.stop
        self.batches.append(batch)
        if fault:
            raise fault


class LiveView(MemoryView):
    """A view that can be written whole."""

    def __init__(self) -> None:
        super().__init__()
        self.refills: list[Position] = []

    def refill(self, shard: int, state: State, at: Position) -> None:
        assert shard == state.shard
        self.refills.append(at)
        self.at = at


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "sleep", lambda _: None)


def logs_of(log: LifeLog) -> MemoryLogs:
    return MemoryLogs({0: log.partition})


def follow(
    view: MemoryView, log: LifeLog, find_snapshot: loop.FindSnapshot = loop.no_snapshot
) -> ViewRunner:
    """Bring a view to the end of a log."""
    logs = logs_of(log)
    runner = ViewRunner(view, logs, LIMITS, lambda: False, find_snapshot)
    runner.open()
    for _ in range(1 + logs.end(0)):
        runner.turn()
    return runner


def fold(log: LifeLog, stop: int | None = None) -> ShardFollower:
    follower = ShardFollower(0)
    for entry in log.partition.entries[:stop]:
        follower.feed(entry)
    return follower


def snapshot_at(log: LifeLog, stop: int) -> Snapshot:
    follower = fold(log, stop)
    data = encode_snapshot(Snapshot(stop - 1, follower.chain, follower.state))
    return decode_snapshot(data)


def test_a_view_takes_in_the_whole_log_in_bounded_batches_and_stands_at_its_end() -> None:
    log = LifeLog(1)
    log.live(100)
    view = MemoryView()
    follow(view, log)
    follower = fold(log)
    assert view.at == position_of(follower.chain)
    held = {no: row for no, row in view.rows.items() if no in follower.state.jobs}
    assert held == {no: job_row(0, job) for no, job in follower.state.jobs.items()}
    assert max(len(batch.records) for batch in view.batches) <= LIMITS.batch_records


def test_a_restarted_process_goes_on_where_the_view_stands() -> None:
    log = LifeLog(2)
    log.live(50)
    view = MemoryView()
    follow(view, log)
    stood = view.at
    assert stood is not None
    view.batches.clear()
    log.live(20)
    follow(view, log)
    assert view.batches[0].start == stood
    assert view.at == position_of(fold(log).chain)


def test_records_that_do_not_count_move_the_position_along_with_the_next_that_does() -> None:
    log = LifeLog(3)
    log.live(5)
    log.land(b"junk")
    log.land(log.partition.entries[1].value)
    log.live(5)
    view = MemoryView()
    follow(view, log)
    assert view.at is not None
    assert view.at.next_offset == len(log.partition.entries)
    records = sum(len(batch.records) for batch in view.batches)
    assert records == len(log.partition.entries) - 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_batch_of_doubtful_fate_is_stored_exactly_once(when: str) -> None:
    log = LifeLog(4)
    log.live(30)
    view = MemoryView()
    view.faults.extend([(when, ViewUnavailable("gone"))])
    follow(view, log)
    offsets = [record.offset for batch in view.batches for record in batch.records]
    assert offsets == list(range(len(log.partition.entries)))


def test_a_view_that_stays_away_stops_the_process_loudly_and_stores_nothing() -> None:
    log = LifeLog(5)
    log.live(5)
    view = MemoryView()
    view.faults.extend([("before", ViewUnavailable("gone"))] * 1_000_000)
    with pytest.raises(ViewUnavailable):
        follow(view, log)
    assert view.at is None


def test_a_stop_is_heeded_while_the_view_is_away() -> None:
    log = LifeLog(5)
    log.live(5)
    view = MemoryView()
    view.faults.extend([("before", ViewUnavailable("gone"))] * 1_000)
    told = iter([False, False, False, False, True])
    run_view(view, logs_of(log), LIMITS, lambda: next(told, True))
    assert view.at is None


def test_another_writer_stops_a_view_that_cannot_be_refilled() -> None:
    log = LifeLog(6)
    log.live(30)
    view = MemoryView()
    runner = follow(view, log)
    log.live(10)
    assert view.at is not None
    view.at = replace(view.at, seq=view.at.seq - 1)
    with pytest.raises(StaleWriter):
        runner.turn()


def test_a_view_that_lost_its_tail_is_refilled_where_it_can_be() -> None:
    log = LifeLog(7)
    log.live(30)
    view = LiveView()
    runner = follow(view, log)
    log.live(10)
    view.at = view.batches[0].stop
    for _ in range(20):
        runner.turn()
    assert view.refills
    assert view.at == position_of(fold(log).chain)


def test_a_view_of_another_history_is_not_written() -> None:
    log, other = LifeLog(8), LifeLog(9)
    log.live(60)
    other.live(10)
    view = MemoryView()
    follow(view, other)
    with pytest.raises(ViewDiverged, match="rebuild"):
        follow(view, log)


def test_a_view_that_stands_beyond_the_end_of_the_log_is_not_written() -> None:
    log = LifeLog(8)
    log.live(10)
    view = MemoryView()
    follow(view, log)
    del log.partition.entries[-2:]
    with pytest.raises(ViewDiverged, match="ends"):
        follow(view, log)


def test_a_snapshot_before_the_views_position_spares_the_fold_and_changes_nothing() -> None:
    log = LifeLog(10)
    log.live(60)
    view = MemoryView()
    follow(view, log)
    log.live(20)
    asked: list[int | None] = []

    def find(shard: int, before: int | None) -> Snapshot:
        asked.append(before)
        return snapshot_at(log, 12)

    assert view.at is not None
    stood = view.at.next_offset
    runner = follow(view, log, find)
    assert asked == [stood]
    assert view.at == position_of(fold(log).chain)
    assert runner.projectors[0].follower.state.jobs == fold(log).state.jobs


def test_a_snapshot_that_the_log_does_not_hold_is_not_used() -> None:
    log, other = LifeLog(10), LifeLog(11)
    log.live(60)
    other.live(60)
    view = MemoryView()
    follow(view, log)
    follow(view, log, lambda _shard, _before: snapshot_at(other, 12))
    assert view.at == position_of(fold(log).chain)


def test_a_view_that_can_be_refilled_starts_from_the_newest_snapshot() -> None:
    log = LifeLog(12)
    log.live(60)
    view = LiveView()
    follow(view, log, lambda _shard, _before: snapshot_at(log, 12))
    assert [at.next_offset for at in view.refills] == [len(log.partition.entries)]
    assert not view.batches


def test_when_another_generation_is_live_the_loop_goes_on_with_that_one() -> None:
    log = LifeLog(13)
    log.live(20)
    view = MemoryView()
    view.faults.append(("before", ViewReplaced("generation 2 is live")))
    run_view(view, logs_of(log), LIMITS, stop_at_end(view, log))
    assert view.at == position_of(fold(log).chain)


def stop_at_end(view: MemoryView, log: LifeLog) -> Callable[[], bool]:
    def stop() -> bool:
        return view.at is not None and view.at.next_offset == len(log.partition.entries)

    return stop


def test_running_to_an_offset_stops_exactly_there_and_loses_nothing() -> None:
    log = LifeLog(14)
    log.live(60)
    view = MemoryView()
    logs = logs_of(log)
    runner = ViewRunner(view, logs, LIMITS, lambda: False)
    runner.open()
    for target in (10, 11, 37, logs.end(0)):
        runner.run_to({0: target})
        assert view.at == position_of(fold(log, target).chain)
    log.live(5)
    runner.run_to({0: logs.end(0)})
    assert view.at == position_of(fold(log).chain)


def test_running_to_an_offset_that_never_comes_ends_when_told_to_stop() -> None:
    log = LifeLog(15)
    told = iter([False, False])
    runner = ViewRunner(MemoryView(), logs_of(log), LIMITS, lambda: next(told, True))
    runner.open()
    with pytest.raises(Stopped):
        runner.run_to({0: 1_000})


def test_a_projector_answers_no_batch_where_nothing_counted() -> None:
    log = LifeLog(16)
    projector = Projector(0, ShardFollower(0), START)
    projector.feed(log.partition.entries[0])
    assert projector.take() is not None
    assert projector.take() is None
