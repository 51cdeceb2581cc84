"""Out of memory is said on evidence alone: measured, the kernel's word, or the peak of what died."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.executor_bench import ProcessBench
from workers.executor import Cause
from workers.memory import MIB, over_peak

pytestmark = pytest.mark.integration

GREEDY = "import os,signal\nx=bytearray(200<<20)\nfor i in range(0,len(x),4096): x[i]=1\n"
"""Takes 200 MiB as fast as it can; what follows happens before anybody can have measured."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ProcessBench]:
    found = ProcessBench(tmp_path)
    yield found
    found.close()


def test_what_is_held_beyond_the_limit_is_measured_and_told_with_its_figures(
    bench: ProcessBench,
) -> None:
    program = "x=b'x'*(200<<20); import time; time.sleep(1000)"
    bench.start(sys.executable, "-c", program, memory_mib=100)
    assert bench.end().cause is Cause.OUT_OF_MEMORY
    assert "MiB of memory held, 100 MiB allowed" in bench.end().detail
    assert 100 <= int(bench.end().detail.split()[0]) <= 400


def test_a_task_killed_between_two_looks_is_judged_by_its_peak(bench: ProcessBench) -> None:
    program = GREEDY + "os.kill(os.getpid(), signal.SIGKILL)"
    bench.start(sys.executable, "-S", "-c", program, memory_mib=100)
    end = bench.end()
    assert (end.cause, end.exit_code) == (Cause.OUT_OF_MEMORY, -9)
    assert "100 MiB allowed" in end.detail


def test_a_shell_whose_child_was_killed_is_judged_by_the_childs_peak(bench: ProcessBench) -> None:
    program = GREEDY + "os.kill(os.getpid(), signal.SIGKILL)"
    bench.start("sh", "-c", '"$0" -S -c "$1"; exit $?', sys.executable, program, memory_mib=100)
    assert bench.end().cause is Cause.OUT_OF_MEMORY


@pytest.mark.parametrize("command", ["kill -9 $$", "exit 137"])
def test_a_kill_or_its_code_alone_is_no_evidence(bench: ProcessBench, command: str) -> None:
    bench.start("sh", "-c", command, memory_mib=100)
    assert bench.end().cause is Cause.EXITED


def test_a_kill_from_outside_is_called_what_it_is(bench: ProcessBench) -> None:
    bench.start("sh", "-c", "echo $$; sleep 1000", memory_mib=100)
    (pid,) = map(int, bench.lines(1))
    psutil.Process(pid).send_signal(signal.SIGKILL)
    end = bench.end()
    assert (end.cause, end.exit_code) == (Cause.EXITED, -9)
    assert end.detail == "killed by signal 9 (SIGKILL)"


def test_a_limit_smaller_than_the_supervisor_itself_makes_no_evidence(bench: ProcessBench) -> None:
    bench.start("sh", "-c", "kill -9 $$", memory_mib=1)
    assert bench.end().cause is Cause.EXITED


def test_a_task_that_fails_by_itself_after_a_peak_has_failed_by_itself(
    bench: ProcessBench,
) -> None:
    bench.start(sys.executable, "-S", "-c", GREEDY + "del x\nos._exit(3)", memory_mib=4096)
    assert (bench.end().cause, bench.end().exit_code) == (Cause.EXITED, 3)


def test_a_memory_error_is_the_programs_own_and_its_last_lines_say_so(bench: ProcessBench) -> None:
    bench.start(sys.executable, "-c", "x = bytearray(1 << 62)", memory_mib=100)
    end = bench.end()
    assert (end.cause, end.exit_code) == (Cause.EXITED, 1)
    assert end.tail.endswith("MemoryError")


@pytest.mark.parametrize(
    ("code", "peak_mib", "limit_mib", "is_evidence"),
    [
        (-9, 101, 100, True),
        (137, 101, 100, True),
        (-9, 100, 100, False),
        (1, 500, 100, False),
        (-11, 500, 100, False),
        (-9, 500, 0, False),
        (-9, 11, 5, False),
    ],
    ids=["killed", "by a shell", "within", "failed", "crashed", "no limit", "as forked"],
)
def test_a_peak_is_evidence_only_over_the_limit_and_of_what_was_killed(
    code: int, peak_mib: int, limit_mib: int, *, is_evidence: bool
) -> None:
    why = over_peak(code, peak_mib * MIB, limit_mib * MIB, 12 * MIB)
    assert bool(why) is is_evidence
    if is_evidence:
        assert f"{peak_mib} MiB" in why
        assert f"{limit_mib} MiB allowed" in why


def test_a_cgroup_that_cannot_be_made_breaks_only_its_task(tmp_path: Path) -> None:
    parent = tmp_path / "cgroup"
    parent.mkdir()
    (parent / "cgroup.subtree_control").write_text("memory\n")
    # A file where the task's directory should be: what a kernel without room answers, near enough.
    (parent / f"foldline-{os.getpid()}-0").write_text("")
    bench = ProcessBench(tmp_path / "data", cgroup_dir=parent)
    try:
        bench.start("true")
        assert bench.end().cause is Cause.BROKEN
        assert "its cgroup could not be made" in bench.end().detail
    finally:
        bench.close()
