"""The last lines that a task wrote, for whoever looks at its failure. Pure, and small for each task.

Both streams in the order in which they were read, but stderr has three quarters of the room to
itself: a traceback is not pushed out by a chatty stdout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice

TAIL_LINES = 40
TAIL_CHARS = 4_000
LINE_CHARS = 1_000
"""A longer line is cut: it must not be all that is seen."""
STDERR_LINES = TAIL_LINES * 3 // 4
STDERR_CHARS = TAIL_CHARS * 3 // 4

Numbered = tuple[int, str]


class Tail:
    """A ring of lines for each stream."""

    __slots__ = ("_next", "_rings")

    def __init__(self) -> None:
        self._rings: dict[str, deque[Numbered]] = {}
        self._next = 0

    def add(self, stream: str, lines: list[str]) -> None:
        """The task wrote these."""
        if not lines:
            return
        ring = self._rings.get(stream)
        if ring is None:
            ring = self._rings[stream] = deque(maxlen=TAIL_LINES)
        for line in lines[-TAIL_LINES:]:
            ring.append((self._next, _plain(line)))
            self._next += 1

    def text(self) -> str:
        """At most TAIL_LINES lines and TAIL_CHARS characters, oldest first."""
        stderr = list(reversed(self._rings.get("stderr", ())))
        stdout = reversed(self._rings.get("stdout", ()))
        chosen = list(_fitting(stderr, STDERR_LINES, STDERR_CHARS))
        rest = chain(stdout, islice(stderr, len(chosen), None))
        used = sum(len(line) + 1 for _, line in chosen)
        chosen += _fitting(rest, TAIL_LINES - len(chosen), TAIL_CHARS - used)
        return "\n".join(line for _, line in sorted(chosen))


def _fitting(lines: Iterable[Numbered], count: int, chars: int) -> Iterator[Numbered]:
    """As many of these, from the first on, as there is room for."""
    for number, line in islice(lines, count):
        chars -= len(line) + 1
        if chars < 0:
            return
        yield number, line


def _plain(line: str) -> str:
    """Text that any store takes: a NUL is none."""
    cut = line[:LINE_CHARS] + " [cut]" if len(line) > LINE_CHARS else line
    return cut.replace("\0", "\ufffd")
