"""How much memory a task uses, and the evidence that it used too much.

Two ways: reading /proc (anywhere), or a cgroup v2 directory with the memory controller (exact,
enforced by the kernel). Standard library only: supervisors run on it. RLIMIT_AS is no way: GPU
programs reserve far more address space than they use.
"""

from __future__ import annotations

import os
from pathlib import Path

from workers.processes import descendants_of

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024
KIB = 1024


def resident_bytes(root: int) -> int:
    """What the descendants of `root` hold in memory, pages they share counted once for each."""
    return sum(_resident(pid) for pid in descendants_of(root))


def held_bytes(root: int) -> int:
    """What the descendants of `root` hold for themselves: shared pages divided, file pages left
    out, for the kernel can drop those.
    """
    return sum(_held(pid) for pid in descendants_of(root))


def exceeds(root: int, limit_bytes: int) -> int:
    """The bytes that the descendants of `root` hold if that is over the limit, else 0.

    The exact sum costs milliseconds a process, so it is taken only when the quick one, which is
    never smaller, is over the limit.
    """
    if resident_bytes(root) <= limit_bytes:
        return 0
    held = held_bytes(root)
    return held if held > limit_bytes else 0


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _held(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    sizes = {name: value for name, _, value in (line.partition(b":") for line in lines)}
    return sum(
        int(sizes[name].split()[0]) * KIB for name in (b"Pss_Anon", b"Pss_Shmem") if name in sizes
    )


class Cgroup:
    """One task's cgroup v2 directory: limit, membership, kill, and the kernel's own evidence."""

    __slots__ = ("_path",)

    def __init__(self, path: str, limit_bytes: int) -> None:
        self._path = Path(path)
        self._path.mkdir()
        if limit_bytes:
            self._write("memory.max", str(limit_bytes))
            self._write("memory.oom.group", "1")

    def add(self, pid: int) -> None:
        """Move a process here; what it starts from now on is here too."""
        self._write("cgroup.procs", str(pid))

    def kill(self) -> None:
        """SIGKILL every process here at once."""
        self._write("cgroup.kill", "1")

    def ran_out(self) -> bool:
        """Whether the kernel killed something here for lack of memory."""
        try:
            lines = (self._path / "memory.events").read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return False
        events = dict(line.split() for line in lines)
        return int(events.get("oom_kill", "0")) > 0

    def remove(self) -> None:
        """Give the directory back; everything in it must be dead."""
        self._path.rmdir()

    def _write(self, name: str, text: str) -> None:
        (self._path / name).write_text(text, encoding="ascii")
