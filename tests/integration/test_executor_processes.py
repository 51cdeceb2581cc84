"""Real processes: whatever dies, freezes or runs away, no task outlives its lease or its agent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.executor_bench import ProcessBench, until
from workers.executor import Cause, Started, TaskKey, Wrote
from workers.forking import ExecutorBroken
from workers.journal import TOKEN_VARIABLE, Earlier, Group
from workers.leftovers import find_leftovers, kill_leftovers
from workers.options import LogLimits
from workers.processes import boot_id, start_time

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).with_name("agent_stub.py")
DAEMON = "import os,time,sys\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
FAMILY = (
    "import os,signal,subprocess,sys,time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "heard, told = os.pipe()\n"
    f"subprocess.run([sys.executable,'-c',{DAEMON!r}"
    "+'os.write(int(sys.argv[1]),str(os.getpid()).encode());time.sleep(1000)',str(told)],"
    "pass_fds=[told])\n"
    "daemon=int(os.read(heard,64))\n"
    "child=subprocess.Popen(['sleep','1000'])\n"
    "os.write(1,f'{daemon}\\n{child.pid}\\n{os.getpid()}\\n'.encode())\n"
    "time.sleep(1000)\n"
)
"""A task with a child and a double-forked daemon in another session; prints the three pids."""


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def none_alive(pids: list[int]) -> Callable[[], bool]:
    return lambda: not any(map(is_alive, pids))


class Stub:
    """A stub agent in a process of its own."""

    def __init__(self, data_dir: Path, *command: str, lease_s: float = 60) -> None:
        argv = [sys.executable, str(STUB), str(data_dir), str(lease_s), *command]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )

    def words(self) -> dict[str, object]:
        assert self.process.stdout is not None
        found: dict[str, object] = json.loads(self.process.stdout.readline())
        return found

    def pids(self, count: int) -> list[int]:
        """The pids that the task prints, and its supervisor's."""
        found: list[int] = []
        while len(found) < count:
            lines = self.words().get("wrote", [])
            assert isinstance(lines, list)
            found += map(int, lines)
        supervisor = psutil.Process(found[-1]).ppid()
        return [*found, supervisor, psutil.Process(supervisor).ppid()]

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def stubs() -> Iterator[list[Stub]]:
    found: list[Stub] = []
    yield found
    for stub in found:
        stub.end()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ProcessBench]:
    found = ProcessBench(tmp_path)
    yield found
    found.close()


def test_kill_9_of_the_agent_leaves_nothing_alive(tmp_path: Path, stubs: list[Stub]) -> None:
    stubs.append(Stub(tmp_path, sys.executable, "-c", FAMILY))
    stubs[0].words()
    pids = stubs[0].pids(3)
    assert all(map(is_alive, pids))
    stubs[0].process.kill()
    until(none_alive(pids), "task, child, daemon, supervisor and fork server are dead")


def test_an_agent_frozen_longer_than_its_lease_loses_its_tasks(
    tmp_path: Path, stubs: list[Stub]
) -> None:
    stubs.append(Stub(tmp_path, sys.executable, "-c", FAMILY, lease_s=1))
    stubs[0].words()
    task_and_family = stubs[0].pids(3)[:3]
    stubs[0].process.send_signal(signal.SIGSTOP)
    until(none_alive(task_and_family), "the tasks of a frozen agent are dead")
    stubs[0].process.send_signal(signal.SIGCONT)
    assert stubs[0].words() == {"ended": "lease"}


def test_an_agent_frozen_shorter_than_its_lease_keeps_its_tasks(
    tmp_path: Path, stubs: list[Stub]
) -> None:
    stubs.append(Stub(tmp_path, sys.executable, "-c", FAMILY, lease_s=5))
    stubs[0].words()
    pids = stubs[0].pids(3)
    stubs[0].process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    stubs[0].process.send_signal(signal.SIGCONT)
    assert all(map(is_alive, pids))


