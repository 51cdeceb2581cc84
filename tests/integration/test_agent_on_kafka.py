"""The whole agent as a process on real Kafka; the test plays the engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psutil
import pytest

from infra.kafka import KafkaUnavailable, Reader, Sender, ensure_topics, shard_count
from infra.local.stack import Addresses
from schemas.codec import decode, encode, encode_body
from schemas.dispatch import NO_RELEASES, NO_STARTS, NO_STOPS, Dispatch
from schemas.ids import partition_of
from schemas.public import LogLines
from schemas.reports import DrainNode, Heartbeat, RegisterNode, TasksReported
from schemas.terms import FailureClass, JobSpec, TaskState
from schemas.topics import DISPATCH, REPORTS, TASK_LOGS
from tests.agent_world import releases, starts, stops
from tests.full_disk import fill, mounted
from workers.executor import TaskKey
from workers.journal import Journal

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("agent_process.py")
BOUND_S = 30.0
T = TypeVar("T")
KEY = TaskKey(7, 1, 0)


class Engine:
    """Plays the engine for one pool with one node."""

    def __init__(self, servers: Addresses, data_dir: Path) -> None:
        name = uuid4().hex[:8]
        self.node, self.pool = f"node-{name}", f"pool-{name}"
        self.servers = servers
        self.data_dir = data_dir
        self.output = data_dir / "agent.out"
        try:
            self.shards = shard_count(servers.bootstrap)
        except KafkaUnavailable:
            self.shards = 2
        ensure_topics(servers.bootstrap, self.shards)
        self.shard = partition_of(self.pool, self.shards)
        self.sender = Sender(servers.bootstrap)
        self.reader = Reader(servers.bootstrap)
        places = [(REPORTS.name, self.shard)]
        places += [(TASK_LOGS.name, number) for number in range(TASK_LOGS.partitions)]
        self.reader.assign({place: self._end(place) for place in places})
        self.read: list[Any] = []
        self.incarnation = 0
        self.processes: list[subprocess.Popen[bytes]] = []

    def _end(self, place: tuple[str, int]) -> int:
        """The partition's end, as soon as its leader knows that it is one."""
        give_up = time.monotonic() + BOUND_S
        while True:
            try:
                return self.reader.end_offset(*place)
            except KafkaUnavailable:
                assert time.monotonic() < give_up, place
                time.sleep(0.1)

    def start_agent(self, *, lease_s: int = 10, drain_s: float = 30) -> subprocess.Popen[bytes]:
        given = {
            "node": self.node,
            "pool": self.pool,
            "data_dir": str(self.data_dir),
            "lease_s": lease_s,
            "drain_s": drain_s,
            "bootstrap": self.servers.bootstrap,
            "shards": self.shards,
        }
        with self.output.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, str(PROGRAM), json.dumps(given)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    def wait_for(self, kind: type[T], **wanted: Any) -> T:
        """The first unread message of this kind with these fields.

        It is gone then, and so are those of its kind before it; other topics have their own order.
        """
        give_up = time.monotonic() + BOUND_S
        while time.monotonic() < give_up:
            for number, message in enumerate(self.read):
                if isinstance(message, kind) and all(
                    getattr(message, name) == value for name, value in wanted.items()
                ):
                    before, after = self.read[:number], self.read[number + 1 :]
                    self.read = [one for one in before if not isinstance(one, kind)] + after
                    return message
            for record in self.reader.poll(0.2):
                message = decode(record.value or b"")
                if getattr(message, "node", "") == self.node:
                    self.read.append(message)
        output = self.output.read_text()
        raise AssertionError(f"no {kind.__name__} {wanted}; read {self.read}; agent said {output}")

    def row(self, key: TaskKey, state: TaskState) -> tuple[int, FailureClass, str, str]:
        """Exit code, failure, message and endpoint of the first report of that state."""
        while True:
            report = self.wait_for(TasksReported)
            for row, found in enumerate(
                map(TaskKey, report.job_nos, report.attempts, report.tasks)
            ):
                if found == key and report.states[row] is state:
                    return (
                        report.exit_codes[row],
                        report.failures[row],
                        report.messages[row],
                        report.endpoints[row],
                    )

    def register(self) -> int:
        """Acknowledge the agent's registration: its incarnation."""
        known = self.incarnation
        while self.incarnation <= known:
            self.incarnation = self.wait_for(RegisterNode).incarnation
        self.dispatch(registered=True)
        self.wait_for(Heartbeat, incarnation=self.incarnation)
        return self.incarnation

    def dispatch(self, **changes: Any) -> None:
        values: dict[str, Any] = {
            "shard": self.shard,
            "epoch": 1,
            "node": self.node,
            "incarnation": self.incarnation,
            "floor": 0,
            "registered": False,
            "register_again": False,
            "starts": NO_STARTS,
            "releases": NO_RELEASES,
            "stops": NO_STOPS,
        }
        results: list[str | None] = []
        self.sender.send(
            DISPATCH.name,
            encode(Dispatch(**(values | changes))),
            key=self.node,
            partition=partition_of(self.node, DISPATCH.partitions),
            on_result=lambda _, error: results.append(error),
        )
        self.sender.flush(BOUND_S)
        assert results == [None]

    def run(self, key: TaskKey, *command: str) -> None:
        """Start a task with this command."""
        self.dispatch(starts=starts(key, spec=spec(*command)))

    def close(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.sender.close()
        self.reader.close()


def spec(*command: str) -> bytes:
    return encode_body(JobSpec("test", command=command))[1]


@pytest.fixture
def engine(servers: Addresses, tmp_path: Path) -> Iterator[Engine]:
    # A journal of an earlier start: else the agent waits for one lease first.
    journal = Journal(tmp_path, "any")
    journal.begin(1)
    journal.close()
    found = Engine(servers, tmp_path)
    yield found
    found.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "small")


