"""Whatever floods an agent, what it keeps is bounded, and nothing runs twice for it."""

from __future__ import annotations

import threading

import pytest

from schemas.codec import encode
from schemas.dispatch import NO_RELEASES, NO_STOPS, Dispatch
from schemas.reports import TasksReported
from schemas.terms import FailureClass, TaskState
from tests.agent_world import SECOND_NS, AgentWorld, starts, stops
from workers.executor import TaskKey, Wrote
from workers.inbox import Inbox
from workers.log_shipper import (
    ENDED_STREAMS_MAX,
    FLYING_BYTES,
    LINE_COST,
    TOTAL_BYTES,
    LogShipper,
)
from workers.logs import TaskLog
from workers.memory_executor import Script
from workers.messages import Moment
from workers.options import LogLimits

NOW = Moment(SECOND_NS, 5)
LONG = TaskKey(0, 1, 0)


def key(number: int) -> TaskKey:
    return TaskKey(number, 1, 0)


def serving(script: Script | None = None) -> AgentWorld:
    world = AgentWorld(script=script)
    world.serve()
    return world


def test_a_long_task_that_holds_the_floor_does_not_make_ends_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.ledger.HELD_MAX", 100)
    world = serving(Script(runs_s=0.001))
    world.scripts[LONG] = Script(runs_s=100_000)
    world.dispatch(starts=starts(LONG, seq=1), floor=1)
    for number in range(1, 500):
        world.dispatch(starts=starts(key(number), seq=number + 1), floor=1)
        world.wait(0.01)
    assert len(world.agent._ledger._held) <= 100
    assert len(world.agent._ledger._by_seq) <= 100
    assert world.states(LONG) == [TaskState.STARTED]


def test_a_start_from_a_forgotten_time_never_runs_and_is_answered_as_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.ledger.HELD_MAX", 100)
    world = serving(Script(runs_s=0.001))
    for number in range(1, 200):
        world.dispatch(starts=starts(key(number), seq=number))
        world.wait(0.01)
    ran = len(world.executor.started)
    world.dispatch(starts=starts(key(1), seq=1))
    world.wait(0.01)
    assert len(world.executor.started) == ran
    assert world.states(key(1)) == [TaskState.STARTED, TaskState.ENDED, TaskState.ENDED]
    # The fold takes the first end; the second one is another's word for "not here".
    ends = [fail for row, state, fail in world.rows if row == key(1) and state is TaskState.ENDED]
    assert ends == [FailureClass.NONE, FailureClass.INFRASTRUCTURE]
    world.dispatch(starts=starts(key(199), seq=199))
    world.wait(0.01)
    assert world.failure(key(199)) is FailureClass.NONE


def test_a_node_runs_only_so_many_tasks_whatever_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.ledger.LIVING_MAX", 10)
    world = serving(Script(runs_s=100))
    world.dispatch(starts=starts(*map(key, range(15))))
    world.wait(1)
    assert len(world.executor.started) == 10
    refused = [row for row, _, fail in world.rows if fail is FailureClass.INFRASTRUCTURE]
    assert refused == list(map(key, range(10, 15)))
    messages = [text for report in world.messages(TasksReported) for text in report.messages]
    assert messages.count("the node runs 10 tasks already") == 5


def test_while_reports_cannot_be_sent_nothing_new_is_taken_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.outbox.ROWS_MAX", 50)
    world = serving(Script(runs_s=0.001))
    for number in range(200):
        world.dispatch(starts=starts(key(number), seq=number))
        world.dispatch(stops=stops(key(10_000 + number), seq=number))
        world.pump()
    assert len(world.agent._outbox) <= 50 + 2
    taken = len(world.executor.started)
    assert taken < 50
    # What was not taken on is said again by the engine, and runs then.
    world.wait(5)
    world.dispatch(starts=starts(key(150), seq=150))
    world.wait(1)
    assert world.failure(key(150)) is FailureClass.NONE


def test_reports_unacknowledged_for_an_hour_end_the_lease_and_are_not_lost() -> None:
    world = serving(Script(runs_s=1, exit_code=1, lines=["x" * 500] * 8))
    keys = list(map(key, range(300)))
    world.dispatch(starts=starts(*keys))
    for _ in range(60):
        world.wait(60, acked=False)
        world.fail()
    assert len(world.agent._outbox) <= 2 * len(keys)
    world.wait(10)
    assert {row for row, state, _ in world.rows if state is TaskState.ENDED} == set(keys)
    assert not world.agent._outbox


def wrote(number: int, *lines: str, stream: str = "stdout") -> Wrote:
    return Wrote(key(number), "job", stream, 0, list(lines))