def test_a_new_agent_kills_what_an_earlier_one_left(tmp_path: Path, stubs: list[Stub]) -> None:
    stubs.append(Stub(tmp_path, sys.executable, "-c", FAMILY, lease_s=3600))
    assert stubs[0].words() == {"known": False, "left": []}
    pids = stubs[0].pids(3)
    supervisor, forkserver = pids[3:]
    # Whoever would kill the tasks when the agent dies cannot.
    for pid in (forkserver, supervisor):
        os.kill(pid, signal.SIGSTOP)
    stubs[0].process.kill()
    stubs[0].process.wait()
    time.sleep(0.1)
    assert all(map(is_alive, pids[:4]))
    stubs.append(Stub(tmp_path, "true"))
    assert stubs[1].words() == {"known": True, "left": []}
    assert none_alive(pids[:4])()
    os.kill(forkserver, signal.SIGCONT)
    until(none_alive([forkserver]), "the earlier fork server is gone")


def test_a_supervisor_that_is_killed_takes_everything_below_it_along(bench: ProcessBench) -> None:
    bench.start(sys.executable, "-c", FAMILY)
    pids = list(map(int, bench.lines(3)))
    os.kill(psutil.Process(pids[2]).ppid(), signal.SIGKILL)
    end = bench.end()
    assert none_alive(pids)()
    assert end.cause is Cause.BROKEN
    assert "supervisor" in end.detail


def test_a_stop_ends_daemons_too_before_it_is_said(bench: ProcessBench) -> None:
    bench.start(sys.executable, "-c", FAMILY)
    pids = list(map(int, bench.lines(3)))
    bench.executor.stop(TaskKey(1, 1, 0), 0.2)
    assert bench.end().cause is Cause.STOPPED
    assert none_alive(pids)()


def test_daemons_die_when_their_task_has_ended_by_itself(bench: ProcessBench) -> None:
    bench.start(sys.executable, "-c", f"{DAEMON}print(os.getpid(), flush=True); time.sleep(1000)")
    end = bench.end()
    assert (end.cause, end.exit_code) == (Cause.EXITED, 0)


def test_a_task_that_stops_its_supervisor_is_killed_all_the_same(bench: ProcessBench) -> None:
    bench.start("sh", "-c", "echo $$; kill -STOP $PPID; sleep 1000")
    (pid,) = map(int, bench.lines(1))
    until(
        lambda: psutil.Process(psutil.Process(pid).ppid()).status() == psutil.STATUS_STOPPED,
        "the supervisor is stopped",
    )
    bench.executor.kill_all()
    assert bench.end().cause is Cause.STOPPED
    assert not is_alive(pid)


def test_a_task_cannot_hit_its_supervisor_by_signalling_its_own_group(bench: ProcessBench) -> None:
    bench.start("sh", "-c", "kill -9 0")
    assert (bench.end().cause, bench.end().exit_code) == (Cause.EXITED, -9)


def test_a_wrapper_that_dies_of_sigterm_leaves_the_rest_its_grace(bench: ProcessBench) -> None:
    inner = (
        "import signal,time,sys\n"
        "def save(*_): print('saved',flush=True); sys.exit(0)\n"
        "def late(*_): time.sleep(0.3); save()\n"
        "signal.signal(signal.SIGTERM,late); print('up',flush=True); time.sleep(1000)"
    )
    bench.start("sh", "-c", '"$0" -c "$1"; true', sys.executable, inner)
    bench.lines(1)
    bench.executor.stop(TaskKey(1, 1, 0), 10)
    assert bench.end().cause is Cause.STOPPED
    assert bench.lines(2) == ["up", "saved"]


def test_memory_shared_by_forked_children_is_counted_once(bench: ProcessBench) -> None:
    program = (
        "import os,time\nx=bytearray(80<<20)\n"
        "for i in range(0,len(x),4096): x[i]=1\n"
        "for _ in range(3):\n if not os.fork(): time.sleep(1); os._exit(0)\n"
        "for _ in range(3): os.wait()"
    )
    bench.start(sys.executable, "-S", "-c", program, memory_mib=180)
    assert (bench.end().cause, bench.end().exit_code) == (Cause.EXITED, 0)


def test_a_flood_of_lines_is_dropped_and_counted_and_slows_nobody(tmp_path: Path) -> None:
    bench = ProcessBench(tmp_path, log_limits=LogLimits(lines_per_s=100, burst_s=1))
    try:
        bench.start(sys.executable, "-c", "for i in range(100000): print(i)\nprint('x'*100000)")
        end = bench.end()
        sent = [x for item in bench.news if isinstance(item, Wrote) for x in item.lines]
        dropped = sum(item.dropped for item in bench.news if isinstance(item, Wrote))
        assert len(sent) + dropped == 100001
        assert 100 <= len(sent) < 5000
        assert end.tail.endswith(" [cut]")
        assert len(end.tail) < 4000
    finally:
        bench.close()


