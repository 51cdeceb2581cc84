"""Lines of tasks as plain text or server-sent events, and only the last of them. Pure but for order.

Each takes and gives an asynchronous stream, so that nothing waits for the end.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator

from projections.job_answers import moment
from projections.read_ports import LogLine, LogStream

Event = dict[str, str]
"""One server-sent event, by its fields."""


async def text_lines(lines: LogStream, *, timestamps: bool, named: bool) -> AsyncIterator[str]:
    """One line of text each; `named` puts `[attempt/task]` before it. Notes stand in brackets."""
    async for line in lines:
        if line is None:
            continue
        parts = []
        if timestamps and line.at:
            parts.append(_time(line.at))
        if named and line.attempt:
            parts.append(f"[{line.attempt}/{line.task}]")
        parts.append(line.text if line.stream else f"[{line.text}]")
        yield " ".join(parts) + "\n"


async def sse_events(lines: LogStream) -> AsyncIterator[Event]:
    """`line` events with JSON data, `note` events in between, and `end` at last."""
    async for line in lines:
        if line is None:
            continue
        data = {
            "attempt": line.attempt,
            "task": line.task,
            "node": line.node,
            "stream": line.stream,
            "line": line.number,
            "at": _time(line.at) if line.at else None,
            "text": line.text,
        }
        yield {
            "event": "line" if line.stream else "note",
            "id": f"{line.attempt}/{line.task}/{line.number}",
            "data": json.dumps(data),
        }
    yield {"event": "end", "data": "{}"}


async def last_lines(lines: LogStream, most: int) -> LogStream:
    """The last `most` of the lines that are there, then whatever still comes."""
    kept: deque[LogLine] | None = deque(maxlen=most)
    async for line in lines:
        if kept is None:
            yield line
        elif line is not None:
            kept.append(line)
        else:
            for old in kept:
                yield old
            kept = None
    for old in kept or ():
        yield old


def _time(micros: int) -> str:
    at = moment(micros)
    assert at is not None
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
