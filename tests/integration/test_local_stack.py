"""The local stack for real: start, taken ports, second starts, kill -9 of each server, order."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

from infra.kafka import ensure_topics
from infra.local.ports import PortTaken
from infra.local.process import write_identity
from infra.local.stack import (
    LocalServers,
    StackHeld,
    free_settings,
    held,
    holder,
    local_servers,
    servers_of,
)
from schemas.topics import JOB_EVENTS

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def running() -> Iterator[LocalServers]:
    """One stack for all tests here: each leaves it running."""
    path = Path(tempfile.mkdtemp(prefix="foldline-"))
    path.chmod(0o711)
    try:
        with local_servers(free_settings(path)) as servers:
            yield servers
    finally:
        shutil.rmtree(path)


def _kill(servers: LocalServers, name: str) -> int:
    pid = servers.one(name).pid()
    assert pid is not None
    process = psutil.Process(pid)
    process.kill()
    process.wait(10)
    return pid


def _restart(servers: LocalServers, name: str) -> None:
    servers.one(name).start()
    servers.one(name).wait_ready()


def test_every_killed_server_comes_back_with_what_it_had_acknowledged(
    running: LocalServers,
) -> None:
    keep = {"kafka": _kafka_record, "postgres": _postgres_row, "valkey": _valkey_value}
    reads: dict[str, Callable[[], str]] = {
        name: write(running, f"kept by {name}") for name, write in keep.items()
    }
    for name, read in reads.items():
        before = _kill(running, name)
        _restart(running, name)
        assert running.one(name).pid() not in (None, before)
        assert read() == f"kept by {name}"


def _kafka_record(servers: LocalServers, text: str) -> Callable[[], str]:
    bootstrap = servers.addresses.bootstrap
    ensure_topics(bootstrap, servers.settings.shards)
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    producer.produce(
        JOB_EVENTS.name,
        text.encode(),
        partition=0,
        on_delivery=lambda error, _: failures.append(error),
    )
    assert producer.flush(30) == 0
    assert failures == [None]

    def read() -> str:
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test"})
        try:
            consumer.assign([TopicPartition(JOB_EVENTS.name, 0, 0)])
            message = consumer.poll(30)
            assert message is not None
            assert message.error() is None
            value = message.value()
            assert isinstance(value, bytes)
            return value.decode()
        finally:
            consumer.close()

    return read


def _postgres_row(servers: LocalServers, text: str) -> Callable[[], str]:
    dsn = servers.addresses.dsn
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept (what text)")
        connection.execute("INSERT INTO kept VALUES (%s)", (text,))

    def read() -> str:
        with psycopg.connect(dsn) as connection:
            row = connection.execute("SELECT what FROM kept").fetchone()
        assert row is not None
        return str(row[0])

    return read


def _valkey_value(servers: LocalServers, text: str) -> Callable[[], str]:
    url = servers.addresses.redis_url
    with redis.Redis.from_url(url) as client:
        client.set("kept", text)
        assert client.execute_command("WAITAOF", 1, 0, 5000)[0] == 1

    def read() -> str:
        with redis.Redis.from_url(url, decode_responses=True) as client:
            return str(client.get("kept"))

    return read


def test_a_taken_port_names_its_owner_and_the_setting_to_change(stack_dir: Path) -> None:
    settings = free_settings(stack_dir)
    valkey = servers_of(settings).one("valkey")
    with (
        socket.create_server(("127.0.0.1", settings.valkey_port)),
        pytest.raises(PortTaken) as caught,
    ):
        valkey.start()
    assert f"pid {os.getpid()}" in str(caught.value)
    assert "FOLDLINE_STACK_VALKEY_PORT" in str(caught.value)


def test_a_second_start_is_told_who_runs_the_stack_and_changes_nothing(stack_dir: Path) -> None:
    settings = free_settings(stack_dir)
    with held(settings):
        with pytest.raises(StackHeld) as caught, held(settings):
            pytest.fail("two processes run one data directory")
        assert caught.value.pid == os.getpid() == holder(settings)
    assert holder(settings) is None


def test_servers_that_outlived_their_starter_are_found_and_not_started_twice(
    running: LocalServers,
) -> None:
    again = servers_of(running.settings)
    assert [server.start() for server in again.servers] == [False, False, False]
    valkey = running.one("valkey")
    pid = valkey.pid()
    valkey.pid_path.unlink()
    assert not again.one("valkey").start(), "a server without pid file was started a second time"
    assert valkey.pid() == pid


def test_a_pid_that_now_belongs_to_somebody_else_is_not_taken_for_a_server(
    stack_dir: Path,
) -> None:
    valkey = servers_of(free_settings(stack_dir)).one("valkey")
    write_identity(valkey.pid_path, os.getpid())
    assert valkey.pid() == os.getpid()
    text = valkey.pid_path.read_text()
    valkey.pid_path.write_text(text.replace('"started": ', '"started": 1'))
    assert valkey.pid() is None
    valkey.pid_path.write_text("half writ")
    assert valkey.pid() is None


def test_a_pid_file_of_postgres_that_points_at_somebody_else_does_not_stop_it(
    running: LocalServers,
) -> None:
    _kill(running, "postgres")
    stale = running.settings.data_dir / "postgres" / "data" / "postmaster.pid"
    lines = stale.read_text().splitlines()
    stale.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    _restart(running, "postgres")
    with psycopg.connect(running.addresses.dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_servers_start_in_order_stop_in_reverse_and_leave_nothing_behind(stack_dir: Path) -> None:
    news: list[tuple[str, str]] = []
    settings = free_settings(stack_dir)
    with local_servers(settings, lambda what, new: news.append((what, new))) as servers:
        pids = [server.pid() for server in servers.servers]
    ready = [what for what, new in news if "ready after" in new]
    stopped = [what for what, new in news if new == "stopped"]
    assert ready == ["kafka", "postgres", "valkey"]
    assert stopped == ready[::-1]
    assert not [pid for pid in pids if pid is None or Path(f"/proc/{pid}").exists()]


def test_everything_listens_on_loopback_and_secrets_are_closed_to_others(
    running: LocalServers,
) -> None:
    ports = [running.settings.kafka_port, running.settings.postgres_port]
    others = [
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1][-4:], 16) in ports
    ]
    assert others
    assert {address.split(":")[0] for address in others} == {"0100007F"}
    password = running.settings.data_dir / "postgres" / "password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(running.addresses.dsn.replace(password.read_text(), "wrong"))


def test_servers_of_others_are_used_and_left_alone(stack_dir: Path) -> None:
    settings = free_settings(
        stack_dir,
        kafka_bootstrap="kafka.example:9092",
        postgres_dsn="postgresql://pg.example/foldline",
        redis_url="redis://redis.example/0",
    )
    servers = servers_of(settings)
    assert servers.servers == ()
    assert servers.addresses.bootstrap == "kafka.example:9092"
    assert servers.addresses.dsn == "postgresql://pg.example/foldline"
    assert servers.addresses.redis_url == "redis://redis.example/0"
