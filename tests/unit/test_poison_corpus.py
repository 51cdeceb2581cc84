"""Poison that is kept (`tests/corpus/poison`) stops nobody who reads the topics that it may lie on."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from infra.kafka import Reader
from infra.kafka_port import Message
from projections.job_logs import _Sieve
from projections.read_ports import LogQuestion
from schemas.codec import encode
from schemas.commands import SubmitJob
from schemas.dispatch import NO_RELEASES, NO_STARTS, NO_STOPS, Dispatch
from schemas.events import CommandsRefused, InputsParked
from schemas.public import LogLines
from schemas.terms import JobSpec, JobState, JobTerms, Micros, TaskState
from schemas.topics import DISPATCH, TASK_LOGS
from stream_processors.domain.draft import Unreadable
from stream_processors.inputs import read_command, read_report
from tests.agent_world import AgentWorld
from tests.cluster import node
from tests.corpus import add_poison
from tests.poison_world import PoisonShard
from workers.agent import Stage
from workers.inbox import Inbox
from workers.messages import DispatchRead, Positioned

FILES = sorted(add_poison.POISON.glob("*.bin"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
GOOD = SubmitJob(JobTerms(), "good", 50, (), 0, "me", spec=JobSpec("t", command=("true",)))


def bytes_of(prefix: str) -> list[bytes]:
    """Poison for this topic, and what is poison for any."""
    return [path.read_bytes() for path in FILES if path.stem.split(".")[0] in (prefix, "any")]


def test_the_corpus_is_there_and_none_of_it_is_missing() -> None:
    assert len(FILES) >= 55
    assert add_poison.write() == []


@every_file
def test_poison_on_the_inputs_is_answered_and_a_good_job_goes_on(path: Path) -> None:
    shard = PoisonShard()
    poison = path.read_bytes()
    shard.take_reports(poison, encode(node()), poison)
    shard.take_commands(poison, encode(GOOD), poison)
    for said in (TaskState.STARTED, TaskState.ENDED):
        shard.take_reports(encode(shard.row("good", said)), poison)
    assert shard.states("good") == [JobState.SUCCEEDED]
    shard.pass_time(10)
    shard.check_answers()
    shard.check_fold()


@every_file
def test_what_cannot_be_read_is_parked_with_the_very_bytes(path: Path) -> None:
    poison = path.read_bytes()
    shard = PoisonShard()
    shard.take_commands(poison)
    shard.take_reports(poison)
    kept = [
        one for event in shard.events if isinstance(event, InputsParked) for one in event.records
    ]
    unreadable = [
        isinstance(read_command(poison), Unreadable),
        isinstance(read_report(poison), Unreadable),
    ]
    assert len(kept) == sum(unreadable)
    assert all(record.value == poison and record.message for record in kept)
    assert all(record.key == b"key\xff" and len(record.headers) == 2 for record in kept)


def test_all_of_it_at_once_is_answered_too() -> None:
    shard = PoisonShard()
    commands, reports = bytes_of("commands"), bytes_of("reports")
    shard.take_commands(*commands, None, *reports)
    shard.take_reports(encode(node("n1", 1)), *reports, None, *commands)
    shard.take_commands(*commands)
    shard.check_answers()
    shard.check_fold()
    codes = {
        code for event in shard.events if isinstance(event, CommandsRefused) for code in event.codes
    }
    assert codes >= {
        "malformed", "unknown_schema", "invalid_terms", "invalid_priority", "dependency_not_found",
        "cluster_not_found", "job_not_found", "invalid_name",
    }  # fmt: skip


class Broker:
    """A reader of the dispatch partition that has these records, once."""

    def __init__(self, values: list[bytes]) -> None:
        self._left = values

    def end_offset(self, _topic: str, _partition: int) -> int:
        return 0

    def assign(self, _positions: object) -> None:
        return

    def poll(self, _timeout_s: float) -> list[Message]:
        values, self._left = self._left, []
        return [
            Message(DISPATCH.name, 0, offset, b"n1", value, [], 0)
            for offset, value in enumerate(values)
        ]

    def close(self) -> None:
        return


def test_an_agent_passes_over_poison_in_its_dispatch_and_goes_on() -> None:
    world = AgentWorld()
    world.serve()
    last = Dispatch(
        3, 1, "n1", world.agent.incarnation, 0, False, True, NO_STARTS, NO_RELEASES, NO_STOPS
    )  # fmt: skip
    came = threading.Event()
    lopsided = [
        replace(last, stops=replace(NO_STOPS, job_nos=[1])),
        replace(last, releases=replace(NO_RELEASES, endpoints=["x"])),
        replace(last, starts=replace(NO_STARTS, job_ids=b"x" * 16)),
    ]
    poison = [*bytes_of("dispatch"), b"", *map(encode, lopsided)]
    inbox = Inbox(cast(Reader, Broker([*poison, encode(last)])), "n1", came.set)
    inbox.seek_end()
    letters: list[Any] = []
    deadline = time.monotonic() + 10
    while not any(getattr(letter, "dispatch", None) == last for letter in letters):
        came.wait(0.1)
        letters += inbox.take()
        assert time.monotonic() < deadline
    inbox.close()
    assert not any(getattr(letter, "dispatch", None) in lopsided for letter in letters)
    kinds = {type(letter) for letter in letters}
    assert kinds == {Positioned, DispatchRead}
    for letter in letters[1:]:
        world.feed(letter)
    assert world.agent.stage is not Stage.SERVING, "the last one told it to register again"
    assert world.exit_code is None


def test_the_log_endpoint_passes_over_poison_between_lines() -> None:
    lines = LogLines("a-job", 1, 0, "n1", "stdout", 0, 0, Micros(0), ["hello"])
    values = [*bytes_of("any"), *bytes_of("dispatch"), encode(lines)]
    sieve = _Sieve(LogQuestion("a-job", 0))
    found = [
        line
        for offset, value in enumerate([None, *values])
        for line in sieve.lines(Message(TASK_LOGS.name, 0, offset, b"a-job", value, [], 0))
    ]
    assert [line.text for line in found] == ["hello"]
