"""The small process that stands over one task: it kills it in time and says when all is dead.

Forked by `forkserver.py`; talks with the agent over a packet socket. It leads a session of its own
and is a child subreaper, so whatever the task starts stays below it, daemons included; the task
runs in a process group of its own within that session, so that a task's `kill 0` does not reach
its supervisor. The task's process waits on a pipe until the agent has journaled both.

Kills everything when the lease deadline in the shared file passes, when the agent dies (its end of
the socket closes), when memory runs over, when the task stops making progress, or when told. Of
other timeouts it knows nothing: those are the engine's. It says `ended` only when it has no
descendant left, and writes the end into the chronicle. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
from typing import Any

from workers import chronicle, memory
from workers.processes import (
    NS,
    BootTimer,
    become_subreaper,
    boot_ns,
    children_of,
    descendants_of,
    kill,
    start_time,
)
from workers.progress import ProgressWatch, why_stuck
from workers.task_process import Task, be_the_task

PACKET_BYTES = 64 * 1024
MEMORY_EVERY_NS = NS // 4
KILL_EVERY_NS = NS // 50
NOT_FOUND = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.EPERM, errno.ELOOP)
UNRUNNABLE = (errno.E2BIG, errno.EINVAL, errno.ENAMETOOLONG)
"""What fails everywhere alike: too long, or a null byte in it."""
FAR_NS = 1 << 62


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
        self._progress: ProgressWatch | None = None
        self._peak_bytes = 0
        self._was_let_go = False
        self._is_exec_known = False
        self._is_orphaned = False

    def run(self, out_fd: int, err_fd: int) -> None:
        """From fork to the last descendant's end."""
        if self._task.cgroup:
            try:
                limit = self._task.memory_mib * memory.MIB
                self._cgroup = memory.Cgroup(self._task.cgroup, limit)
            except OSError as error:
                why = f"its cgroup could not be made: {error}"
                self._say({"ended": {"cause": "broken", "code": 0, "detail": why}})
                return
        go_read, self._go = os.pipe()
        self._exec_status, status_write = os.pipe()
        self._child = os.fork()
        if not self._child:
            # Open copies of these would hide this process's death from the agent and the task.
            os.close(self._go)
            self._control.close()
            be_the_task(self._task, go_read, status_write, (out_fd, err_fd))
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
        if self._progress is not None:
            due_ns = min(due_ns, self._progress.due_ns)
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
        if self._progress is not None and now_ns >= self._progress.due_ns:
            self._look_for_progress(self._progress, now_ns)

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

    def _look_for_progress(self, progress: ProgressWatch, now_ns: int) -> None:
        if progress.is_stuck(now_ns):
            self._terminate(
                "no_progress",
                why_stuck(self._task.progress_timeout_s),
                int(self._task.grace_s * NS),
            )

    def _terminate(self, cause: str, detail: str, grace_ns: int) -> None:
        """SIGTERM once, and SIGCONT because a stopped process hears nothing; then the grace."""
        if not self._cause and grace_ns > 0:
            self._signal_group(signal.SIGTERM)
            self._signal_group(signal.SIGCONT)
        self._end(cause, detail, grace_ns)

    def _end(self, cause: str, detail: str, grace_ns: int) -> None:
        """Begin to end the task; the first cause stays, the soonest end wins."""
        if not self._cause:
            self._cause, self._detail = cause, detail
        self._progress = None
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
        self._terminate("stopped", "stopped", grace_ns if self._was_let_go else 0)

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
            elif where == "exec" and int(number) in UNRUNNABLE:
                self._end("unrunnable", f"{name} cannot be run: {text}", 0)
            else:
                self._end("broken", f"{name} cannot be started ({where}): {text}", 0)
        elif self._was_let_go and not self._cause:
            self._say({"started": True})
            if self._cgroup is None and self._task.memory_mib > 0:
                self._measure_at_ns = boot_ns() + MEMORY_EVERY_NS
            if self._task.progress_timeout_s > 0:
                timeout_s = self._task.progress_timeout_s
                self._progress = ProgressWatch(self._task.progress, timeout_s, boot_ns())

    def _drain_wakeup(self) -> None:
        os.read(self._wakeup, PACKET_BYTES)

    def _reap(self) -> bool:
        """Take note of every dead child; False when there is no descendant left."""
        while True:
            try:
                pid, wait_status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            self._peak_bytes = max(self._peak_bytes, usage.ru_maxrss * memory.KIB)
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
        code = self._exit_code if self._exit_code is not None else 0
        if self._cause == "exited" and code and (evidence := self._memory_evidence(code)):
            self._cause, self._detail = "out_of_memory", evidence
        self._say_end(self._cause, code, self._detail)
        try:
            shutil.rmtree(self._task.cwd)
            if self._cgroup is not None:
                self._cgroup.remove()
        except OSError as error:
            sys.stderr.write(f"a task's directory could not be removed: {error}\n")

    def _memory_evidence(self, code: int) -> str:
        """What shows that a task which failed by itself had run out of memory, or ""."""
        limit = self._task.memory_mib * memory.MIB
        if self._cgroup is not None:
            return self._cgroup.evidence(limit)
        own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * memory.KIB
        return memory.over_peak(code, self._peak_bytes, limit, own_peak)

    def _say_end(self, cause: str, code: int, detail: str) -> None:
        """All of it is dead: into the chronicle first, which holds whoever dies next."""
        names = self._task.names
        line = chronicle.end_line(names, os.getpid(), boot_ns(), cause, code)
        try:
            chronicle.append(self._task.chronicle, line)
        except OSError as error:
            sys.stderr.write(f"a task's end could not be written down: {error}\n")
        self._say({"ended": {"cause": cause, "code": code, "detail": detail}})

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


def _how_it_exited(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"killed by signal {-code}"
