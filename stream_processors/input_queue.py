"""Records of one input that an engine has read and not yet decided.

Knows offsets and weights (`weights.py`), not what a record means. Bounded by who feeds it: a process
reads no more while its engines hold too much (`shard_runner.py`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from schemas.envelope import Consumed, Input

T = TypeVar("T")


@dataclass(slots=True)
class InputQueue(Generic[T]):
    """Records of one input that were read and not yet decided; `next` is the first not read."""

    next: int = 0
    decided: int = 0
    waiting: deque[tuple[int, int, T]] = field(default_factory=deque)
    weight: int = 0

    def reset(self, position: int) -> None:
        """Begin at a position; what was read is void."""
        self.next = self.decided = position
        self.waiting.clear()
        self.weight = 0

    def put(self, offset: int, weight: int, message: T) -> None:
        """The next record, and how much of a decision it takes at most."""
        self.waiting.append((offset, weight, message))
        self.weight += weight

    def take(self, records: int, room: int, *, needed: bool = True) -> tuple[tuple[T, ...], int]:
        """Up to so many records and bytes, and their bytes; at least one record if `needed`."""
        taken: list[T] = []
        used = 0
        while self.waiting and len(taken) < records:
            _, weight, message = self.waiting[0]
            if used + weight > room and (taken or not needed):
                break
            used += weight
            taken.append(message)
            self.waiting.popleft()
        self.weight -= used
        return tuple(taken), used

    def consume(self, kind: Input) -> Consumed | None:
        """From where the last decision stopped to the next record not taken."""
        stop = self.waiting[0][0] if self.waiting else self.next
        if stop == self.decided:
            return None
        start, self.decided = self.decided, stop
        return Consumed(kind, start, stop)
