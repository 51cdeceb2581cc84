"""Clocks that jump, for one node: its agent, fork server and supervisors read them together.

Both offsets lie in one small shared file, in nanoseconds: of wall time, which may jump anywhere,
and of the boot clock, which only ever jumps ahead, as it does for a host that was suspended.
Standard library only: the fork server runs without anything else.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import time
from pathlib import Path
from typing import Any

TICK_NS = 50_000_000
"""How soon a timer of the boot clock notices that it jumped; a real one fires at once."""


class JumpingClock:
    """The shared offsets. Make the file with `create` first."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._shared = memoryview(mmap.mmap(file.fileno(), 16)).cast("q")

    @staticmethod
    def create(path: Path) -> JumpingClock:
        path.write_bytes(bytes(16))
        return JumpingClock(path)

    def set_wall(self, ahead_s: float) -> None:
        self._shared[0] = int(ahead_s * 1e9)

    def jump_boot(self, by_s: float) -> None:
        assert by_s > 0, "the boot clock never goes back"
        self._shared[1] += int(by_s * 1e9)

    def wall_ns(self) -> int:
        return time.time_ns() + self._shared[0]

    def boot_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + self._shared[1]


def install(path: str) -> JumpingClock:
    """Give this process the clocks of that file; before any other module of `workers` is loaded."""
    from workers import processes  # noqa: PLC0415 - the fork server must be able to load this file

    clock = JumpingClock(Path(path))
    libc: Any = ctypes.CDLL(None, use_errno=True)

    def set_timer(timer: processes.BootTimer, at_ns: int) -> None:
        first_ns = min(max(at_ns - clock.boot_ns(), 1), TICK_NS)
        spec = struct.pack("@qqqq", 0, TICK_NS, 0, first_ns)
        assert libc.timerfd_settime(timer.fd, 0, spec, None) == 0

    for owner, name, value in (
        (processes, "boot_ns", clock.boot_ns),
        (processes.BootTimer, "set", set_timer),
    ):
        assert hasattr(owner, name), f"{owner} has no {name} any more"
        setattr(owner, name, value)
    return clock
