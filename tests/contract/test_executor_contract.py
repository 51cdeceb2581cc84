"""What every executor must do: one suite, run on processes and on the in-memory double."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.agent_world import SECOND_NS, options
from workers.executor import (
    Cause,
    Ended,
    Executor,
    Prepared,
    Rendezvous,
    Started,
    TaskKey,
    TaskNews,
    TaskOrder,
    Wrote,
)
from workers.journal import Journal
from workers.memory_executor import MemoryExecutor, Script
from workers.process_executor import ProcessExecutor
from workers.processes import boot_ns

pytestmark = pytest.mark.contract

BOUND_S = 20.0
STEADY = (
    "bash",
    "-c",
    'for i in 1 2 3 4 5 6; do touch "$FOLDLINE_PROGRESS_FILE"; sleep 0.4; done; sleep 1000',
)
"""Reports progress for two seconds, then hangs."""
STUBBORN = ("sh", "-c", 'trap "" TERM; echo deaf; while :; do sleep 0.05; done')


def order(number: int, *command: str, gang: bool = False, task: int = 0) -> TaskOrder:
    return TaskOrder(
        TaskKey(number, 1, task), f"job-{number}", command, (), "{}", (), gang, 2, 1000, 512, 5
    )


def impatient(number: int, *command: str, grace_s: int = 5) -> TaskOrder:
    """A task that must report progress each second."""
    return replace(order(number, *command), progress_timeout_s=1, grace_s=grace_s)


def script_of(order: TaskOrder) -> Script:
    """What the commands of this suite do, for the executor that has no processes."""
    scripts = {
        "true": Script(),
        "false": Script(exit_code=1),
        "sleep": Script(runs_s=1000),
        "echo": Script(lines=["hello"]),
        "bash": Script(runs_s=1000, progress_at_s=(0.0, 0.4, 0.8, 1.2, 1.6, 2.0)),
        "sh": Script(runs_s=1000, heeds_sigterm=False, lines=["deaf"]),
    }
    return scripts.get(order.command[0], Script(is_found=False))


class Bench:
    """An executor and its clock."""

    def __init__(
        self, executor: Executor, clock: Callable[[], int], rest: Callable[[], None]
    ) -> None:
        self.executor = executor
        self.clock = clock
        self._rest = rest
        self.news: list[TaskNews] = []
        self.renew()

    def renew(self) -> None:
        self.executor.set_deadline(self.clock() + 3600 * SECOND_NS)

    def until(self, kind: type, number: int, task: int = 0) -> TaskNews:
        """Poll until this was said of that task."""
        give_up = time.monotonic() + BOUND_S
        key = TaskKey(number, 1, task)
        while time.monotonic() < give_up:
            for item in self.news:
                if type(item) is kind and item.key == key:
                    return item
            self.look()
        raise AssertionError(f"no {kind.__name__} of {key} in {self.news}")

    def look(self) -> None:
        """Let a little time pass and take what it brought."""
        self._rest()
        self.news += self.executor.poll(0.05)

    def end(self, number: int, task: int = 0) -> Ended:
        ended = self.until(Ended, number, task)
        assert isinstance(ended, Ended)
        return ended

    def said(self, kind: type, number: int) -> int:
        return sum(type(item) is kind and item.key.job_no == number for item in self.news)


@pytest.fixture(params=["memory", "process"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "memory":
        now = [SECOND_NS]

        def rest() -> None:
            now[0] += SECOND_NS // 20

        yield Bench(MemoryExecutor(script_of, lambda: now[0]), lambda: now[0], rest)
        return
    journal = Journal(tmp_path, "n1")
    journal.begin(1)
    executor = ProcessExecutor(options(data_dir=tmp_path, address="127.0.0.1"), journal)
    yield Bench(executor, boot_ns, lambda: None)
    executor.close()
    journal.close()


def test_a_task_that_succeeds_is_started_and_ended_with_code_0(bench: Bench) -> None:
    bench.executor.start(order(1, "true"), None)
    assert bench.end(1).cause is Cause.EXITED
    assert bench.end(1).exit_code == 0
    kinds = [type(item) for item in bench.news]
    assert kinds.index(Started) < kinds.index(Ended)


def test_a_task_that_fails_tells_its_code(bench: Bench) -> None:
    bench.executor.start(order(1, "false"), None)
    assert (bench.end(1).cause, bench.end(1).exit_code) == (Cause.EXITED, 1)
    assert bench.end(1).detail == "exit code 1"


def test_a_command_that_is_not_there_is_named_and_never_started(bench: Bench) -> None:
    bench.executor.start(order(1, "no-such-command"), None)
    assert bench.end(1).cause is Cause.NOT_FOUND
    assert "no-such-command" in bench.end(1).detail
    assert bench.said(Started, 1) == 0


def test_what_a_task_writes_is_told_and_its_last_lines_come_with_its_end(bench: Bench) -> None:
    bench.executor.start(order(1, "echo", "hello"), None)
    assert bench.end(1).tail == "hello"
    wrote = bench.until(Wrote, 1)
    assert isinstance(wrote, Wrote)
    assert (wrote.stream, wrote.dropped, wrote.lines) == ("stdout", 0, ["hello"])
    assert wrote.job_id == "job-1"


def test_a_stop_ends_a_task_that_heeds_sigterm_before_its_grace(bench: Bench) -> None:
    bench.executor.start(order(1, "sleep", "1000"), None)
    bench.until(Started, 1)
    asked = bench.clock()
    bench.executor.stop(TaskKey(1, 1, 0), 60)
    assert bench.end(1).cause is Cause.STOPPED
    assert bench.end(1).exit_code == -15
    assert bench.clock() - asked < 10 * SECOND_NS


def test_a_deaf_task_is_killed_at_the_end_of_its_grace(bench: Bench) -> None:
    bench.executor.start(order(1, *STUBBORN), None)
    bench.until(Wrote, 1)
    asked = bench.clock()
    bench.executor.stop(TaskKey(1, 1, 0), 0.5)
    assert (bench.end(1).cause, bench.end(1).exit_code) == (Cause.STOPPED, -9)
    assert bench.clock() - asked >= SECOND_NS // 2


def test_a_second_stop_may_end_the_grace_sooner(bench: Bench) -> None:
    bench.executor.start(order(1, *STUBBORN), None)
    bench.until(Wrote, 1)
    bench.executor.stop(TaskKey(1, 1, 0), 1000)
    bench.executor.stop(TaskKey(1, 1, 0), 0)
    assert bench.end(1).exit_code == -9


def test_a_task_stopped_right_after_its_start_ends(bench: Bench) -> None:
    bench.executor.start(order(1, "sleep", "1000"), None)
    bench.executor.stop(TaskKey(1, 1, 0), 1000)
    assert bench.end(1).cause is Cause.STOPPED


def test_a_gang_member_is_prepared_and_only_task_0_offers_an_endpoint(bench: Bench) -> None:
    for task in (0, 1):
        bench.executor.prepare(order(1, "true", gang=True, task=task))
    first, second = bench.until(Prepared, 1, 0), bench.until(Prepared, 1, 1)
    assert isinstance(first, Prepared)
    assert isinstance(second, Prepared)
    host, _, port = first.endpoint.rpartition(":")
    assert host == "127.0.0.1"
    assert 1024 <= int(port) <= 65535
    assert second.endpoint == ""
    assert bench.said(Started, 1) == 0
    for task in (0, 1):
        member = order(1, "true", gang=True, task=task)
        bench.executor.start(member, Rendezvous(first.endpoint, task))
        assert bench.end(1, task).exit_code == 0


def test_a_prepared_member_that_is_stopped_ends_without_starting(bench: Bench) -> None:
    bench.executor.prepare(order(1, "true", gang=True))
    bench.executor.stop(TaskKey(1, 1, 0), 30)
    assert bench.end(1).cause is Cause.STOPPED
    assert bench.said(Started, 1) == 0


def test_kill_all_ends_everything_prepared_members_too(bench: Bench) -> None:
    bench.executor.start(order(1, *STUBBORN), None)
    bench.executor.start(order(2, "sleep", "1000"), None)
    bench.executor.prepare(order(3, "true", gang=True))
    bench.until(Wrote, 1)
    bench.until(Started, 2)
    bench.executor.kill_all()
    assert [bench.end(number).cause for number in (1, 2, 3)] == [Cause.STOPPED] * 3


def test_tasks_die_when_the_deadline_passes_unrenewed(bench: Bench) -> None:
    bench.executor.start(order(1, *STUBBORN), None)
    bench.until(Wrote, 1)
    bench.executor.set_deadline(bench.clock() + SECOND_NS // 2)
    bench.executor.start(order(2, "sleep", "1000"), None)
    assert bench.end(1).cause is Cause.LEASE
    assert bench.end(2).cause is Cause.LEASE


def test_a_deadline_that_is_moved_in_time_kills_nobody(bench: Bench) -> None:
    bench.executor.set_deadline(bench.clock() + SECOND_NS)
    bench.executor.start(order(1, *STUBBORN), None)
    bench.until(Started, 1)
    bench.renew()
    bench.executor.start(order(2, "sleep", "1000"), None)
    passed = bench.clock() + 3 * SECOND_NS // 2
    while bench.clock() < passed:
        bench.look()
    assert bench.said(Ended, 1) == bench.said(Ended, 2) == 0


def test_stopping_what_is_unknown_or_ended_does_nothing(bench: Bench) -> None:
    bench.executor.stop(TaskKey(9, 1, 0), 0)
    bench.executor.start(order(1, "true"), None)
    bench.end(1)
    bench.executor.stop(TaskKey(1, 1, 0), 0)
    bench.executor.start(order(2, "true"), None)
    bench.end(2)
    assert bench.said(Ended, 1) == 1
    assert bench.said(Ended, 9) == 0


def test_each_task_is_told_of_on_its_own(bench: Bench) -> None:
    for number in range(20):
        bench.executor.start(order(number, "true" if number % 2 else "false"), None)
    assert [bench.end(number).exit_code for number in range(20)] == [1, 0] * 10


def test_a_task_that_never_reports_progress_is_ended_after_its_timeout(bench: Bench) -> None:
    bench.executor.start(impatient(1, "sleep", "1000"), None)
    bench.until(Started, 1)
    began = bench.clock()
    end = bench.end(1)
    assert (end.cause, end.exit_code) == (Cause.NO_PROGRESS, -15)
    assert "no progress for 1 s (progress_timeout_s = 1)" in end.detail
    assert "FOLDLINE_PROGRESS_FILE" in end.detail
    assert 0.8 * SECOND_NS < bench.clock() - began < 10 * SECOND_NS


def test_progress_keeps_a_task_alive_until_it_stops_coming(bench: Bench) -> None:
    bench.executor.start(impatient(1, *STEADY), None)
    bench.until(Started, 1)
    began = bench.clock()
    assert bench.end(1).cause is Cause.NO_PROGRESS
    assert bench.clock() - began > 2.8 * SECOND_NS


def test_a_hung_task_that_is_deaf_is_killed_after_its_own_grace(bench: Bench) -> None:
    bench.executor.start(impatient(1, *STUBBORN, grace_s=1), None)
    bench.until(Started, 1)
    began = bench.clock()
    end = bench.end(1)
    assert (end.cause, end.exit_code, end.tail) == (Cause.NO_PROGRESS, -9, "deaf")
    assert bench.clock() - began > 1.8 * SECOND_NS


def test_a_task_without_a_progress_timeout_may_be_silent(bench: Bench) -> None:
    bench.executor.start(order(1, "sleep", "1000"), None)
    bench.until(Started, 1)
    passed = bench.clock() + 3 * SECOND_NS // 2
    while bench.clock() < passed:
        bench.look()
    assert bench.said(Ended, 1) == 0


def test_a_stop_during_the_grace_of_a_hung_task_ends_it_sooner_but_not_as_stopped(
    bench: Bench,
) -> None:
    bench.executor.start(impatient(1, *STUBBORN, grace_s=1000), None)
    bench.until(Started, 1)
    passed = bench.clock() + 3 * SECOND_NS // 2
    while bench.clock() < passed:
        bench.look()
    bench.executor.stop(TaskKey(1, 1, 0), 0)
    assert (bench.end(1).cause, bench.end(1).exit_code) == (Cause.NO_PROGRESS, -9)


def test_a_queue_of_starts_that_is_stopped_in_one_breath_ends_whole(bench: Bench) -> None:
    for number in range(50):
        bench.executor.start(order(number, "sleep", "1000"), None)
    bench.executor.kill_all()
    assert {bench.end(number).cause for number in range(50)} == {Cause.STOPPED}
