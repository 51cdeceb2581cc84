"""What ran on this node and when, one JSON line an event: for checkers and people, never for us.

Appended to `tasks.jsonl` in the node's data directory; full, it becomes `tasks.1.jsonl` in place of
the one before, so both together are bounded. Four kinds of line, by their `e`:

- `agent`: an agent begins (`node`, `boot` id, its `pid` and `token`);
- `incarnation`: its number. All that was started on this node before is dead;
- `start`: a task is about to run (`job`, `no`, `attempt`, `task`, `incarnation`, and `supervisor`,
  `pid` with its `start` in clock ticks). Written by the agent, before the task is let go;
- `end`: the task and all below it are dead (the same names, `cause`, `code`). Written by the task's
  supervisor, so that it is there even when the agent is not, or by the agent where that one died.

All have `boot_ns`, of the boot clock, and `wall_us`, for people. A task without its end died with
its supervisor, before the next `incarnation`. Lines are not forced to the disk, and one that finds
no room is left out and counted by `lost`. Standard library only: supervisors write here too.
"""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

MAX_BYTES = 16 * 1024 * 1024
LOOK_EVERY = 64
"""Lines of ours between two looks at the size: supervisors write half of them."""
FILE_NAME = "tasks.jsonl"
OLDER_NAME = "tasks.1.jsonl"


class Chronicle:
    """The agent's hand in it."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / FILE_NAME
        self.lost = 0
        self._older = data_dir / OLDER_NAME
        self._lines = 0

    def agent(self, node: str, boot: str, token: str, boot_ns: int) -> None:
        """An agent begins."""
        self._write(_line("agent", boot_ns, node=node, boot=boot, token=token, pid=os.getpid()))

    def incarnation(self, incarnation: int, boot_ns: int) -> None:
        """An incarnation begins: nothing that was started before lives."""
        self._write(_line("incarnation", boot_ns, incarnation=incarnation))

    def start(self, names: dict[str, Any], forked: list[int], boot_ns: int) -> None:
        """A task is about to run; `forked` is what its supervisor said of itself and of it."""
        supervisor, _, pid, start = forked
        self._write(_line("start", boot_ns, **names, supervisor=supervisor, pid=pid, start=start))

    def end(self, line: bytes) -> None:
        """A task's supervisor died before it could say this itself."""
        self._write(line)

    def _write(self, line: bytes) -> None:
        try:
            if self._lines % LOOK_EVERY == 0:
                self._turn_over()
            if self.lost:
                append(self.path, json.dumps({"e": "lost", "lines": self.lost}).encode() + b"\n")
                self.lost = 0
            append(self.path, line)
        except OSError:
            self.lost += 1
        else:
            self._lines += 1

    def _turn_over(self) -> None:
        if self.path.exists() and self.path.stat().st_size > MAX_BYTES:
            self.path.replace(self._older)


def end_line(names: dict[str, Any], supervisor: int, boot_ns: int, cause: str, code: int) -> bytes:
    """That a task and everything below it are dead."""
    return _line("end", boot_ns, **names, supervisor=supervisor, cause=cause, code=code)


def append(path: str | Path, line: bytes) -> None:
    """One write, so that lines of several processes do not mix.

    Raises OSError when there is no room; half a line is then closed off.
    """
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        written = os.write(file, line)
        if written < len(line):
            os.write(file, b"\n")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(file)


def _line(event: str, boot_ns: int, **values: Any) -> bytes:
    words = {"e": event, "boot_ns": boot_ns, "wall_us": time.time_ns() // 1000, **values}
    return json.dumps(words).encode() + b"\n"