def test_lines_of_many_tasks_are_bounded_together_while_kafka_is_away() -> None:
    shipper = LogShipper("n1")
    shipper.records(NOW)
    line = "x" * 8000
    for number in range(200):
        for _ in range(20):
            shipper.add(wrote(number, *[line] * 10))
    kept = sum(stream.size for stream in shipper._streams.values())
    assert kept <= TOTAL_BYTES
    assert sum(stream.dropped for stream in shipper._streams.values()) > 0


def test_empty_lines_cost_their_place() -> None:
    shipper = LogShipper("n1")
    for _ in range(100):
        shipper.add(wrote(1, *[""] * 10_000))
    (stream,) = shipper._streams.values()
    assert len(stream.lines) <= 1024 * 1024 // LINE_COST


def test_what_is_in_flight_is_bounded_and_every_stream_has_its_turn() -> None:
    shipper = LogShipper("n1")
    for number in range(100):
        for _ in range(4):
            shipper.add(wrote(number, *["x" * 8000] * 40))
    first = shipper.records(NOW)
    flying = sum(len(line) for _, record in first for line in record.lines)
    assert flying <= FLYING_BYTES + 512 * 1024
    assert shipper.records(NOW) == []
    seen = {stream for stream, _ in first}
    while len(seen) < 100:
        for stream, _ in first:
            shipper.landed(stream, arrived=True, now=NOW)
        first = shipper.records(NOW)
        before, seen = len(seen), seen | {stream for stream, _ in first}
        assert len(seen) > before
    for _ in range(1000):
        if not shipper:
            break
        for stream, _ in first:
            shipper.landed(stream, arrived=True, now=NOW)
        first = shipper.records(NOW)
    assert not shipper
    assert (shipper._size, shipper._flying) == (0, 0)


def test_a_flood_of_short_tasks_while_the_log_topic_is_away_is_given_up_oldest_first() -> None:
    shipper = LogShipper("n1")
    count = ENDED_STREAMS_MAX + 500
    for number in range(count):
        shipper.add(wrote(number, "hello"))
        shipper.records(NOW)
        shipper.end(key(number))
    assert len(shipper._streams) == ENDED_STREAMS_MAX
    assert shipper.lost_streams == 500
    assert len(shipper._next_line) <= ENDED_STREAMS_MAX
    shipper.landed((key(0), "stdout"), arrived=True, now=NOW)
    for number in range(500, count):
        shipper.landed((key(number), "stdout"), arrived=True, now=NOW)
    assert not shipper
    assert (shipper._size, shipper._flying) == (0, 0)


def test_a_gigabyte_of_output_leaves_a_log_as_small_as_before() -> None:
    log = TaskLog(LogLimits(), 0)
    shipper = LogShipper("n1")
    block = (b"x" * 1023 + b"\n") * 64
    for number in range(2000):
        for dropped, lines in log.feed("stdout", block, number * SECOND_NS // 1000):
            shipper.add(Wrote(key(1), "job", "stdout", dropped, lines))
    assert len(log.tail()) <= 4000
    (stream,) = shipper._streams.values()
    assert stream.size <= 1024 * 1024


class Message:
    """One record of the dispatch partition."""

    def __init__(self, value: bytes, offset: int) -> None:
        self.key, self.value, self.offset = b"n1", value, offset


class FloodedReader:
    """A dispatch reader that always has more."""

    def __init__(self, value: bytes) -> None:
        self.read = 0
        self._value = value

    def end_offset(self, _topic: str, _partition: int) -> int:
        return 0

    def assign(self, _places: dict[tuple[str, int], int]) -> None:
        pass

    def poll(self, _timeout_s: float) -> list[Message]:
        self.read += 1
        return [Message(self._value, self.read)]

    def close(self) -> None:
        pass


def test_dispatches_are_not_read_faster_than_they_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = starts(*map(key, range(50)))
    dispatch = Dispatch(3, 1, "n1", 1, 0, False, False, parts, NO_RELEASES, NO_STOPS)
    value = encode(dispatch)
    monkeypatch.setattr("workers.inbox.WAITING_BYTES", 10 * len(value))
    reader = FloodedReader(value)
    woken = threading.Semaphore(0)
    inbox = Inbox(reader, "n1", woken.release)  # type: ignore[arg-type]  # all that it calls
    try:
        inbox.seek_end()
        for _ in range(12):
            assert woken.acquire(timeout=10)
        assert not woken.acquire(timeout=0.5)
        assert reader.read <= 12
        assert len(inbox.take()) == 12
        assert woken.acquire(timeout=10)
    finally:
        inbox.close()
