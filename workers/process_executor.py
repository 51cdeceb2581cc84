"""Runs tasks as supervised local processes (Linux). The agent's end of `supervisor.py`.

Reads what supervisors and tasks say, writes the journal before a task is let go and the shared
lease deadline that every supervisor watches. Never blocks but in `poll`. A task is said to have
ended only when its supervisor, or the fork server after it, found no descendant alive.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from workers.environment import places, task_environment
from workers.executor import (
    Cause,
    Ended,
    Prepared,
    Rendezvous,
    Started,
    TaskKey,
    TaskNews,
    TaskOrder,
    Wrote,
)
from workers.journal import TOKEN_VARIABLE, Group, Journal
from workers.logs import TaskLog
from workers.options import AgentOptions
from workers.processes import NS, boot_ns

PACKET_BYTES = 64 * 1024
READ_BYTES = 64 * 1024
OVERDUE_NS = 3 * NS
"""After a task should be dead: its supervisor itself may be stuck, and is killed."""
CLOSE_S = 10
ROOT = Path(__file__).resolve().parents[1]
FORKSERVER = (
    f"import sys; sys.path.append({str(ROOT)!r}); from workers import forkserver as f; f.main()"
)


class ExecutorBroken(Exception):
    """Tasks cannot be run: the fork server is gone, or what was asked for is not there."""


@dataclass(slots=True)
class _Running:
    """One task with a supervisor. `pipes` maps our ends to stream names."""

    order: TaskOrder
    serial: str
    control: socket.socket
    pipes: dict[int, str]
    log: TaskLog
    supervisor: int = 0
    kill_by_ns: int | None = None
    closed: bool = field(default=False)


class ProcessExecutor:
    """The process executor of one node's agent. `close` it, or its tasks die with the process."""

    def __init__(self, options: AgentOptions, journal: Journal) -> None:
        _check_cgroup(options.cgroup_dir)
        self._options = options
        self._journal = journal
        self._news: list[TaskNews] = []
        self._prepared: dict[TaskKey, tuple[TaskOrder, socket.socket | None]] = {}
        self._running: dict[TaskKey, _Running] = {}
        self._by_serial: dict[str, _Running] = {}
        self._next_serial = 0
        self._is_closed = False
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watch(self._wake, self._woken)
        lease_path = options.data_dir / "lease"
        lease_path.write_bytes(bytes(8))
        with lease_path.open("r+b") as file:
            self._lease = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
        self._forks, self._forkserver = _start_forkserver(lease_path)
        self._watch(self._forks.fileno(), self._hear_forkserver)
        _raise_descriptor_limit()

    # -- what the agent asks

    def prepare(self, order: TaskOrder) -> None:
        """Make the gang member's directories and, for task 0, find the rendezvous port."""
        try:
            self._make_places(order)
            held = _hold_port(self._options.address) if order.key.task == 0 else None
        except OSError as error:
            self._break(order.key, f"the task's place could not be made: {error}")
            return
        self._prepared[order.key] = (order, held)
        port = held.getsockname()[1] if held is not None else 0
        self._news.append(Prepared(order.key, f"{self._options.address}:{port}" if port else ""))

    def start(self, order: TaskOrder, rendezvous: Rendezvous | None) -> None:
        """Ask the fork server for a supervisor; the rendezvous port is given free just before."""
        _, held = self._prepared.pop(order.key, (order, None))
        if held is not None:
            held.close()
        with contextlib.ExitStack() as theirs:
            try:
                self._make_places(order)
                running = self._fork(order, rendezvous, theirs)
            except OSError as error:
                self._break(order.key, f"the task could not be started: {error}")
                return
        self._running[order.key] = self._by_serial[running.serial] = running
        self._watch(running.control.fileno(), partial(self._hear_supervisor, running))
        for fd in running.pipes:
            self._watch(fd, partial(self._read, running, fd))

    def stop(self, key: TaskKey, grace_s: float) -> None:
        """Pass it to the supervisor; a prepared member just ends."""
        prepared = self._prepared.pop(key, None)
        if prepared is not None:
            if prepared[1] is not None:
                prepared[1].close()
            self._news.append(Ended(key, Cause.STOPPED, detail="stopped before it started"))
        running = self._running.get(key)
        if running is not None:
            kill_by_ns = boot_ns() + int(grace_s * NS) + OVERDUE_NS
            running.kill_by_ns = min(kill_by_ns, running.kill_by_ns or kill_by_ns)
            _tell(running, f"stop {grace_s}")

    def kill_all(self) -> None:
        """Stop everything without grace."""
        for key in [*self._prepared, *self._running]:
            self.stop(key, 0)

    def set_deadline(self, boot_ns: int) -> None:
        """Move the deadline in the shared file: one aligned store, read by all supervisors."""
        self._lease[0] = boot_ns

    def wake(self) -> None:
        """End a waiting `poll`, from any thread."""
        if not self._is_closed:
            os.eventfd_write(self._wake, 1)

    def poll(self, timeout_s: float) -> list[TaskNews]:
        """News since the last call. Raises `ExecutorBroken` when the fork server died."""
        for key, _ in self._selector.select(0 if self._news else timeout_s):
            key.data()
        self._kill_overdue()
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """Let supervisors and fork server see that the agent goes, and wait until all is dead."""
        self._is_closed = True
        for running in list(self._running.values()):
            self._forget(running)
        for _, held in self._prepared.values():
            if held is not None:
                held.close()
        self._forks.close()
        self._forkserver.wait(CLOSE_S)
        self._selector.close()
        os.close(self._wake)
        self._lease.release()

    # -- starting

    def _make_places(self, order: TaskOrder) -> None:
        where = places(self._options, order)
        for path in (where.work, where.output, where.checkpoint):
            path.mkdir(parents=True, exist_ok=True)

    def _fork(
        self, order: TaskOrder, rendezvous: Rendezvous | None, theirs: contextlib.ExitStack
    ) -> _Running:
        """Everything one task needs; `theirs` closes our copies of the supervisor's ends."""
        serial, self._next_serial = str(self._next_serial), self._next_serial + 1
        control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.callback(other.close)
        control.setblocking(False)
        task = os.memfd_create("task", os.MFD_CLOEXEC)
        theirs.callback(os.close, task)
        os.write(task, json.dumps(self._describe(order, rendezvous, serial)).encode())
        os.lseek(task, 0, os.SEEK_SET)
        pipes, ends = {}, []
        for stream in ("stdout", "stderr"):
            read, write = os.pipe()
            theirs.callback(os.close, write)
            os.set_blocking(read, False)
            pipes[read] = stream
            ends.append(write)
        socket.send_fds(self._forks, [f"task {serial}".encode()], [other.fileno(), task, *ends])
        log = TaskLog(self._options.log_limits, boot_ns())
        return _Running(order, serial, control, pipes, log)

    def _describe(
        self, order: TaskOrder, rendezvous: Rendezvous | None, serial: str
    ) -> dict[str, object]:
        env = task_environment(self._options, order, rendezvous, os.environ)
        env[TOKEN_VARIABLE] = self._journal.token
        cgroup = self._options.cgroup_dir
        return {
            "argv": order.command,
            "env": env,
            "cwd": str(places(self._options, order).work),
            "memory_mib": order.memory_mib,
            "cgroup": str(cgroup / f"foldline-{os.getpid()}-{serial}") if cgroup else "",
        }

    def _break(self, key: TaskKey, why: str) -> None:
        self._news.append(Ended(key, Cause.BROKEN, detail=why))

    # -- listening

    def _watch(self, fd: int, handler: Callable[[], object]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, handler)

    def _woken(self) -> None:
        os.eventfd_read(self._wake)

    def _hear_supervisor(self, running: _Running) -> bool:
        """One packet of a supervisor; False when there is none."""
        if running.closed:
            return False
        try:
            packet = running.control.recv(PACKET_BYTES)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            packet = b""
        if not packet:
            # It died before its time: the fork server will say when all below it is dead too.
            with contextlib.suppress(KeyError):
                self._selector.unregister(running.control)
            return False
        self._obey_supervisor(running, packet)
        return True

    def _obey_supervisor(self, running: _Running, packet: bytes) -> None:
        words = json.loads(packet)
        if "forked" in words:
            group = Group(*words["forked"])
            running.supervisor = group.session
            self._journal.add(group)
            _tell(running, "go")
        elif "started" in words:
            self._news.append(Started(running.order.key))
        else:
            end = words["ended"]
            self._end(running, Cause(end["cause"]), end["code"], end["detail"])

    def _hear_forkserver(self) -> None:
        packet = self._forks.recv(PACKET_BYTES)
        if not packet:
            raise ExecutorBroken(f"the fork server died (exit code {self._forkserver.poll()})")
        word, serial, *rest = packet.decode().split()
        running = self._by_serial.get(serial)
        while running is not None and self._hear_supervisor(running):
            pass  # what it said before it went comes first
        if running is None or running.closed:
            return
        if word == "unforked":
            self._end(running, Cause.BROKEN, 0, f"no process could be made: {rest[0]}")
        elif running.kill_by_ns is not None:
            self._end(running, Cause.STOPPED, -signal.SIGKILL, "stopped")
        else:
            self._end(
                running, Cause.BROKEN, -signal.SIGKILL, "the task's supervisor died before it"
            )

    def _read(self, running: _Running, fd: int) -> bool:
        """One read of a stream; False when there is nothing (more) to read."""
        if fd not in running.pipes:
            return False
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        stream = running.pipes[fd]
        if data:
            self._wrote(running, stream, running.log.feed(stream, data, boot_ns()))
            return True
        self._close_stream(running, fd)
        return False

    def _close_stream(self, running: _Running, fd: int) -> None:
        stream = running.pipes.pop(fd)
        self._wrote(running, stream, running.log.close(stream))
        self._selector.unregister(fd)
        os.close(fd)

    def _wrote(self, running: _Running, stream: str, passed: list[tuple[int, list[str]]]) -> None:
        order = running.order
        for dropped, lines in passed:
            self._news.append(Wrote(order.key, order.job_id, stream, dropped, lines))

    # -- ending

    def _end(self, running: _Running, cause: Cause, code: int, detail: str) -> None:
        """All of it is dead, so what it wrote is all in its pipes."""
        for fd in list(running.pipes):
            while self._read(running, fd):
                pass
        for fd in list(running.pipes):
            self._close_stream(running, fd)
        self._forget(running)
        if running.supervisor:
            self._journal.remove(running.supervisor)
        tail = running.log.tail()
        self._news.append(Ended(running.order.key, cause, code, detail, tail))

    def _forget(self, running: _Running) -> None:
        del self._running[running.order.key]
        del self._by_serial[running.serial]
        for fd in running.pipes:
            self._selector.unregister(fd)
            os.close(fd)
        with contextlib.suppress(KeyError):  # a supervisor that died early is no longer watched
            self._selector.unregister(running.control)
        running.pipes = {}
        running.closed = True
        running.control.close()

    def _kill_overdue(self) -> None:
        """A supervisor that did not do as told in time is killed; the fork server does the rest."""
        now_ns = boot_ns()
        for running in self._running.values():
            if running.kill_by_ns is not None and now_ns > running.kill_by_ns:
                running.kill_by_ns = now_ns + OVERDUE_NS
                if running.supervisor:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(running.supervisor, signal.SIGKILL)


def _tell(running: _Running, words: str) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is told elsewhere
        running.control.send(words.encode())


def _start_forkserver(lease_path: Path) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        argv = [sys.executable, "-I", "-S", "-c", FORKSERVER, str(theirs.fileno()), str(lease_path)]
        process = subprocess.Popen(
            argv,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    return ours, process


def _hold_port(address: str) -> socket.socket:
    """A free port of the address, bound so that nobody else gets it before it is needed."""
    family, kind, proto, _, where = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
    held = socket.socket(family, kind, proto)
    try:
        held.bind(where)
    except OSError:
        held.close()
        raise
    return held


def _raise_descriptor_limit() -> None:
    """Each running task holds three descriptors here; its own limit stays as it was."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _check_cgroup(path: Path | None) -> None:
    if path is None:
        return
    control = path / "cgroup.subtree_control"
    if not control.exists() or "memory" not in control.read_text().split():
        raise ExecutorBroken(
            f"cgroup_dir {path} is no cgroup v2 directory whose children have the memory "
            "controller: delegate one (systemd: Delegate=yes) or leave it out"
        )
