"""A node's right to run what it was given, until a moment of the boot clock. Pure.

The lease runs from the moment a heartbeat was sent, once the broker has acknowledged it. Tasks
are killed at `fence_at_ns`, a margin before the engine could start to count them as lost. A lease
that has run out is not revived by a late acknowledgement.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.options import MARGIN_DIVISOR


@dataclass(slots=True)
class Lease:
    """Nanoseconds of the boot clock throughout. Not begun before the first registration."""

    length_ns: int
    fence_at_ns: int | None = None

    @property
    def margin_ns(self) -> int:
        """How long before its end the tasks are killed."""
        return self.length_ns // MARGIN_DIVISOR

    def begin(self, sent_ns: int) -> None:
        """A first registration leaves at `sent_ns`: the engine may count from there, acknowledged
        or not. What is not acknowledged within this lease may be lost by the time it is answered.
        """
        assert self.fence_at_ns is None, "a lease begins once"
        self.fence_at_ns = sent_ns + self.length_ns - self.margin_ns

    def renew(self, sent_ns: int, now_ns: int) -> bool:
        """A heartbeat sent at `sent_ns` was acknowledged; True if the lease now runs longer."""
        fence = sent_ns + self.length_ns - self.margin_ns
        if self.is_over(now_ns) or now_ns >= fence:
            return False
        if self.fence_at_ns is not None and fence <= self.fence_at_ns:
            return False
        self.fence_at_ns = fence
        return True

    def is_live(self, now_ns: int) -> bool:
        """Whether tasks may run now."""
        return self.fence_at_ns is not None and now_ns < self.fence_at_ns

    def is_over(self, now_ns: int) -> bool:
        """Whether it had begun and has run out."""
        return self.fence_at_ns is not None and now_ns >= self.fence_at_ns
