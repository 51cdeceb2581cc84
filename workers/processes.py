"""What Linux says of processes: clocks, start times, trees, and the calls Python lacks.

Standard library only and quick to import: the fork server and every supervisor run on it. A
process is known by its pid together with its start time, for a pid may be used again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TFD_TIMER_ABSTIME = 1
NS = 1_000_000_000

_HAS_CHILDREN_FILES = Path(f"/proc/self/task/{os.getpid()}/children").exists()
"""Whether the kernel lists children (CONFIG_PROC_CHILDREN); else all of /proc is read."""

_libc = ctypes.CDLL(None, use_errno=True)


def boot_ns() -> int:
    """Now on the boot clock, which also runs while the host is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """A name for this boot of the host: pids and start times mean nothing in another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def become_subreaper() -> None:
    """Descendants whose parent dies become this process's children instead of init's."""
    _checked(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def die_with_parent() -> None:
    """SIGKILL this process when its parent dies."""
    _checked(_libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))


class BootTimer:
    """A timer of the boot clock as a file descriptor: it fires at once after a suspend."""

    __slots__ = ("fd",)

    def __init__(self) -> None:
        flags = os.O_CLOEXEC | os.O_NONBLOCK
        self.fd = _checked(_libc.timerfd_create(time.CLOCK_BOOTTIME, flags))

    def set(self, at_ns: int) -> None:
        """Fire at this moment, at once if it has passed."""
        at_ns = max(at_ns, 1)
        spec = struct.pack("@qqqq", 0, 0, at_ns // NS, at_ns % NS)
        _checked(_libc.timerfd_settime(self.fd, TFD_TIMER_ABSTIME, spec, None))

    def clear(self) -> None:
        """Take note that it fired."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class Status:
    """A line of /proc/<pid>/stat. `start` is in clock ticks since boot."""

    __slots__ = ("group", "parent", "pid", "session", "start", "state")

    def __init__(self, pid: int, fields: list[bytes]) -> None:
        self.pid = pid
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.start = int(fields[19])

    @property
    def is_dead(self) -> bool:
        """A zombie runs nothing: only its parent has not looked yet."""
        return self.state in "ZX"


def status(pid: int) -> Status | None:
    """What /proc says of a process; None when there is none of that pid."""
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything, spaces and parentheses too.
    return Status(pid, data[data.rindex(b")") + 2 :].split())


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of a process that exists, or -1."""
    found = status(pid)
    return found.start if found is not None else -1


def all_processes() -> Iterator[Status]:
    """Every process that can be seen."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            found = status(int(entry.name))
            if found is not None:
                yield found


def children_of(pid: int) -> list[int]:
    """The children of a process, zombies included; none when it is gone."""
    if not _HAS_CHILDREN_FILES:
        return [other.pid for other in all_processes() if other.parent == pid]
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (thread / "children").read_bytes().split())
    return found


def descendants_of(pid: int) -> list[int]:
    """Children, their children and so on: parents before children."""
    found = children_of(pid)
    for child in found:
        found += children_of(child)
    return found


def kill(pids: Iterable[int]) -> None:
    """SIGKILL each that still exists. Only for children and their descendants."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_exactly(pid: int, start: int) -> bool:
    """SIGKILL a process that is nobody's child of ours, unless its pid now names another one."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if start_time(pid) != start:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True
