"""What the machine has not breaks the task that wanted it, and nothing else; what ran is on record."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.executor_bench import BOUND_S, ProcessBench, until
from tests.full_disk import fill, mounted
from workers.executor import Cause, Ended, Started, TaskKey
from workers.journal import DataDirUnwritable, Journal
from workers.processes import boot_ns

pytestmark = pytest.mark.integration

FIRST, SECOND = TaskKey(1, 1, 0), TaskKey(2, 1, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "small")


def chronicle(data_dir: Path) -> list[dict[str, Any]]:
    lines = (data_dir / "tasks.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line]


def test_on_a_full_disk_tasks_break_and_run_again_once_there_is_room(small_disk: Path) -> None:
    bench = ProcessBench(small_disk)
    try:
        bench.start("sh", "-c", "echo up; sleep 1000", key=FIRST)
        bench.lines(1)
        ballast = fill(small_disk)
        bench.start("true", key=SECOND)
        end = bench.end(SECOND)
        assert end.cause is Cause.BROKEN
        assert "No space left on device" in end.detail
        assert not bench.saw(Ended, FIRST), "what runs goes on"
        bench.executor.stop(FIRST, 0)
        assert bench.end(FIRST).cause is Cause.STOPPED
        shutil.rmtree(ballast)
        third = TaskKey(3, 1, 0)
        bench.start("true", key=third)
        assert bench.end(third).exit_code == 0
    finally:
        bench.close()


def test_a_task_that_cannot_be_journaled_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_group: object) -> None:
        raise DataDirUnwritable(tmp_path / "journal", OSError(errno.ENOSPC, "No space left"))

    bench = ProcessBench(tmp_path)
    try:
        monkeypatch.setattr(bench.journal, "add", refuse)
        bench.start("touch", str(tmp_path / "ran"))
        end = bench.end()
        assert (end.cause, "No space left" in end.detail) == (Cause.BROKEN, True)
        assert not bench.saw(Started)
        assert not (tmp_path / "ran").exists()
    finally:
        bench.close()


def test_without_descriptors_a_start_breaks_and_leaks_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = ProcessBench(tmp_path)
    pipe, calls = os.pipe, 0

    def scarce() -> tuple[int, int]:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return pipe()

    try:
        before = psutil.Process().num_fds()
        monkeypatch.setattr("os.pipe", scarce)
        for number in range(5):
            bench.start("true", key=TaskKey(number, 1, 0))
        monkeypatch.setattr("os.pipe", pipe)
        for number in range(5):
            assert bench.end(TaskKey(number, 1, 0)).cause is Cause.BROKEN
        assert psutil.Process().num_fds() == before
        assert list((tmp_path / "work").iterdir()) == []
    finally:
        bench.close()


def test_what_earlier_tasks_left_in_the_work_directory_goes_when_an_agent_starts(
    tmp_path: Path,
) -> None:
    left = tmp_path / "work" / "job-9.1.0"
    left.mkdir(parents=True)
    (left / "scratch").write_text("x")
    bench = ProcessBench(tmp_path)
    bench.close()
    assert not left.exists()


def test_a_flood_of_starts_never_holds_up_the_loop(tmp_path: Path) -> None:
    bench = ProcessBench(tmp_path)
    keys = [TaskKey(number, 1, 0) for number in range(200)]
    try:
        began = boot_ns()
        for key in keys:
            bench.start("true", key=key)
        assert boot_ns() - began < 1_000_000_000
        assert bench.end(keys[-1]).exit_code == 0
        assert all(bench.end(key).exit_code == 0 for key in keys)
    finally:
        bench.close()


def test_a_flood_of_output_is_not_kept(tmp_path: Path) -> None:
    bench = ProcessBench(tmp_path)
    flood = "import os\nfor _ in range(800): os.write(1, (b'x'*1023+b'\\n')*64)"
    try:
        tracemalloc.start()
        bench.start(sys.executable, "-S", "-c", flood)
        end: list[Ended] = []
        give_up = time.monotonic() + BOUND_S
        while not end:
            assert time.monotonic() < give_up, "a task that writes 50 MiB does not end"
            end += [item for item in bench.executor.poll(0.05) if isinstance(item, Ended)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        bench.close()
    assert end[0].exit_code == 0
    assert len(end[0].tail) <= 4000
    assert peak < 16 * 1024 * 1024


def test_starts_and_ends_are_in_the_chronicle_with_their_moments(tmp_path: Path) -> None:
    bench = ProcessBench(tmp_path)
    try:
        began = boot_ns()
        bench.start("sh", "-c", "echo $$; exit 3")
        bench.end()
        (pid,) = map(int, bench.lines(1))
        kinds = [line["e"] for line in chronicle(tmp_path)]
        assert kinds == ["agent", "incarnation", "start", "end"]
        start, end = chronicle(tmp_path)[2:]
        assert began < start["boot_ns"] < end["boot_ns"] < boot_ns()
        names = {"job": "job-1", "incarnation": 1, "no": 1, "attempt": 1, "task": 0}
        assert {name: start[name] for name in names} == names
        assert {name: end[name] for name in names} == names
        assert start["pid"] == pid
        assert start["supervisor"] == end["supervisor"]
        assert (end["cause"], end["code"]) == ("exited", 3)
    finally:
        bench.close()


def test_an_end_is_in_the_chronicle_even_when_the_supervisor_was_killed(tmp_path: Path) -> None:
    bench = ProcessBench(tmp_path)
    try:
        bench.start("sh", "-c", "echo $PPID; sleep 1000")
        (supervisor,) = map(int, bench.lines(1))
        os.kill(supervisor, signal.SIGKILL)
        assert bench.end().cause is Cause.BROKEN
        line = chronicle(tmp_path)[-1]
        assert (line["e"], line["cause"], line["supervisor"]) == ("end", "broken", supervisor)
    finally:
        bench.close()


def test_an_end_is_in_the_chronicle_even_when_the_agent_was_gone(tmp_path: Path) -> None:
    bench = ProcessBench(tmp_path)
    bench.start("sh", "-c", "echo up; sleep 1000")
    bench.lines(1)
    bench.close()
    until(lambda: chronicle(tmp_path)[-1]["e"] == "end", "the supervisor's own line")
    assert chronicle(tmp_path)[-1]["cause"] == "stopped"


def test_a_full_disk_is_told_from_one_that_is_forbidden(small_disk: Path) -> None:
    journal = Journal(small_disk, "n1")
    ballast = fill(small_disk)
    with pytest.raises(DataDirUnwritable) as raised:
        journal.begin(1)
    assert raised.value.is_full
    shutil.rmtree(ballast)
    journal.begin(1)
    journal.close()
