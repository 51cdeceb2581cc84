"""`foldline dev` for real: what falls is started again, and a killed supervisor loses nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from foldline.dev import RunningStack, stack
from foldline.dev_control import reset_stack, stop_stack
from infra.local.process import read_identity
from infra.local.stack import Addresses, free_settings, held, holder, run_dir
from tests.live_stack import LiveStack
from tests.tcp_proxy import HOST, TcpProxy

pytestmark = pytest.mark.timeout(280)

SERVERS = ("kafka", "postgres", "valkey")
PARTS = ("engine", "follower", "audit", "hot", "relay", "agent-1", "agent-2", "api")


def _until(condition: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)


def _kill(pid: int | None) -> None:
    assert pid is not None
    process = psutil.Process(pid)
    process.kill()
    _until(lambda: not process.is_running() or process.status() == "zombie", f"{pid} is gone")


def _is_ready(running: RunningStack) -> bool:
    try:
        return httpx.get(f"{running.api_url}/health/ready", timeout=5).is_success
    except httpx.TransportError:
        return False


def _is_another(running: RunningStack, name: str, before: int | None) -> bool:
    return running.pid(name) not in (None, before)


def test_the_whole_system_starts_recovers_from_kills_and_stops_in_reverse(
    stack_dir: Path,
) -> None:
    settings = free_settings(stack_dir)
    with stack(settings) as running:
        assert _is_ready(running)
        before = {name: running.pid(name) for name in (*PARTS, *SERVERS)}
        assert None not in before.values()
        for name in ("relay", "valkey"):
            _kill(before[name])
        for name in ("relay", "valkey"):
            _until(partial(_is_another, running, name, before[name]), f"{name} is back")
        _until(lambda: _is_ready(running), "the system is whole again")
        _kill_supervisor_and_start_again(running)
    assert holder(settings) is None
    assert not list(run_dir(settings).glob("*.pid"))


def _kill_supervisor_and_start_again(running: RunningStack) -> None:
    """The parts die with it, the servers do not, and a new start finds those."""
    settings = running.settings
    servers = {name: running.pid(name) for name in SERVERS}
    _kill(holder(settings))
    _until(lambda: not any(running.pid(name) for name in PARTS), "the parts died too")
    assert {name: running.pid(name) for name in SERVERS} == servers
    with stack(settings) as again:
        assert {name: again.pid(name) for name in SERVERS} == servers
        assert _is_ready(again)
    told = (settings.data_dir / "dev.log").read_text()
    assert re.findall(r"^  (\w+) +\S+ found$", told, re.MULTILINE) == list(SERVERS)
    stopped = re.findall(r"^  (\S+) +stopped$", told, re.MULTILINE)
    assert stopped[-3:] == ["valkey", "postgres", "kafka"]
    assert stopped[:-3] == [*reversed(PARTS)]


def test_a_second_start_finds_the_first_and_says_so(stack_dir: Path) -> None:
    settings = free_settings(stack_dir)
    with held(settings):
        done = subprocess.run(
            [sys.executable, "-m", "foldline", "dev"],
            env={"FOLDLINE_STACK_DATA_DIR": str(stack_dir), "HOME": str(stack_dir)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0
    assert "already runs here" in done.stdout
    assert "foldline stop" in done.stdout


def test_ctrl_c_while_servers_start_stops_what_was_started(stack_dir: Path) -> None:
    settings = free_settings(stack_dir)
    process = subprocess.Popen(
        [sys.executable, "-m", "foldline", "dev", "--servers-only"],
        env={
            "HOME": str(Path.home()),
            **{
                f"FOLDLINE_STACK_{key.upper()}": str(value)
                for key, value in settings.model_dump(exclude_none=True).items()
            },
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    try:
        kafka = run_dir(settings) / "kafka.pid"
        _until(lambda: read_identity(kafka) is not None, "Kafka is starting", within_s=90)
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
    finally:
        process.kill()
        process.wait()
    assert not list(run_dir(settings).glob("*.pid"))


def test_stop_and_reset_of_what_does_not_run_say_so(
    stack_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = free_settings(stack_dir)
    assert stop_stack(settings) == 0
    assert "was not running" in capsys.readouterr().out
    (stack_dir / "foldline.toml").write_text("[stack]\nagents = 3\n")
    (stack_dir / "kafka").mkdir()
    assert reset_stack(settings) == 0
    assert [path.name for path in stack_dir.iterdir()] == ["foldline.toml"]


def test_servers_only_gives_the_three_addresses_and_no_process_of_ours(
    stack_dir: Path, servers: Addresses
) -> None:
    settings = free_settings(
        stack_dir,
        kafka_bootstrap=servers.bootstrap,
        postgres_dsn=servers.dsn,
        redis_url=servers.redis_url,
    )
    with stack(settings, servers_only=True) as running:
        assert running.addresses == servers
        assert running.pid("supervisor") is not None
        assert not any(running.pid(name) for name in (*PARTS, *SERVERS))


def test_jobs_run_while_the_database_is_away_from_the_start_and_it_hears_of_them_later(
    stack_dir: Path, servers: Addresses
) -> None:
    found = re.search(r":(\d+)/", servers.dsn)
    assert found is not None
    proxy = TcpProxy((HOST, int(found[1])))
    proxy.refuse()
    settings = free_settings(
        stack_dir,
        kafka_bootstrap=servers.bootstrap,
        postgres_dsn=servers.dsn.replace(found[0], f":{proxy.port}/"),
        redis_url=servers.redis_url,
    )
    try:
        with stack(settings) as running:
            live = LiveStack(running, stack_dir / "journal")
            job_id = live.submit("without-a-database", 0.1)
            _until(lambda: "end " in live.journal.read_text(), "the task has run")
            proxy.serve()
            _until(lambda: _status(live, job_id) == "succeeded", "the audit view tells it")
            _until(lambda: _is_ready(running), "the system is whole")
            live.http.close()
        assert "once Postgres answers" in (stack_dir / "dev.log").read_text()
    finally:
        proxy.close()


def _status(live: LiveStack, job_id: str) -> str | None:
    answer = live.http.get(f"/jobs/{job_id}")
    return str(answer.json()["status"]) if answer.is_success else None