def test_a_task_runs_and_is_reported_and_the_agent_drains(engine: Engine) -> None:
    agent = engine.start_agent()
    engine.register()
    engine.run(KEY, "sh", "-c", "echo one; echo two >&2; sleep 0.2; exit 3")
    engine.row(KEY, TaskState.STARTED)
    logged = {engine.wait_for(LogLines).stream for _ in range(2)}
    assert logged == {"stdout", "stderr"}
    code, failure, message, _ = engine.row(KEY, TaskState.ENDED)
    assert (code, failure) == (3, FailureClass.USER_ERROR)
    assert message == "exit code 3"
    agent.send_signal(signal.SIGTERM)
    engine.wait_for(DrainNode, incarnation=engine.incarnation)
    assert agent.wait(BOUND_S) == 0


def test_a_draining_agent_lets_its_task_end_and_a_second_signal_does_not(engine: Engine) -> None:
    agent = engine.start_agent()
    engine.register()
    engine.run(KEY, "sh", "-c", 'trap "" TERM; echo up; while :; do sleep 0.1; done')
    engine.wait_for(LogLines, lines=["up"])
    agent.send_signal(signal.SIGTERM)
    engine.wait_for(DrainNode)
    assert agent.poll() is None
    agent.send_signal(signal.SIGINT)
    assert agent.wait(BOUND_S) == 0
    code, failure, _, _ = engine.row(KEY, TaskState.ENDED)
    assert (code, failure) == (-9, FailureClass.PREEMPTED)


def test_a_second_agent_of_the_node_is_refused_and_says_why(engine: Engine) -> None:
    first = engine.start_agent()
    engine.register()
    second = engine.start_agent()
    assert second.wait(BOUND_S) == 1
    said = engine.output.read_text()
    assert f"already has an agent on this machine (process {first.pid}" in said
    assert first.poll() is None


def test_an_agent_that_was_killed_comes_back_higher_with_nothing_left_running(
    engine: Engine,
) -> None:
    agent = engine.start_agent(lease_s=60)
    first = engine.register()
    engine.run(KEY, "sh", "-c", "echo $$; sleep 1000")
    pid = int(engine.wait_for(LogLines).lines[0])
    agent.kill()
    agent.wait()
    engine.start_agent()
    assert engine.register() > first
    assert not psutil.pid_exists(pid)


def test_an_agent_frozen_beyond_its_lease_comes_back_as_a_new_incarnation(engine: Engine) -> None:
    agent = engine.start_agent(lease_s=2)
    first = engine.register()
    engine.run(KEY, "sh", "-c", "echo $$; sleep 1000")
    pid = int(engine.wait_for(LogLines).lines[0])
    agent.send_signal(signal.SIGSTOP)
    give_up = time.monotonic() + BOUND_S
    while psutil.pid_exists(pid):
        assert time.monotonic() < give_up, "a frozen agent's task lives on"
        time.sleep(0.02)
    agent.send_signal(signal.SIGCONT)
    _, failure, _, _ = engine.row(KEY, TaskState.ENDED)
    assert failure is FailureClass.NODE_LOST
    assert engine.register() > first
    engine.run(TaskKey(8, 1, 0), "true")
    assert engine.row(TaskKey(8, 1, 0), TaskState.ENDED)[0] == 0


