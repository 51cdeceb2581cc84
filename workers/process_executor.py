"""Runs tasks as supervised local processes (Linux). The agent's end of `supervisor.py`.

Reads what supervisors and tasks say, writes journal and chronicle before a task is let go, and
the shared lease deadline that every supervisor watches. Never blocks but in `poll`. A task is said
to have ended only when its supervisor, or the fork server after it, found no descendant alive. What
the machine has not (room, descriptors) breaks the task that wanted it and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from workers.channel import hold_port, open_channel
from workers.chronicle import end_line
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
from workers.forking import (
    FORKSERVER,
    ExecutorBroken,
    check_cgroup,
    raise_descriptor_limit,
    share_lease,
    start_forkserver,
)
from workers.journal import TOKEN_VARIABLE, DataDirUnwritable, Group, Journal
from workers.logs import TaskLog
from workers.options import AgentOptions
from workers.processes import NS, boot_ns

PACKET_BYTES = 64 * 1024
READ_BYTES = 64 * 1024
OVERDUE_NS = 3 * NS
"""After a task should be dead: its supervisor itself may be stuck, and is killed."""
CLOSE_S = 10
FORKING_MAX = 16
"""Tasks asked of the fork server at once: more would only wait there, and so would this process."""


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
    broken: str = ""
    closed: bool = field(default=False)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One task that has no supervisor yet. `port` is task 0's of a gang, bound to keep it."""

    order: TaskOrder
    port: socket.socket | None = None
    rendezvous: Rendezvous | None = None

    def free_port(self) -> None:
        """Give the port to whoever binds it next."""
        if self.port is not None:
            self.port.close()


