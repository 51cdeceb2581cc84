"""The small process that stands over one task: it kills it in time and says when all is dead.

Forked by `forkserver.py`; talks with the agent over a packet socket. It leads a session of its own
and is a child subreaper, so whatever the task starts stays below it, daemons included; the task
runs in a process group of its own within that session, so that a task's `kill 0` does not reach
its supervisor. The task's process waits on a pipe until the agent has journaled both.

Kills everything when the lease deadline in the shared file passes, when the agent dies (its end of
the socket closes), when memory runs over, or when told. It knows nothing of timeouts: those are
the engine's. It says `ended` only when it has no descendant left. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import socket
import sys
from typing import Any

from workers import memory
from workers.processes import (
    NS,
    BootTimer,
    become_subreaper,
    boot_ns,
    children_of,
    descendants_of,
    die_with_parent,
    kill,
    start_time,
)

PACKET_BYTES = 64 * 1024
MEMORY_EVERY_NS = NS // 4
KILL_EVERY_NS = NS // 50
NOT_FOUND = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.E2BIG, errno.EPERM)
FAR_NS = 1 << 62
DEFAULT_AGAIN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that this process or Python ignores, and that the task must not inherit so."""


class Task:
    """What to run: argv, environment, working directory (removed at the end), memory limit."""

    __slots__ = ("argv", "cgroup", "cwd", "env", "memory_mib")

    def __init__(self, text: str) -> None:
        values: dict[str, Any] = json.loads(text)
        self.argv: list[str] = values["argv"]
        self.env: dict[str, str] = values["env"]
        self.cwd: str = values["cwd"]
        self.memory_mib: int = values["memory_mib"]
        self.cgroup: str = values["cgroup"]


