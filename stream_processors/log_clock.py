"""The log's own time: goes on from the log's last value, at the owner's rate, never backwards.

Pure: clock readings come in as arguments. Differences to wall time are worked off slowly, so that
a stepped wall clock cannot fire every timer at once or hold them all back.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.terms import Micros

SLEW_DIVISOR = 200
"""At most one part in this many of the time passed is added or left out to near wall time."""
ANCHOR_US = 1_000_000
"""How often the correction starts afresh; below a second it would round to nothing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the clocks of this host show, in microseconds.

    `monotonic_us` goes on while the host is suspended (the boot-time clock). `wall_us` is UTC.
    """

    monotonic_us: int
    wall_us: int


class LogClock:
    """Log time for one ownership of a shard."""

    def __init__(self, last_at: Micros, now: Reading) -> None:
        """Begin at wall time, or at the log's last `at` where that is ahead of it."""
        self._anchor_at = max(last_at, now.wall_us)
        self._anchor_us = now.monotonic_us
        self._last = self._anchor_at

    def at(self, now: Reading) -> Micros:
        """The log time of this reading; never less than an earlier answer."""
        passed = max(now.monotonic_us - self._anchor_us, 0)
        steady = self._anchor_at + passed
        bound = passed // SLEW_DIVISOR
        at = steady + min(max(now.wall_us - steady, -bound), bound)
        if passed >= ANCHOR_US:
            self._anchor_at, self._anchor_us = at, now.monotonic_us
        self._last = max(self._last, at)
        return Micros(self._last)
