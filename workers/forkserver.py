"""A small process that forks one supervisor a task: started once, so that a task costs two forks.

The agent sends a packet `task <serial>` with four descriptors; this answers `gone <serial>` once
the supervisor and everything below it are dead. Should a supervisor be killed, its descendants
become children of this process, which kills them. When the agent is gone (its end of the socket
closes) the supervisors kill their tasks; this one makes sure of it and then exits.

Run as `python -I -S -c`, by `process_executor.py`. Standard library only.
"""

from __future__ import annotations

import errno
import gc
import mmap
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path

from workers.processes import (
    NS,
    become_subreaper,
    boot_ns,
    children_of,
    descendants_of,
    kill,
)
from workers.supervisor import supervise

PACKET_BYTES = 256
FDS = 4
LAST_PATIENCE_NS = 2 * NS
"""How long supervisors have, after the agent's death, to kill their tasks themselves."""
KILL_EVERY_MS = 20
BROKEN_EXIT = 70


class ForkServer:
    """The loop: fork on request, reap, kill the orphans of supervisors that were killed."""

    def __init__(self, agent: socket.socket, lease: memoryview) -> None:
        self._agent = agent
        self._lease = lease
        self._supervisors: dict[int, str] = {}
        self._bereaved: list[str] = []
        self._agent_died_ns = 0
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until the agent is gone and nothing lives below."""
        poller = select.poll()
        poller.register(self._agent.fileno(), select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        while self._reap() or not self._agent_died_ns:
            self._bury()
            is_restless = self._bereaved or self._agent_died_ns
            for fd, _ in poller.poll(KILL_EVERY_MS if is_restless else -1):
                if fd == self._wake_read:
                    os.read(fd, PACKET_BYTES)
                elif not self._take():
                    poller.unregister(fd)
                    self._agent_died_ns = boot_ns()

    def _take(self) -> bool:
        """One request of the agent; False when it is gone."""
        try:
            packet, fds, _, _ = socket.recv_fds(
                self._agent, PACKET_BYTES, FDS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return False
        if not packet:
            return False
        word, serial = packet.decode().split()
        assert word == "task", packet
        assert len(fds) == FDS, fds
        self._fork(serial, list(fds))
        return True

    def _fork(self, serial: str, fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(f"unforked {serial} {errno.errorcode.get(error.errno or 0, 'error')}")
            pid = -1
        if pid == 0:
            self._be_a_supervisor(fds)
        if pid > 0:
            self._supervisors[pid] = serial
        for fd in fds:
            os.close(fd)

    def _be_a_supervisor(self, fds: list[int]) -> None:
        try:
            signal.set_wakeup_fd(-1)
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._agent.close()
            supervise(fds, self._lease)
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on
            traceback.print_exc()
            os._exit(BROKEN_EXIT)
        os._exit(0)

    def _reap(self) -> bool:
        """Take note of every dead child; False when there is none left, dead or alive."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            serial = self._supervisors.pop(pid, None)
            if serial is None:
                continue
            if wait_status:
                self._bereaved.append(serial)
            else:
                self._tell(f"gone {serial}")

    def _bury(self) -> None:
        """Kill what supervisors left behind; tell the agent once nothing of it lives."""
        if not self._bereaved and not self._agent_died_ns:
            return
        me = os.getpid()
        orphans = [pid for pid in children_of(me) if pid not in self._supervisors]
        kill([*orphans, *(pid for orphan in orphans for pid in descendants_of(orphan))])
        if self._agent_died_ns and boot_ns() > self._agent_died_ns + LAST_PATIENCE_NS:
            kill(self._supervisors)
        if not orphans:
            for serial in self._bereaved:
                self._tell(f"gone {serial}")
            self._bereaved.clear()

    def _tell(self, words: str) -> None:
        if self._agent_died_ns:
            return
        try:
            self._agent.send(words.encode())
        except (BrokenPipeError, ConnectionResetError):
            self._agent_died_ns = boot_ns()


def main() -> None:
    """`argv`: the socket's descriptor and the path of the shared lease file."""
    agent = socket.socket(fileno=int(sys.argv[1]))
    agent.set_inheritable(False)
    with Path(sys.argv[2]).open("rb") as file:
        shared = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    become_subreaper()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    ForkServer(agent, memoryview(shared).cast("Q")).serve()
