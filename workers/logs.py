"""What a task writes becomes lines, within limits: length, rate and total. Pure.

Lines beyond a limit are dropped and counted, never delayed: a task is not slowed by its log. The
last lines are kept apart from all limits, for the report of a failure (`tail.py`).
"""

from __future__ import annotations

from workers.options import LogLimits
from workers.tail import Tail

NS = 1_000_000_000
STREAMS = ("stdout", "stderr")


class LineCutter:
    """Bytes of one stream to lines. Carriage returns overwrite, as on a terminal."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._partial = b""
        self._cut = 0

    def feed(self, data: bytes) -> list[str]:
        """The lines that these bytes complete, without their ends."""
        first, *rest = data.split(b"\n")
        self._extend(first)
        lines = []
        for piece in rest:
            lines.append(self._take())
            self._extend(piece)
        return lines

    def close(self) -> list[str]:
        """The last line, if it has no end."""
        return [self._take()] if self._partial or self._cut else []

    def _extend(self, piece: bytes) -> None:
        partial = self._partial + piece
        back = partial.rfind(b"\r", 0, -1) + 1
        if back:
            partial, self._cut = partial[back:], 0
        self._cut += max(0, len(partial) - self._limit)
        self._partial = partial[: self._limit]

    def _take(self) -> str:
        text = self._partial.rstrip(b"\r").decode(errors="replace")
        if self._cut:
            text += f" [truncated: {self._cut} bytes more]"
        self._partial, self._cut = b"", 0
        return text


class Allowance:
    """How many lines and bytes one task may still send: a bucket that refills, and a total."""

    def __init__(self, limits: LogLimits, now_ns: int) -> None:
        self._limits = limits
        self._lines = float(limits.lines_per_s * limits.burst_s)
        self._bytes = float(limits.bytes_per_s * limits.burst_s)
        self._left = limits.total_bytes
        self._at_ns = now_ns

    def refill(self, now_ns: int) -> None:
        """Time has passed."""
        limits = self._limits
        passed_s = (now_ns - self._at_ns) / NS
        self._at_ns = now_ns
        lines_max = float(limits.lines_per_s * limits.burst_s)
        bytes_max = float(limits.bytes_per_s * limits.burst_s)
        self._lines = min(lines_max, self._lines + passed_s * limits.lines_per_s)
        self._bytes = min(bytes_max, self._bytes + passed_s * limits.bytes_per_s)

    def take(self, size: int) -> bool:
        """Whether one more line of this size may pass."""
        if self._lines < 1 or self._bytes < size or self._left < size:
            return False
        self._lines -= 1
        self._bytes -= size
        self._left -= size
        return True


class TaskLog:
    """Both streams of one task."""

    def __init__(self, limits: LogLimits, now_ns: int) -> None:
        self._cutters = {stream: LineCutter(limits.line_bytes) for stream in STREAMS}
        self._allowance = Allowance(limits, now_ns)
        self._tail = Tail()
        self._dropped = dict.fromkeys(STREAMS, 0)

    def feed(self, stream: str, data: bytes, now_ns: int) -> list[tuple[int, list[str]]]:
        """What to send: (lines dropped before, lines), in order."""
        self._allowance.refill(now_ns)
        return self._pass(stream, self._cutters[stream].feed(data))

    def close(self, stream: str) -> list[tuple[int, list[str]]]:
        """The stream ended: its last line, and what was dropped at the end."""
        passed = self._pass(stream, self._cutters[stream].close())
        if self._dropped[stream]:
            passed.append((self._dropped[stream], []))
            self._dropped[stream] = 0
        return passed

    def tail(self) -> str:
        """The last lines of both streams."""
        return self._tail.text()

    def _pass(self, stream: str, lines: list[str]) -> list[tuple[int, list[str]]]:
        self._tail.add(stream, lines)
        passed: list[tuple[int, list[str]]] = []
        for line in lines:
            if not self._allowance.take(len(line) + 1):
                self._dropped[stream] += 1
            elif self._dropped[stream] or not passed:
                passed.append((self._dropped[stream], [line]))
                self._dropped[stream] = 0
            else:
                passed[-1][1].append(line)
        return passed
