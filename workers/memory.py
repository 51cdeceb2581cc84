"""How much memory a task uses, and the evidence that it used too much.

Two ways: reading /proc (anywhere), or a cgroup v2 directory with the memory controller (exact,
enforced by the kernel). What died between two looks is judged by the peak that the kernel kept of
it. Standard library only: supervisors run on it.

An exit code alone is no evidence: anyone may send SIGKILL, and a shell says 137 of its child. Nor
is a MemoryError: no limit of ours makes one, for rlimits are no way. RLIMIT_AS and RLIMIT_DATA
count what a program reserves, which in GPU programs and with many threads is far more than it
uses, and they count each process alone.
"""

from __future__ import annotations

import os
import signal
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


KILLED_CODES = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Killed, or a shell whose child was."""


def over_peak(code: int, peak_bytes: int, limit_bytes: int, own_peak_bytes: int) -> str:
    """What happened to a killed task whose largest process had held more than its limit, or "".

    A program's peak begins with that of the process which forked it: below `own_peak_bytes` it
    says nothing. File pages are counted in a peak, so it is evidence only of what was killed.
    """
    if not limit_bytes or code not in KILLED_CODES:
        return ""
    if peak_bytes <= max(limit_bytes, own_peak_bytes):
        return ""
    return (
        f"killed after one of its processes had held {peak_bytes // MIB} MiB of memory at its "
        f"peak, {limit_bytes // MIB} MiB allowed"
    )


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

    def ran_out(self) -> int:
        """How many processes the kernel killed here for lack of memory."""
        try:
            lines = (self._path / "memory.events").read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return 0
        events = dict(line.split() for line in lines)
        return int(events.get("oom_kill", "0"))

    def evidence(self, limit_bytes: int) -> str:
        """The kernel's own word that it killed for lack of memory here, for people; else ""."""
        killed = self.ran_out()
        if not killed:
            return ""
        peak = self._peak_bytes()
        held = f"{peak // MIB} MiB of memory held at its peak, " if peak else ""
        return (
            f"killed by the kernel for lack of memory (oom_kill {killed}): "
            f"{held}{limit_bytes // MIB} MiB allowed"
        )

    def _peak_bytes(self) -> int:
        """The most that was held here at once; 0 where the kernel does not say."""
        try:
            return int((self._path / "memory.peak").read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0

    def remove(self) -> None:
        """Give the directory back; everything in it must be dead."""
        self._path.rmdir()

    def _write(self, name: str, text: str) -> None:
        (self._path / name).write_text(text, encoding="ascii")