class ProcessExecutor:
    """The process executor of one node's agent. `close` it, or its tasks die with the process."""

    def __init__(self, options: AgentOptions, journal: Journal) -> None:
        check_cgroup(options.cgroup_dir)
        self._options = options
        self._journal = journal
        self._news: list[TaskNews] = []
        self._prepared: dict[TaskKey, _Waiting] = {}
        self._queued: OrderedDict[TaskKey, _Waiting] = OrderedDict()
        self._forking: set[str] = set()
        self._running: dict[TaskKey, _Running] = {}
        self._by_serial: dict[str, _Running] = {}
        self._next_serial = 0
        self._is_closed = False
        lease_path = options.data_dir / "lease"
        self._lease = share_lease(lease_path)
        # Nothing of an earlier agent lives: what its tasks could not clear away goes now.
        shutil.rmtree(options.data_dir / "work", ignore_errors=True)
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watch(self._wake, self._woken)
        self._forks, self._forkserver = start_forkserver(FORKSERVER, lease_path)
        self._watch(self._forks.fileno(), self._hear_forkserver)
        raise_descriptor_limit()

    # -- what the agent asks

    def prepare(self, order: TaskOrder) -> None:
        """Make the gang member's directories and, for task 0, find the rendezvous port."""
        try:
            self._make_places(order)
            held = hold_port(self._options.address) if order.key.task == 0 else None
        except OSError as error:
            self._break(order, f"the task's place could not be made: {error}")
            return
        self._prepared[order.key] = _Waiting(order, held)
        port = held.getsockname()[1] if held is not None else 0
        self._news.append(Prepared(order.key, f"{self._options.address}:{port}" if port else ""))

    def start(self, order: TaskOrder, rendezvous: Rendezvous | None) -> None:
        """At once if the fork server is not busy, else as soon as it has room."""
        prepared = self._prepared.pop(order.key, None)
        port = prepared.port if prepared is not None else None
        self._queued[order.key] = _Waiting(order, port, rendezvous)
        self._launch()

    def stop(self, key: TaskKey, grace_s: float) -> None:
        """Pass it to the supervisor; what has none just ends."""
        waiting = self._prepared.pop(key, None) or self._queued.pop(key, None)
        if waiting is not None:
            waiting.free_port()
            self._clear_work(waiting.order)
            self._news.append(Ended(key, Cause.STOPPED, detail="stopped before it started"))
        running = self._running.get(key)
        if running is not None:
            kill_by_ns = boot_ns() + int(grace_s * NS) + OVERDUE_NS
            running.kill_by_ns = min(kill_by_ns, running.kill_by_ns or kill_by_ns)
            _tell(running, f"stop {grace_s}")

    def kill_all(self) -> None:
        """Stop everything without grace."""
        for key in [*self._prepared, *self._queued, *self._running]:
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
        self._launch()
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """Let supervisors and fork server see that the agent goes, and wait until all is dead."""
        self._is_closed = True
        for running in list(self._running.values()):
            self._forget(running)
        for waiting in [*self._prepared.values(), *self._queued.values()]:
            waiting.free_port()
        self._forks.close()
        self._forkserver.wait(CLOSE_S)
        self._selector.close()
        os.close(self._wake)
        self._lease.release()

    # -- starting

    def _launch(self) -> None:
        """Ask for as many supervisors as the fork server may have before it."""
        while self._queued and len(self._forking) < FORKING_MAX:
            _, waiting = self._queued.popitem(last=False)
            waiting.free_port()
            order = waiting.order
            try:
                self._make_places(order)
                running = self._fork(order, waiting.rendezvous)
            except OSError as error:
                self._break(order, f"the task could not be started: {error}")
                continue
            self._running[order.key] = self._by_serial[running.serial] = running
            self._forking.add(running.serial)
            self._watch(running.control.fileno(), partial(self._hear_supervisor, running))
            for fd in running.pipes:
                self._watch(fd, partial(self._read, running, fd))

    def _make_places(self, order: TaskOrder) -> None:
        where = places(self._options, order)
        for path in (where.work, where.output, where.checkpoint):
            path.mkdir(parents=True, exist_ok=True)
        if order.progress_timeout_s:
            where.progress.touch()

    def _clear_work(self, order: TaskOrder) -> None:
        """Nobody ran in it who would remove it."""
        shutil.rmtree(places(self._options, order).work, ignore_errors=True)

    def _fork(self, order: TaskOrder, rendezvous: Rendezvous | None) -> _Running:
        serial, self._next_serial = str(self._next_serial), self._next_serial + 1
        channel = open_channel(self._forks, serial, self._describe(order, rendezvous, serial))
        log = TaskLog(self._options.log_limits, boot_ns())
        return _Running(order, serial, channel.control, channel.pipes, log)

    def _describe(
        self, order: TaskOrder, rendezvous: Rendezvous | None, serial: str
    ) -> dict[str, object]:
        env = task_environment(self._options, order, rendezvous, os.environ)
        env[TOKEN_VARIABLE] = self._journal.token
        cgroup = self._options.cgroup_dir
        where = places(self._options, order)
        return {
            "argv": order.command,
            "env": env,
            "cwd": str(where.work),
            "memory_mib": order.memory_mib,
            "grace_s": order.grace_s,
            "progress": str(where.progress),
            "progress_timeout_s": order.progress_timeout_s,
            "chronicle": str(self._journal.chronicle.path),
            "names": self._names(order),
            "cgroup": str(cgroup / f"foldline-{os.getpid()}-{serial}") if cgroup else "",
        }

    def _names(self, order: TaskOrder) -> dict[str, object]:
        """What the chronicle calls a task."""
        names = {"job": order.job_id, "incarnation": self._journal.incarnation}
        return names | dict(zip(("no", "attempt", "task"), order.key, strict=True))

    def _break(self, order: TaskOrder, why: str) -> None:
        self._clear_work(order)
        self._news.append(Ended(order.key, Cause.BROKEN, detail=why))

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
            self._let_go(running, words["forked"])
        elif "started" in words:
            self._news.append(Started(running.order.key))
        else:
            end = words["ended"]
            self._end(running, Cause(end["cause"]), end["code"], end["detail"])

    def _let_go(self, running: _Running, forked: list[int]) -> None:
        """A task that cannot be written down must not run: nobody could find it later."""
        running.supervisor = forked[0]
        self._forking.discard(running.serial)
        try:
            self._journal.add(Group(*forked))
        except DataDirUnwritable as error:
            running.broken = f"the task could not be started: {error}"
            self.stop(running.order.key, 0)
            return
        self._journal.chronicle.start(self._names(running.order), forked, boot_ns())
        _tell(running, "go")

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
            self._end_for(running, Cause.STOPPED, "stopped")
        else:
            self._end_for(running, Cause.BROKEN, "the task's supervisor died before it")

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

    def _end_for(self, running: _Running, cause: Cause, detail: str) -> None:
        """Its supervisor died before it could say this."""
        if running.supervisor:
            names, now_ns = self._names(running.order), boot_ns()
            line = end_line(names, running.supervisor, now_ns, cause, -signal.SIGKILL)
            self._journal.chronicle.end(line)
        self._end(running, cause, -signal.SIGKILL, detail)

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
        if running.broken:
            cause, detail = Cause.BROKEN, running.broken
        tail = running.log.tail()
        self._news.append(Ended(running.order.key, cause, code, detail, tail))

    def _forget(self, running: _Running) -> None:
        del self._running[running.order.key]
        del self._by_serial[running.serial]
        self._forking.discard(running.serial)
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
    # Its end is told elsewhere, and one that does not listen is killed when it is overdue.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
        running.control.send(words.encode())
