"""The last lines of a task: which are kept, how much of them, and that failures carry them."""

from __future__ import annotations

from schemas.reports import TasksReported
from schemas.terms import FailureClass, TaskState
from tests.agent_world import AgentWorld, starts, stops
from workers.executor import TaskKey
from workers.memory_executor import Script
from workers.outbox import BATCH_CHARS, LEFT_OUT, TAIL_CHARS_MAX, Outbox, Row
from workers.tail import LINE_CHARS, TAIL_CHARS, TAIL_LINES, Tail

KEY = TaskKey(7, 1, 0)


def test_both_streams_come_in_the_order_in_which_they_were_read() -> None:
    tail = Tail()
    tail.add("stdout", ["loading", "epoch 1"])
    tail.add("stderr", ["warning"])
    tail.add("stdout", ["epoch 2"])
    assert tail.text() == "loading\nepoch 1\nwarning\nepoch 2"


def test_a_chatty_stdout_does_not_push_out_the_traceback() -> None:
    tail = Tail()
    trace = ["Traceback", '  File "train.py", line 3', "ValueError: no such column"]
    tail.add("stderr", trace)
    for step in range(1000):
        tail.add("stdout", [f"step {step}"])
    lines = tail.text().splitlines()
    assert lines[:3] == trace
    assert lines[-1] == "step 999"
    assert len(lines) == TAIL_LINES


def test_where_stdout_is_silent_stderr_has_all_the_room() -> None:
    tail = Tail()
    tail.add("stderr", [f"line {number}" for number in range(100)])
    assert tail.text().splitlines() == [f"line {number}" for number in range(60, 100)]


def test_long_lines_leave_room_for_others_and_the_whole_is_bounded() -> None:
    tail = Tail()
    tail.add("stdout", ["before"])
    tail.add("stdout", ["x" * 100_000] * 5)
    tail.add("stderr", ["y" * 900] * 10)
    tail.add("stdout", ["last"])
    text = tail.text()
    assert len(text) <= TAIL_CHARS
    assert text.endswith("last")
    assert all(len(line) <= LINE_CHARS + 10 for line in text.splitlines())


def test_a_tail_is_text_that_any_store_takes() -> None:
    tail = Tail()
    tail.add("stdout", ["a\0b"])
    assert tail.text() == "a\ufffdb"
    assert "\0" not in tail.text()


def test_a_task_that_wrote_nothing_has_no_tail() -> None:
    assert Tail().text() == ""


def serving(script: Script) -> AgentWorld:
    world = AgentWorld(script=script)
    world.serve()
    return world


def test_only_what_failed_carries_its_last_lines() -> None:
    world = serving(Script(runs_s=1, lines=["one", "two"]))
    failing = TaskKey(8, 1, 0)
    world.scripts[failing] = Script(runs_s=1, exit_code=2, lines=["no\0data"])
    world.dispatch(starts=starts(KEY, failing))
    world.wait(2)
    assert world.failure(KEY) is FailureClass.NONE
    carrying = [report for report in world.messages(TasksReported) if report.tails]
    (report,) = carrying
    (row,) = report.tail_rows
    assert report.job_nos[row] == failing.job_no
    assert report.failures[row] is FailureClass.USER_ERROR
    assert report.tails == ["no\ufffddata"]


def test_a_stopped_task_carries_them_too() -> None:
    world = serving(Script(runs_s=1000, lines=["half way"]))
    world.dispatch(starts=starts(KEY))
    world.wait(1)
    world.dispatch(stops=stops(KEY, why="timeout"))
    world.wait(1)
    report = world.messages(TasksReported)[-1]
    assert report.messages == ["stopped: timeout"]
    assert report.tails == ["half way"]


def test_an_end_that_is_said_again_is_short() -> None:
    world = serving(Script(runs_s=1, exit_code=1, lines=["why"]))
    world.dispatch(starts=starts(KEY))
    world.wait(2)
    world.dispatch(starts=starts(KEY))
    world.ack()
    report = world.messages(TasksReported)[-1]
    assert (report.states, report.failures) == ([TaskState.ENDED], [FailureClass.USER_ERROR])
    assert report.tails == []


def failed(number: int, message: str = "m", tail: str = "") -> Row:
    failure = FailureClass.USER_ERROR
    return Row(1, TaskKey(number, 1, 0), TaskState.ENDED, 0, 1, failure, message, tail=tail)


def test_a_message_is_text_that_any_store_takes() -> None:
    outbox = Outbox("n1", "default")
    outbox.add(failed(1, message="'a\0b' cannot be run"))
    report = outbox.take()
    assert report is not None
    assert report.messages == ["'a\ufffdb' cannot be run"]


def test_a_report_is_bounded_by_what_its_rows_say() -> None:
    outbox = Outbox("n1", "default")
    for number in range(500):
        outbox.add(failed(number, tail="x" * 4000))
    sizes = []
    while report := outbox.take():
        sizes.append(len(report.job_nos))
        assert sum(map(len, report.tails)) <= BATCH_CHARS
        assert [report.tails[row] for row in report.tail_rows] == ["x" * 4000] * sizes[-1]
        outbox.acknowledged()
    assert sum(sizes) == 500
    assert max(sizes) < 251


def test_while_kafka_is_away_rows_wait_without_their_last_lines_beyond_a_bound() -> None:
    outbox = Outbox("n1", "default")
    count = TAIL_CHARS_MAX // 4000 + 100
    for number in range(count):
        outbox.add(failed(number, tail="x" * 4000))
    tails = []
    while report := outbox.take():
        tails += report.tails
        outbox.acknowledged()
    assert len(tails) == count
    assert 90 < tails.count(LEFT_OUT) <= 100
    outbox.add(failed(1, tail="again room"))
    report = outbox.take()
    assert report is not None
    assert report.tails == ["again room"]
