"""A task's cgroup: membership and kill on this kernel; what is refused when it cannot be had."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_world import options
from workers.forking import ExecutorBroken
from workers.journal import Journal
from workers.memory import Cgroup, held_bytes, resident_bytes
from workers.process_executor import ProcessExecutor


@pytest.fixture
def parent() -> Iterator[Path]:
    """A cgroup v2 directory of the test's own."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for _, where, kind, *_ in mounts:
        if kind != "cgroup2":
            continue
        path = Path(where) / f"foldline-test-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            continue
        yield path
        path.rmdir()
        return
    pytest.skip("no cgroup v2 directory can be made here")


def test_a_cgroup_kills_all_its_members_and_gives_its_directory_back(parent: Path) -> None:
    cgroup = Cgroup(str(parent / "task"), limit_bytes=0)
    processes = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    for process in processes:
        cgroup.add(process.pid)
    members = (parent / "task" / "cgroup.procs").read_text().split()
    assert sorted(map(int, members)) == sorted(process.pid for process in processes)
    cgroup.kill()
    assert [process.wait(10) for process in processes] == [-9, -9, -9]
    assert not cgroup.ran_out()
    cgroup.remove()
    assert not (parent / "task").exists()


@pytest.mark.parametrize(
    ("events", "expected"), [("low 0\noom 3\noom_kill 0\n", ""), ("oom_kill 2\n", "oom_kill 2")]
)
def test_only_a_kill_by_the_kernel_is_evidence(tmp_path: Path, events: str, expected: str) -> None:
    cgroup = Cgroup(str(tmp_path / "task"), limit_bytes=0)
    (tmp_path / "task" / "memory.events").write_text(events)
    (tmp_path / "task" / "memory.peak").write_text(f"{130 << 20}\n")
    evidence = cgroup.evidence(128 << 20)
    assert bool(evidence) is bool(expected)
    if expected:
        assert expected in evidence
        assert "130 MiB of memory held at its peak, 128 MiB allowed" in evidence


def test_a_limit_is_written_for_the_whole_group(tmp_path: Path) -> None:
    Cgroup(str(tmp_path / "task"), limit_bytes=1 << 20)
    assert (tmp_path / "task" / "memory.max").read_text() == "1048576"
    assert (tmp_path / "task" / "memory.oom.group").read_text() == "1"


def test_a_directory_without_the_memory_controller_is_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path, "n1")
    with pytest.raises(ExecutorBroken, match=r"Delegate=yes"):
        ProcessExecutor(options(data_dir=tmp_path, cgroup_dir=tmp_path), journal)
    journal.close()


def test_what_descendants_hold_is_never_more_than_what_is_resident() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        held, resident = held_bytes(os.getpid()), resident_bytes(os.getpid())
        process.kill()
    assert 0 < held <= resident
