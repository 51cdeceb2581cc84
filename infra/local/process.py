"""One server's process: started in a session of its own, known again by a pid file, stopped.

A pid file holds the pid and when that process started, counted from boot, and the boot's id: a
pid that was given to somebody else meanwhile is not mistaken for ours. Servers outlive whoever
started them, so that a supervisor that was killed finds them again; `Server.stop` ends them.
Linux only: reads /proc.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from infra.local.ports import check_free

POLL_S = 0.02
KEEP_LOG_BYTES = 16 * 1024 * 1024
START_TRIES = 5
RETRY_S = 0.5


class ServerFailed(Exception):
    """A server did not start, or did not stop. The message quotes its log and names the file."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The system user that a server runs as; where we are not root it is always ourselves."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Program:
    """How one server is run. `prepare` makes its files, and may be called again after a crash.

    `is_ready` asks the server itself, whose pid it is given. `stop_signal` is the one that loses nothing. `heal` puts
    right what a killed process left in its directory; it is called only when none runs.
    `after_stop` keeps what an orderly end left.
    """

    name: str
    port: int
    port_setting: str
    argv: Callable[[], list[str]]
    prepare: Callable[[], None]
    heal: Callable[[], None]
    is_ready: Callable[[int], bool]
    after_stop: Callable[[], None] = lambda: None
    environment: Mapping[str, str] = field(default_factory=dict)
    owner: Owner | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    ready_within_s: float = 60.0
    stop_within_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """A program and where its pid and log files are. Holds no process: asks the machine."""

    program: Program
    run_dir: Path
    log_dir: Path

    @property
    def log_path(self) -> Path:
        """What the server prints."""
        return self.log_dir / f"{self.program.name}.log"

    @property
    def pid_path(self) -> Path:
        """Who the server is."""
        return self.run_dir / f"{self.program.name}.pid"

    def pid(self) -> int | None:
        """The process id, if the process that we started still runs."""
        return read_identity(self.pid_path)

    def start(self) -> bool:
        """Start unless it runs; True if this call started it. Returns before it is ready.

        Raises `PortTaken`, or `ServerFailed` if its files cannot be made.
        """
        if self.pid() is not None or self._adopt():
            return False
        check_free(self.program.port, self.program.port_setting)
        self.program.prepare()
        self.program.heal()
        rotate(self.log_path)
        with self.log_path.open("ab") as log:
            write_identity(self.pid_path, _spawn(self.program, log.fileno()))
        return True

    def wait_ready(self, is_given_up: Callable[[], bool] = lambda: False) -> None:
        """Return once the server answers, or is given up. One that ends while starting is started
        again a few times: what a killed one left may need a moment to go. Raises `ServerFailed`.
        """
        deadline = time.monotonic() + self.program.ready_within_s
        tries = 1
        while (pid := self.pid()) is None or not self.program.is_ready(pid):
            if is_given_up():
                return
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"{self.program.name} did not answer within {self.program.ready_within_s:g} s; "
                    f"{tail(self.log_path)}"
                )
            if pid is None:
                if tries == START_TRIES:
                    raise ServerFailed(f"{self.program.name} ended at once; {tail(self.log_path)}")
                time.sleep(RETRY_S)
                tries += 1
                self.start()
            time.sleep(POLL_S)

    def stop(self) -> bool:
        """Stop it in its own orderly way, then by force; True if it ran. Raises `ServerFailed`."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, self.program.stop_signal)
            if not self._is_gone_within(self.program.stop_within_s):
                os.killpg(pid, signal.SIGKILL)
                if not self._is_gone_within(5.0):
                    raise ServerFailed(f"{self.program.name} (pid {pid}) cannot be killed")
            self.program.after_stop()
        self.pid_path.unlink(missing_ok=True)
        return pid is not None

    def _adopt(self) -> bool:
        """Find a server whose starter was killed before it could write the pid file."""
        argv = self.program.argv()
        for process in psutil.process_iter(["cmdline"]):
            if process.info["cmdline"] == argv:
                write_identity(self.pid_path, process.pid)
                return True
        return False

    def _is_gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.pid() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True


_children: dict[int, subprocess.Popen[bytes]] = {}
"""Servers that this very process started, kept until they end: a child must be collected."""


def _spawn(program: Program, log_fd: int) -> int:
    """Start the program in a session of its own, as its owner, with nothing on its stdin."""
    who = program.owner
    child = subprocess.Popen(
        program.argv(),
        stdin=subprocess.DEVNULL,
        stdout=log_fd,
        stderr=log_fd,
        env={**clean_environment(), **program.environment},
        cwd="/",
        start_new_session=True,
        user=who.uid if who else None,
        group=who.gid if who else None,
        extra_groups=[] if who else None,
    )
    _children[child.pid] = child
    return child.pid


def clean_environment() -> dict[str, str]:
    """What a server may see of ours: enough to run, nothing that changes how."""
    return {name: os.environ[name] for name in ("HOME", "PATH", "TZ") if name in os.environ} | {
        "LC_ALL": "C.UTF-8"
    }


def write_identity(path: Path, pid: int) -> None:
    """Write down which process this is, so that `read_identity` knows it again."""
    path.write_text(json.dumps({"pid": pid, "started": _start_ticks(pid), "boot": _boot_id()}))


def read_identity(path: Path) -> int | None:
    """The pid in the file, if that very process still runs (a zombie does not)."""
    try:
        known = json.loads(path.read_text())
        pid = int(known["pid"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    ticks = _start_ticks(pid)
    if ticks is None and pid in _children:
        _children.pop(pid).wait()
    same = ticks is not None and ticks == known["started"] and known["boot"] == _boot_id()
    return pid if same else None


def rotate(log: Path) -> None:
    """Keep one earlier log beside the current one once that has grown large."""
    if log.exists() and log.stat().st_size > KEEP_LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))


def tail(log: Path, lines: int = 8) -> str:
    """The last lines of a log, for a message, with the file's name."""
    text = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"the end of {log}:", *(f"  {line}" for line in text[-lines:])])


def _start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