class Supervisor:
    """One task's supervisor, in its own process. `lease` is the shared deadline, in boot ns."""

    def __init__(self, control: socket.socket, task: Task, lease: memoryview) -> None:
        self._control = control
        self._task = task
        self._lease = lease
        self._timer = BootTimer()
        self._wakeup = _wake_on_children()
        self._go = self._exec_status = self._child = -1
        self._cgroup: memory.Cgroup | None = None
        self._poller = select.poll()
        self._cause = ""
        self._detail = ""
        self._exit_code: int | None = None
        self._kill_at_ns = FAR_NS
        self._measure_at_ns = FAR_NS
        self._was_let_go = False
        self._is_exec_known = False
        self._is_orphaned = False

    def run(self, out_fd: int, err_fd: int) -> None:
        """From fork to the last descendant's end."""
        if self._task.cgroup:
            limit = self._task.memory_mib * memory.MIB
            self._cgroup = memory.Cgroup(self._task.cgroup, limit)
        go_read, self._go = os.pipe()
        self._exec_status, status_write = os.pipe()
        self._child = os.fork()
        if not self._child:
            # Open copies of these would hide this process's death from the agent and the task.
            os.close(self._go)
            self._control.close()
            _be_the_task(self._task, go_read, status_write, (out_fd, err_fd))
        for fd in (go_read, status_write, out_fd, err_fd):
            os.close(fd)
        self._introduce()
        self._watch()
        self._finish()

    def _introduce(self) -> None:
        """Tell the agent who is to be journaled. Both sides set the group: neither may be late."""
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(self._child, self._child)
        if self._cgroup is not None:
            self._cgroup.add(self._child)
        me = os.getpid()
        names = [me, start_time(me), self._child, start_time(self._child)]
        self._say({"forked": names})

    # -- the loop

    def _watch(self) -> None:
        handlers = {
            self._control.fileno(): self._hear,
            self._wakeup: self._drain_wakeup,
            self._timer.fd: self._timer.clear,
            self._exec_status: self._learn_of_exec,
        }
        for fd in handlers:
            self._poller.register(fd, select.POLLIN)
        armed_ns = 0
        while self._reap():
            deadline_ns = self._lease[0]
            now_ns = boot_ns()
            if now_ns >= deadline_ns:
                self._end("lease", "the node's lease ran out", 0)
            elif deadline_ns != armed_ns:
                armed_ns = deadline_ns
                self._timer.set(deadline_ns)
            self._do_what_is_due(now_ns)
            for fd, _ in self._poller.poll(self._patience_ms()):
                handlers[fd]()

    def _patience_ms(self) -> int:
        due_ns = min(self._kill_at_ns, self._measure_at_ns)
        if due_ns == FAR_NS:
            return -1
        return max(0, -(-(due_ns - boot_ns()) // 1_000_000))

    def _do_what_is_due(self, now_ns: int) -> None:
        if now_ns >= self._kill_at_ns:
            self._kill()
            self._kill_at_ns = now_ns + KILL_EVERY_NS
            self._measure_at_ns = FAR_NS
        elif now_ns >= self._measure_at_ns:
            self._measure_at_ns = now_ns + MEMORY_EVERY_NS
            self._measure()

    def _kill(self) -> None:
        if self._cgroup is not None:
            self._cgroup.kill()
        # The whole group at once first: nothing in it can fork away from that.
        self._signal_group(signal.SIGKILL)
        kill(descendants_of(os.getpid()))

    def _measure(self) -> None:
        limit = self._task.memory_mib * memory.MIB
        used = memory.exceeds(os.getpid(), limit)
        if used:
            held = f"{used // memory.MIB} MiB of memory held, {self._task.memory_mib} MiB allowed"
            self._end("out_of_memory", held, 0)

    def _end(self, cause: str, detail: str, grace_ns: int) -> None:
        """Begin to end the task; the first cause stays, the soonest end wins."""
        if not self._cause:
            self._cause, self._detail = cause, detail
        self._kill_at_ns = min(self._kill_at_ns, boot_ns() + grace_ns)

    def _signal_group(self, number: int) -> None:
        """Signal the task's group while its leader, not yet reaped, keeps the number ours."""
        if self._exit_code is None:
            with contextlib.suppress(ProcessLookupError):  # it died before it had a group
                os.killpg(self._child, number)

    # -- what may happen

    def _hear(self) -> None:
        try:
            packet = self._control.recv(PACKET_BYTES)
        except ConnectionResetError:
            packet = b""
        word, _, rest = packet.partition(b" ")
        if not word:
            self._is_orphaned = True
            self._poller.unregister(self._control.fileno())
            self._end("stopped", "the agent is gone", 0)
        elif word == b"go":
            self._let_go()
        else:
            assert word == b"stop", packet
            self._stop(int(float(rest) * NS))

    def _let_go(self) -> None:
        if self._cause:
            return
        self._was_let_go = True
        with contextlib.suppress(BrokenPipeError):  # it died meanwhile: that is seen by itself
            os.write(self._go, b"g")

    def _stop(self, grace_ns: int) -> None:
        if not self._was_let_go:
            grace_ns = 0
        # SIGTERM once, and SIGCONT because a stopped process hears nothing.
        if not self._cause and grace_ns > 0:
            self._signal_group(signal.SIGTERM)
            self._signal_group(signal.SIGCONT)
        self._end("stopped", "stopped", grace_ns)

    def _learn_of_exec(self) -> None:
        """The child's end of the pipe closes when its program runs, or says why it does not."""
        if self._is_exec_known:
            return
        self._is_exec_known = True
        self._poller.unregister(self._exec_status)
        said = os.read(self._exec_status, PACKET_BYTES).decode(errors="replace")
        if said:
            number, where, text = said.split(" ", 2)
            name = repr(self._task.argv[0])
            if where == "exec" and int(number) in NOT_FOUND:
                self._end("not_found", f"{name} cannot be run: {text}", 0)
            else:
                self._end("broken", f"{name} cannot be started ({where}): {text}", 0)
        elif self._was_let_go and not self._cause:
            self._say({"started": True})
            if self._cgroup is None and self._task.memory_mib > 0:
                self._measure_at_ns = boot_ns() + MEMORY_EVERY_NS

    def _drain_wakeup(self) -> None:
        os.read(self._wakeup, PACKET_BYTES)

    def _reap(self) -> bool:
        """Take note of every dead child; False when there is no descendant left."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self._child:
                self._exit_code = os.waitstatus_to_exitcode(wait_status)
                self._task_exited()

    def _task_exited(self) -> None:
        """What the task leaves behind is killed at once, or at the end of a running grace."""
        self._learn_of_exec()
        if not self._cause:
            self._end("exited", _how_it_exited(self._exit_code or 0), 0)

    # -- the end

    def _finish(self) -> None:
        if self._cgroup is not None and self._cgroup.ran_out() and self._cause == "exited":
            limit = f"{self._task.memory_mib} MiB allowed"
            self._cause, self._detail = "out_of_memory", f"killed by the kernel: {limit}"
        code = self._exit_code if self._exit_code is not None else 0
        self._say({"ended": {"cause": self._cause, "code": code, "detail": self._detail}})
        try:
            shutil.rmtree(self._task.cwd)
            if self._cgroup is not None:
                self._cgroup.remove()
        except OSError as error:
            sys.stderr.write(f"a task's directory could not be removed: {error}\n")

    def _say(self, words: dict[str, Any]) -> None:
        if self._is_orphaned:
            return
        try:
            self._control.send(json.dumps(words).encode())
        except (BrokenPipeError, ConnectionResetError):
            self._is_orphaned = True
            self._end("stopped", "the agent is gone", 0)


def supervise(fds: list[int], lease: memoryview) -> None:
    """Run one task to its end; `fds` are control, task, stdout and stderr."""
    os.setsid()
    become_subreaper()
    control = socket.socket(fileno=fds[0])
    with os.fdopen(fds[1], encoding="utf-8") as file:
        task = Task(file.read())
    Supervisor(control, task, lease).run(fds[2], fds[3])
    assert not children_of(os.getpid())


def _wake_on_children() -> int:
    """A descriptor that becomes readable when a child dies; other signals are not for us."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return read


def _be_the_task(task: Task, go: int, status: int, streams: tuple[int, int]) -> None:
    """In the child: wait for the word, then become the task's program. Never returns."""
    where = "exec"
    try:
        os.setpgid(0, 0)
        die_with_parent()
        signal.set_wakeup_fd(-1)
        for ignored in (*DEFAULT_AGAIN, signal.SIGCHLD):
            signal.signal(ignored, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)
        if os.read(go, 1) != b"g":
            os._exit(1)  # the supervisor died first
        where = "chdir"
        os.chdir(task.cwd)
        where = "exec"
        os.execvpe(task.argv[0], task.argv, task.env)  # noqa: S606 - no shell is what is wanted
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.ENOEXEC
        text = error.strerror if isinstance(error, OSError) else str(error)
        os.write(status, f"{number} {where} {text}".encode())
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not go on
        os.write(status, f"{errno.EIO} fork {error!r}".encode())
    os._exit(127)


def _how_it_exited(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"killed by signal {-code}"