def test_register_again_ends_tasks_and_a_stop_leaves_a_tombstone(engine: Engine) -> None:
    engine.start_agent()
    first = engine.register()
    engine.run(KEY, "sleep", "1000")
    engine.row(KEY, TaskState.STARTED)
    engine.dispatch(register_again=True)
    assert engine.row(KEY, TaskState.ENDED)[1] is FailureClass.NODE_LOST
    assert engine.register() > first
    engine.dispatch(stops=stops(KEY))
    assert engine.row(KEY, TaskState.ENDED)[1] is FailureClass.CANCELLED
    engine.run(KEY, "true")
    assert engine.row(KEY, TaskState.ENDED)[1] is FailureClass.CANCELLED


def test_members_of_a_gang_meet_where_rank_0_said(engine: Engine) -> None:
    engine.start_agent()
    engine.register()
    members = [TaskKey(9, 1, 0), TaskKey(9, 1, 1)]
    meeting = (
        "import os,socket,time\n"
        "where=(os.environ['MASTER_ADDR'],int(os.environ['MASTER_PORT']))\n"
        "if os.environ['RANK']=='0':\n"
        " with socket.create_server(where) as s: s.accept()[0].sendall(b'met')\n"
        "else:\n"
        " while True:\n"
        "  try: s=socket.create_connection(where)\n"
        "  except ConnectionRefusedError: time.sleep(0.05); continue\n"
        "  print(s.recv(9).decode(),os.environ['LOCAL_RANK'],os.environ['WORLD_SIZE']); break\n"
    )
    parts = starts(*members, gang=2, spec=spec(sys.executable, "-c", meeting))
    engine.dispatch(starts=replace(parts, job_ids=uuid4().bytes * 2))
    endpoint = engine.row(members[0], TaskState.READY)[3]
    assert endpoint.startswith("127.0.0.1:")
    engine.dispatch(releases=releases(*members, endpoint=endpoint))
    assert engine.wait_for(LogLines).lines == ["met 1 2"]
    assert engine.row(members[1], TaskState.ENDED)[0] == 0


def test_a_hung_task_is_ended_and_its_last_lines_come_with_the_report(engine: Engine) -> None:
    engine.start_agent()
    engine.register()
    command = 'touch "$FOLDLINE_PROGRESS_FILE"; echo step 1; echo waiting for rank 3 >&2; sleep 999'
    engine.dispatch(
        starts=starts(KEY, spec=spec("sh", "-c", command), progress_timeout_s=1),
    )
    while TaskState.ENDED not in (report := engine.wait_for(TasksReported)).states:
        pass
    (row,) = report.tail_rows
    assert report.failures[row] is FailureClass.TIMEOUT
    assert report.messages[row].startswith("no progress for 1 s (progress_timeout_s = 1)")
    assert sorted(report.tails[0].splitlines()) == ["step 1", "waiting for rank 3"]


def test_a_spec_that_nobody_here_can_read_is_poison_and_says_what_to_do(engine: Engine) -> None:
    engine.start_agent()
    engine.register()
    engine.dispatch(starts=replace(starts(KEY, spec=b"sealed"), key_ids=[7]))
    _, failure, message, _ = engine.row(KEY, TaskState.ENDED)
    assert failure is FailureClass.POISON
    assert "encrypted with key 7" in message


def test_an_agent_on_a_full_disk_stays_up_and_loses_no_report(
    engine: Engine, small_disk: Path
) -> None:
    engine.data_dir = small_disk
    journal = Journal(small_disk, "any")
    journal.begin(1)
    journal.close()
    agent = engine.start_agent(lease_s=4)
    first = engine.register()
    engine.run(KEY, "sh", "-c", "echo up; sleep 1000")
    engine.wait_for(LogLines, lines=["up"])
    ballast = fill(small_disk)
    broken = TaskKey(8, 1, 0)
    engine.run(broken, "true")
    _, failure, message, _ = engine.row(broken, TaskState.ENDED)
    assert failure is FailureClass.INFRASTRUCTURE
    assert "No space left on device" in message
    # The end of what ran is reported; the next incarnation waits for room.
    engine.dispatch(register_again=True)
    assert engine.row(KEY, TaskState.ENDED)[1] is FailureClass.NODE_LOST
    time.sleep(1)
    assert agent.poll() is None
    shutil.rmtree(ballast)
    assert engine.register() > first
    engine.run(TaskKey(9, 1, 0), "true")
    assert engine.row(TaskKey(9, 1, 0), TaskState.ENDED)[0] == 0


def test_an_agent_that_starts_on_a_full_disk_waits_for_room(
    engine: Engine, small_disk: Path
) -> None:
    engine.data_dir = small_disk
    ballast = fill(small_disk)
    agent = engine.start_agent(lease_s=1)
    with pytest.raises(subprocess.TimeoutExpired):
        agent.wait(2)
    shutil.rmtree(ballast)
    engine.register()