def test_a_task_runs_in_a_directory_of_its_own_that_goes_with_it(
    bench: ProcessBench, tmp_path: Path
) -> None:
    bench.start("sh", "-c", 'pwd; touch scratch; touch "$FOLDLINE_OUTPUT_DIR/model"')
    bench.end()
    where = Path(bench.lines(1)[0])
    assert where.is_relative_to(tmp_path / "work")
    until(lambda: not where.exists(), "the working directory is removed")
    assert (tmp_path / "outputs" / "job-1" / "1" / "model").exists()


@pytest.mark.parametrize(
    ("command", "env", "cause"),
    [
        (("no-such-command",), (), Cause.NOT_FOUND),
        (("/etc/passwd",), (), Cause.NOT_FOUND),
        (("/etc/passwd/below",), (), Cause.NOT_FOUND),
        (("true", "a\0b"), (), Cause.UNRUNNABLE),
        (("true",), (("BIG", "x" * 200_000),), Cause.UNRUNNABLE),
    ],
    ids=["not there", "not executable", "no directory", "null byte", "too long"],
)
def test_a_command_that_cannot_be_run_is_told_clearly(
    bench: ProcessBench, command: tuple[str, ...], env: tuple[tuple[str, str], ...], cause: Cause
) -> None:
    bench.start(*command, env=env)
    assert bench.end().cause is cause
    assert repr(command[0]) in bench.end().detail
    assert not any(isinstance(item, Started) for item in bench.news)


def test_a_place_that_cannot_be_made_breaks_only_its_task(
    bench: ProcessBench, tmp_path: Path
) -> None:
    (tmp_path / "outputs").write_text("in the way")
    bench.start("true")
    assert bench.end().cause is Cause.BROKEN


def test_a_dead_fork_server_is_told_at_once(bench: ProcessBench) -> None:
    bench.start("sleep", "1000")
    until(lambda: bench.saw(Started), "the task's start")
    bench.executor._forkserver.kill()
    with pytest.raises(ExecutorBroken):
        bench.end()


def test_closing_the_executor_kills_what_runs(tmp_path: Path) -> None:
    bench = ProcessBench(tmp_path)
    bench.start(sys.executable, "-c", FAMILY)
    pids = list(map(int, bench.lines(3)))
    bench.close()
    assert none_alive(pids)()


def earlier(groups: dict[int, Group], boot: str | None = None, token: str = "t0") -> Earlier:
    return Earlier(boot or boot_id(), token, 1, groups)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ["sleep", "1000"], start_new_session=True, env={TOKEN_VARIABLE: "other"}
    )
    yield process
    process.kill()
    process.wait()


def test_a_pid_with_another_start_time_is_never_killed(sleeper: subprocess.Popen[bytes]) -> None:
    pid, start = sleeper.pid, start_time(sleeper.pid)
    stranger = earlier({pid: Group(pid, start - 1, pid, start - 1)})
    assert find_leftovers(stranger) == []
    assert kill_leftovers(stranger, 1) == []
    assert is_alive(pid)


def test_nothing_is_killed_by_the_journal_of_another_boot(sleeper: subprocess.Popen[bytes]) -> None:
    pid, start = sleeper.pid, start_time(sleeper.pid)
    groups = {pid: Group(pid, start, pid, start)}
    assert kill_leftovers(earlier(groups, boot="another"), 1) == []
    assert is_alive(pid)
    assert [left.pid for left in find_leftovers(earlier(groups))] == [pid]


def test_a_daemon_is_found_by_the_token_it_carries(sleeper: subprocess.Popen[bytes]) -> None:
    until(lambda: bool(find_leftovers(earlier({}, token="other"))), "the daemon's environment")
    assert [left.pid for left in find_leftovers(earlier({}, token="other"))] == [sleeper.pid]
    killed = []

    def reap() -> bool:
        killed.append(sleeper.poll())
        return killed[-1] is not None

    assert kill_leftovers(earlier({}, token="other"), 5) == []
    until(reap, "the daemon is dead")
    assert killed[-1] == -signal.SIGKILL
