"""Keeps the processes of one machine running: start in order, restart what falls, stop in reverse.

A part is one `foldline serve` process in a session of its own, so that Ctrl-C reaches only the
supervisor; it dies with the supervisor, whatever kills that. Servers do not: `infra/local` finds
them again. One thread, no clock but the monotonic one. `dev.py` says which parts there are.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.local.ports import PortTaken
from infra.local.process import Server, ServerFailed, rotate, tail, write_identity
from infra.local.stack import LocalServers, Progress

BACKOFF_S = 0.5
BACKOFF_MAX_S = 30.0
STEADY_S = 60.0
"""A part that ran this long has recovered: its next fall counts as the first."""
POLL_S = 0.05
CRASHES_TELL = {"PYTHONFAULTHANDLER": "1"}
"""A crash inside a library leaves its traceback in the part's log, from the first import on."""
PR_SET_PDEATHSIG = 1

_prctl = ctypes.CDLL(None, use_errno=True).prctl


@dataclass(frozen=True, slots=True)
class Part:
    """One process: its own name, which service it is, and what it is told beyond the common."""

    name: str
    service: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Falls:
    """How often something fell since it last ran steadily, and when to start it again."""

    count: int = 0
    started_at: float = 0.0
    due_at: float = 0.0
    is_down: bool = False

    def note(self, now: float) -> float:
        """It is down; the seconds to wait before it is started again."""
        if now - self.started_at > STEADY_S:
            self.count = 0
        pause = min(BACKOFF_S * (1 << self.count), BACKOFF_MAX_S)
        self.count += 1
        self.due_at = now + pause
        self.is_down = True
        return pause

    def note_start(self, now: float) -> None:
        """It was started."""
        self.started_at = now
        self.is_down = False


@dataclass(slots=True)
class Child:
    """A part's process of the moment."""

    part: Part
    process: subprocess.Popen[bytes]
    falls: Falls = field(default_factory=Falls)


@dataclass(slots=True)
class Supervisor:
    """The servers and the parts of one data directory. Has no part until `start_part` is called."""

    servers: LocalServers
    environment: Mapping[str, str]
    progress: Progress
    children: list[Child] = field(default_factory=list)
    server_falls: dict[str, Falls] = field(default_factory=dict)

    def start_part(self, part: Part) -> None:
        """Start one more part; it is stopped before all that were started before it."""
        child = Child(part, self._spawn(part))
        child.falls.note_start(time.monotonic())
        self.children.append(child)

    def tend(self) -> None:
        """Start again, after a pause that grows, every server and part that ended."""
        now = time.monotonic()
        for server in self.servers.servers:
            self._tend_server(
                server, self.server_falls.setdefault(server.program.name, Falls()), now
            )
        for child in self.children:
            self._tend_part(child, now)

    def _tend_server(self, server: Server, falls: Falls, now: float) -> None:
        name = server.program.name
        if server.pid() is None and not falls.is_down:
            pause = falls.note(now)
            self.progress(name, f"died; starting again in {pause:g} s (log: {server.log_path})")
        if falls.is_down and now >= falls.due_at:
            try:
                server.start()
                falls.note_start(now)
            except (OSError, PortTaken, ServerFailed) as error:  # a full disk may be freed
                self.progress(name, f"{error}; trying again in {falls.note(now):g} s")

    def _tend_part(self, child: Child, now: float) -> None:
        name, code = child.part.name, child.process.poll()
        if code is not None and not child.falls.is_down:
            pause = child.falls.note(now)
            how = (
                f"ended with code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
            )
            log = self.log_path(name)
            self.progress(name, f"{how}; starting again in {pause:g} s (log: {log})")
        if child.falls.is_down and now >= child.falls.due_at:
            try:
                child.process = self._spawn(child.part)
                child.falls.note_start(now)
            except OSError as error:  # no process, no room for its log: both may come back
                self.progress(name, f"{error}; trying again in {child.falls.note(now):g} s")

    def stop(self, within_s: float, is_hurried: Callable[[], bool] = lambda: False) -> None:
        """Stop the parts, last started first, each asked and, after `within_s` or in a hurry, killed.

        Parts of one service are asked together. Servers are left running.
        """
        waiting = list(reversed(self.children))
        self.children.clear()
        while waiting:
            service = waiting[0].part.service
            group = [child for child in waiting if child.part.service == service]
            waiting = [child for child in waiting if child.part.service != service]
            for child in group:
                if child.process.poll() is None:
                    child.process.terminate()
            deadline = time.monotonic() + within_s
            for child in group:
                self._end(child, deadline, is_hurried)

    def fallen(self) -> list[str]:
        """For each part that is down now or fell before: its name and the end of its log."""
        return [
            f"{child.part.name} fell {child.falls.count} times; "
            f"{tail(self.log_path(child.part.name))}"
            for child in self.children
            if child.falls.count
        ]

    def fallen_often(self, times: int) -> set[str]:
        """The parts that fell so many times since they last ran steadily."""
        return {child.part.name for child in self.children if child.falls.count >= times}

    def log_path(self, name: str) -> Path:
        """What a part prints."""
        return self.servers.settings.data_dir / "logs" / f"{name}.log"

    def pid_path(self, name: str) -> Path:
        """Who a part is now."""
        return self.servers.settings.data_dir / "run" / f"{name}.pid"

    def _spawn(self, part: Part) -> subprocess.Popen[bytes]:
        log_path = self.log_path(part.name)
        rotate(log_path)
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "foldline", "serve", part.service],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **CRASHES_TELL, **self.environment, **part.environment},
                start_new_session=True,
                preexec_fn=signal_when_orphaned(signal.SIGKILL),  # noqa: PLW1509 - one system call
            )
        write_identity(self.pid_path(part.name), process.pid)
        return process

    def _end(self, child: Child, deadline: float, is_hurried: Callable[[], bool]) -> None:
        process = child.process
        while process.poll() is None:
            if time.monotonic() > deadline or is_hurried():
                process.kill()
                process.wait()
                self.progress(child.part.name, "did not stop in time and was killed")
                break
            time.sleep(POLL_S)
        else:
            self.progress(child.part.name, "stopped")
        self.pid_path(child.part.name).unlink(missing_ok=True)


def signal_when_orphaned(number: signal.Signals) -> Callable[[], None]:
    """What a child does before it becomes its program: ask for a signal when its parent dies."""
    parent = os.getpid()

    def ask() -> None:
        _prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os.kill(os.getpid(), number)

    return ask
