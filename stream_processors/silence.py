"""How long a shard's owner has given no sign of life, by one who listens. Pure: clock readings come in.

Signs of life are records that count, and the owner's marks in its reports. Only time in which this
process listened counts: one that slept, or could not ask the log, has heard nothing and knows
nothing. `ownership.py` claims when a silence has lasted; the log decides whether that was right.
"""

from __future__ import annotations

from stream_processors.log_clock import Reading

LISTENED_US = 250_000
"""Between two ticks a process listened for so long at the most, however long they are apart."""
SLEPT_US = 1_000_000
"""One whose ticks are so far apart was stopped, or kept waiting: it knows nothing of the owner."""


class Silence:
    """One listener's count of one owner's silence."""

    def __init__(self, patience_us: int, listener: bytes) -> None:
        """Patience is up to a quarter longer, by listener: rivals must not march in step."""
        self._patience_us = patience_us + patience_us * listener[-1] // 1024
        self._silent_us = 0
        self._ticked_us: int | None = None

    @property
    def has_lasted(self) -> bool:
        """Whether the owner was silent for as long as anyone waits."""
        return self._silent_us >= self._patience_us

    def tick(self, now: Reading) -> bool:
        """Time has passed, listening; whether it was slept instead."""
        passed = 0 if self._ticked_us is None else now.monotonic_us - self._ticked_us
        self._ticked_us = now.monotonic_us
        self._silent_us += min(passed, LISTENED_US)
        return passed > SLEPT_US

    def broken(self) -> None:
        """The owner lives, or it could not have been heard: count from here."""
        self._silent_us = 0

    def presumed(self) -> None:
        """The owner will say nothing, as far as is known here."""
        self._silent_us = self._patience_us
