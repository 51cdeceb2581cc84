"""Progress of a task: how a program reports it and how its end is noticed; how the agent calls it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from schemas.reports import TasksReported
from schemas.terms import FailureClass, TaskState
from tests.agent_world import SECOND_NS, AgentWorld, options, releases, starts
from workers.environment import places, task_environment
from workers.executor import TaskKey, TaskOrder
from workers.memory_executor import Script
from workers.progress import FILE_VARIABLE, ProgressWatch, report_progress

KEY = TaskKey(7, 1, 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "progress"
    found.touch()
    os.utime(found, ns=(1, 1))
    return found


def test_reporting_progress_changes_the_file_and_makes_it_if_it_is_gone(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    report_progress()
    assert file.stat().st_mtime_ns > 1
    file.unlink()
    report_progress()
    assert file.exists()


def test_reporting_progress_outside_a_task_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    report_progress()


def test_a_silent_task_is_stuck_exactly_after_its_timeout(file: Path) -> None:
    watch = ProgressWatch(str(file), 60, 0)
    assert not watch.is_stuck(60 * SECOND_NS - 1)
    assert watch.is_stuck(60 * SECOND_NS)


def test_a_hang_is_noticed_a_tenth_of_the_timeout_late_at_most(file: Path) -> None:
    watch = ProgressWatch(str(file), 60, 0)
    now = 0
    while now < 30 * SECOND_NS:
        now = watch.due_ns
        assert not watch.is_stuck(now)
    os.utime(file, ns=(2, 2))
    last = now
    while not watch.is_stuck(now):
        assert watch.due_ns > now
        now = watch.due_ns
    assert 60 * SECOND_NS <= now - last <= 66 * SECOND_NS


@pytest.mark.parametrize("change", ["time", "size", "another file", "gone"])
def test_any_change_of_the_file_is_progress(file: Path, change: str, tmp_path: Path) -> None:
    watch = ProgressWatch(str(file), 60, 0)
    if change == "time":
        os.utime(file, ns=(0, 0))
    elif change == "size":
        file.write_text("step 3")
        os.utime(file, ns=(1, 1))
    elif change == "another file":
        (tmp_path / "fresh").touch()
        os.utime(tmp_path / "fresh", ns=(1, 1))
        (tmp_path / "fresh").replace(file)
    else:
        file.unlink()
    assert not watch.is_stuck(100 * SECOND_NS)
    assert not watch.is_stuck(159 * SECOND_NS)
    assert watch.is_stuck(160 * SECOND_NS)


def test_a_step_of_the_wall_clock_ends_nothing(file: Path) -> None:
    watch = ProgressWatch(str(file), 60, 0)
    os.utime(file, ns=(SECOND_NS * 10**9, SECOND_NS * 10**9))
    assert not watch.is_stuck(59 * SECOND_NS)
    assert not watch.is_stuck(118 * SECOND_NS)


def test_a_supervisor_that_looks_late_sees_the_progress_first(file: Path) -> None:
    watch = ProgressWatch(str(file), 60, 0)
    os.utime(file, ns=(5, 5))
    assert not watch.is_stuck(1000 * SECOND_NS)


def test_a_task_finds_its_progress_file_in_its_own_directory() -> None:
    order = TaskOrder(KEY, "a-job", ("run",), (), "{}", (), False, 1, 1000, 512, 5)
    env = task_environment(options(), order, None, {})
    assert env[FILE_VARIABLE] == str(places(options(), order).progress)
    assert Path(env[FILE_VARIABLE]).parent == places(options(), order).work


def test_a_hung_task_is_reported_as_a_timeout_that_says_why() -> None:
    world = AgentWorld(script=Script(runs_s=1000, lines=["step 1"], progress_at_s=(10.0,)))
    world.serve()
    world.dispatch(starts=starts(KEY, progress_timeout_s=60))
    world.wait(69)
    assert world.states(KEY) == [TaskState.STARTED]
    world.wait(2)
    assert world.failure(KEY) is FailureClass.TIMEOUT
    report = world.messages(TasksReported)[-1]
    assert report.exit_codes == [-15]
    assert report.messages[0].startswith("no progress for 60 s (progress_timeout_s = 60)")
    assert report.tails == ["step 1"]


def test_a_gang_member_waits_at_its_barrier_without_having_to_make_progress() -> None:
    world = AgentWorld(script=Script(runs_s=1000))
    world.serve()
    world.dispatch(starts=starts(KEY, gang=2, progress_timeout_s=3))
    world.wait(30)
    assert world.states(KEY) == [TaskState.READY]
    world.dispatch(releases=releases(KEY))
    world.wait(4)
    assert world.failure(KEY) is FailureClass.TIMEOUT


@pytest.mark.parametrize("unset", [0, -1])
def test_without_a_progress_timeout_silence_is_no_failure(unset: int) -> None:
    world = AgentWorld(script=Script(runs_s=100_000))
    world.serve()
    world.dispatch(starts=starts(KEY, progress_timeout_s=unset))
    world.wait(1000)
    assert world.states(KEY) == [TaskState.STARTED]
