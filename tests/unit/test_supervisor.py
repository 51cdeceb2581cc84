"""When a process that falls is started again."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foldline.supervisor import BACKOFF_MAX_S, BACKOFF_S, STEADY_S, Falls, Supervisor


def test_the_pause_before_a_restart_doubles_and_is_bounded() -> None:
    falls = Falls()
    pauses = []
    for second in range(10):
        falls.note_start(float(second))
        pauses.append(falls.note(float(second)))
    assert pauses[:4] == [BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S, 8 * BACKOFF_S]
    assert pauses[-1] == BACKOFF_MAX_S


def test_a_process_that_ran_steadily_is_restarted_as_quickly_as_the_first_time() -> None:
    falls = Falls()
    for second in range(5):
        falls.note_start(float(second))
        falls.note(float(second))
    falls.note_start(100.0)
    assert falls.note(100.0 + STEADY_S + 1) == BACKOFF_S


def test_a_process_is_due_only_after_its_pause() -> None:
    falls = Falls(started_at=10.0)
    pause = falls.note(11.0)
    assert (falls.is_down, falls.due_at) == (True, 11.0 + pause)
    falls.note_start(12.0)
    assert not falls.is_down


@dataclass
class FullDisk:
    """A server that is down, on a disk with no room for what its start writes."""

    program: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="kafka"))
    log_path: Path = Path("kafka.log")
    is_full: bool = True
    runs: bool = False

    def pid(self) -> int | None:
        return os.getpid() if self.runs else None

    def start(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.runs = True


def test_a_server_that_a_full_disk_keeps_from_starting_is_started_once_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk, told = FullDisk(), list[str]()
    servers: Any = SimpleNamespace(servers=(disk,))
    supervisor = Supervisor(servers, {}, lambda _, news: told.append(news))
    now = [0.0]
    monkeypatch.setattr("foldline.supervisor.time.monotonic", lambda: now[0])
    for _ in range(3):
        supervisor.tend()
        now[0] += BACKOFF_MAX_S
    assert any("No space left" in news for news in told)
    disk.is_full = False
    supervisor.tend()
    assert disk.runs
