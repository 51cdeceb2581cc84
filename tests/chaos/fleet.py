"""Keeps the run's own processes going: the two `foldline dev` and the agents, as a host would.

What ends is started again after a moment, unless it is held down. One thread. Everything dies with
this process: agents at once, the others in order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, RLock, Thread

import psutil

from foldline.supervisor import signal_when_orphaned

RESTART_S = 0.5
TEND_S = 0.1


@dataclass(slots=True)
class Member:
    """One process and how it is run."""

    name: str
    argv: list[str]
    environment: Mapping[str, str]
    log: Path
    cwd: Path
    orphaned: signal.Signals = signal.SIGKILL
    process: subprocess.Popen[bytes] | None = None
    is_held: bool = False
    due_at: float = 0.0
    ends: list[str] = field(default_factory=list)


class Fleet:
    """Start members one by one; `close` ends them, last started first."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self._lock = RLock()
        self._closing = Event()
        self._thread = Thread(target=self._run, name="fleet", daemon=True)
        self._thread.start()

    def start(self, member: Member) -> None:
        with self._lock:
            _spawn(member)
            self.members[member.name] = member

    def pid(self, name: str) -> int | None:
        """The process of the moment; None while it is down."""
        with self._lock:
            process = self.members[name].process
            return process.pid if process is not None and process.poll() is None else None

    def hold(self, name: str) -> None:
        """Do not start it again when it ends, until it is released."""
        with self._lock:
            self.members[name].is_held = True

    def release(self, name: str) -> None:
        with self._lock:
            self.members[name].is_held = False

    def kill_tree(self, name: str) -> int:
        """kill -9 a process with everything below it, as if its host went; how many they were."""
        with self._lock:
            pid = self.pid(name)
            return _kill_tree(pid) if pid is not None else 0

    def close(self, within_s: float) -> None:
        with self._lock:
            for member in self.members.values():
                member.is_held = True
        for member in reversed(self.members.values()):
            _stop(member, within_s)
        # Last: what this thread started is signalled when the thread ends.
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(TEND_S):
            with self._lock:
                for member in self.members.values():
                    _tend(member)


def _tend(member: Member) -> None:
    now = time.monotonic()
    if member.process is not None and (code := member.process.poll()) is not None:
        member.ends.append(f"ended with {code}")
        member.process = None
        member.due_at = now + RESTART_S
    if member.process is None and not member.is_held and now >= member.due_at:
        _spawn(member)


def _stop(member: Member, within_s: float) -> None:
    process = member.process
    if process is None:
        return
    process.send_signal(signal.SIGCONT)
    process.terminate()
    deadline = time.monotonic() + within_s
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(TEND_S)
    if process.poll() is None:
        member.ends.append("did not stop in time")
        _kill_tree(process.pid)


def _spawn(member: Member) -> None:
    with member.log.open("ab") as log:
        member.process = subprocess.Popen(
            member.argv,
            env={**os.environ, **member.environment},
            cwd=member.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=signal_when_orphaned(member.orphaned),  # noqa: PLW1509 - one system call
        )


def _kill_tree(pid: int) -> int:
    """Stop all of it first, so that nobody starts or tells anything meanwhile."""
    killed = 0
    try:
        root = psutil.Process(pid)
        root.suspend()
        below = root.children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    for process in [*below, root]:
        try:
            process.kill()
            killed += 1
        except psutil.NoSuchProcess:
            continue  # gone by itself
    return killed
