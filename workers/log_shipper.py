"""Tasks' lines on their way to the log topic, in records of `LogLines`. No I/O, no clock.

One record of each stream is in flight at a time: a line leaves at once when nothing is in flight,
and under load lines gather meanwhile. What does not fit (the broker is away for long) is dropped
and counted: each stream's buffer is bounded, all together are, what is in flight, and how many
streams of ended tasks are kept. A record whose fate is unknown is sent again: readers see the
repeat by `first_line`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from schemas.public import LogLines
from schemas.terms import Micros
from workers.executor import TaskKey, Wrote
from workers.logs import STREAMS
from workers.messages import Moment

NS = 1_000_000_000
RECORD_BYTES = 256 * 1024
BUFFER_BYTES = 1024 * 1024
TOTAL_BYTES = 64 * 1024 * 1024
FLYING_BYTES = 8 * 1024 * 1024
"""In flight at once: far below the producer's own buffer, which reports must find open."""
ENDED_STREAMS_MAX = 4_096
LINE_COST = 128
"""What a line costs beyond its characters, so that empty lines are bounded too."""
RESEND_AFTER_NS = NS // 4
FAR_NS = 1 << 62

StreamKey = tuple[TaskKey, str]


@dataclass(slots=True)
class _Stream:
    """Lines that wait, each with the number of lines dropped before it."""

    job_id: str
    lines: deque[tuple[int, str]] = field(default_factory=deque)
    size: int = 0
    dropped: int = 0
    flying: LogLines | None = None
    flying_size: int = 0
    is_in_flight: bool = False
    not_before_ns: int = 0


class LogShipper:
    """All streams of all tasks of one node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._streams: dict[StreamKey, _Stream] = {}
        self._next_line: dict[TaskKey, int] = {}
        self._ended: dict[TaskKey, None] = {}
        self._size = 0
        self._flying = 0
        self.lost_streams = 0
        """Streams whose last lines were given up."""

    def __bool__(self) -> bool:
        """Whether anything is yet to be sent or acknowledged."""
        return bool(self._streams)

    def add(self, wrote: Wrote) -> None:
        """A task wrote these."""
        stream = self._streams.setdefault((wrote.key, wrote.stream), _Stream(wrote.job_id))
        stream.dropped += wrote.dropped
        for line in wrote.lines:
            size = len(line) + LINE_COST
            if stream.size + size > BUFFER_BYTES or self._size + size > TOTAL_BYTES:
                stream.dropped += 1
                continue
            stream.lines.append((stream.dropped, line))
            stream.dropped = 0
            stream.size += size
            self._size += size

    def end(self, key: TaskKey) -> None:
        """The task wrote its last: forget it once all is sent."""
        self._ended[key] = None
        self._forget(key)
        while len(self._ended) > ENDED_STREAMS_MAX:
            self._give_up(next(iter(self._ended)))

    def records(self, now: Moment) -> list[tuple[StreamKey, LogLines]]:
        """What to send now; answer each with `landed`."""
        found = []
        for key, stream in self._streams.items():
            if stream.is_in_flight or now.boot_ns < stream.not_before_ns:
                continue
            if self._flying >= FLYING_BYTES:
                break
            if stream.flying is None:
                stream.flying = self._next_record(key, stream, now)
            stream.is_in_flight = True
            self._flying += stream.flying_size
            found.append((key, stream.flying))
        for key, _ in found:  # to the end of the row: the others come next
            self._streams[key] = self._streams.pop(key)
        return found

    def landed(self, key: StreamKey, *, arrived: bool, now: Moment) -> None:
        """What became of a record."""
        stream = self._streams.get(key)
        if stream is None:
            return  # given up meanwhile
        stream.is_in_flight = False
        self._flying -= stream.flying_size
        if not arrived:
            stream.not_before_ns = now.boot_ns + RESEND_AFTER_NS
            return
        stream.flying = None
        self._size -= stream.flying_size
        stream.flying_size = 0
        if not stream.lines and not stream.dropped:
            del self._streams[key]
            self._forget(key[0])

    def next_due_ns(self) -> int:
        """When `records` will have something that it has not now, on the boot clock."""
        if self._flying >= FLYING_BYTES:
            return FAR_NS
        waits = [
            stream.not_before_ns for stream in self._streams.values() if not stream.is_in_flight
        ]
        return min(waits, default=FAR_NS)

    def _next_record(self, key: StreamKey, stream: _Stream, now: Moment) -> LogLines:
        task, name = key
        dropped, size = 0, 0
        lines: list[str] = []
        while stream.lines and size < RECORD_BYTES and (not lines or not stream.lines[0][0]):
            before, line = stream.lines.popleft()
            dropped += before
            size += len(line) + LINE_COST
            lines.append(line)
        if not lines:
            dropped, stream.dropped = stream.dropped, 0
        stream.size -= size
        stream.flying_size = size
        first = self._next_line.get(task, 0) + dropped
        self._next_line[task] = first + len(lines)
        return LogLines(
            job_id=stream.job_id,
            attempt=task.attempt,
            task=task.task,
            node=self._node,
            stream=name,
            first_line=first,
            dropped=dropped,
            at=Micros(now.wall_us),
            lines=lines,
        )

    def _forget(self, key: TaskKey) -> None:
        if key in self._ended and not any((key, name) in self._streams for name in STREAMS):
            del self._ended[key]
            self._next_line.pop(key, None)

    def _give_up(self, key: TaskKey) -> None:
        """The broker has been away for too many tasks: the rest of this one's lines is lost."""
        for name in STREAMS:
            stream = self._streams.pop((key, name), None)
            if stream is not None:
                self._size -= stream.size + stream.flying_size
                self._flying -= stream.flying_size if stream.is_in_flight else 0
                self.lost_streams += 1
        self._forget(key)
