"""Two engines on a real Kafka: the owner of a shard is killed or frozen, and the other goes on.

What is asserted is progress and one history; how fast it is, `bench/restart.py` says.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.engine_processes import EngineProcess
from infra.follow import ShardFollower
from infra.kafka import Reader, Sender, ensure_topics
from infra.local.stack import free_settings, local_servers
from infra.log import Entry, read_record
from schemas.codec import decode, encode
from schemas.commands import SubmitJob
from schemas.envelope import Claim
from schemas.reports import Probe
from schemas.terms import JobSpec, JobTerms, Micros
from schemas.topics import COMMANDS, LOG, REPORTS
from tests.live_stack import wait_until

NO_SERVER = "none: engines ask nothing of it"
WITHIN_S = 60
MARKS = 8
"""So many signs of life are several times the silence that another would claim after."""


@dataclass
class Witness:
    """Reads the log and the marks from their beginnings, folds, and submits."""

    bootstrap: str
    fold: ShardFollower = field(default_factory=lambda: ShardFollower(0))
    claims: list[Claim] = field(default_factory=list)
    marks: list[Probe] = field(default_factory=list)
    submitted: int = 0

    def __post_init__(self) -> None:
        self.reader = Reader(self.bootstrap)
        self.reader.assign({(LOG.name, 0): 0, (REPORTS.name, 0): 0})
        self.sender = Sender(self.bootstrap)

    def look(self) -> None:
        for message in self.reader.poll(0.1):
            value = message.value or b""
            if message.topic == REPORTS.name:
                self.marks.append(decode(value))
            elif self.fold.feed(Entry(message.offset, value, Micros(message.at))) is not None:
                record = read_record(value)
                self.claims += [record] if isinstance(record, Claim) else []

    def submit_and_see(self) -> None:
        """One more job; returns when the fold holds it."""
        self.submitted += 1
        job = SubmitJob(JobTerms(), f"job-{self.submitted}", 0, (), 0, "test", JobSpec("test"))
        self.sender.send(COMMANDS.name, encode(job), partition=0, on_result=_must_land)
        self.sender.flush(10.0)
        wait_until("the job is decided", self._holds_all, WITHIN_S)

    def _holds_all(self) -> bool:
        self.look()
        return len(self.fold.state.jobs) == self.submitted

    def see_marks(self, count: int) -> None:
        """Return when the present owner has given so many more signs of life."""
        seen = len(self.marks)

        def enough() -> bool:
            self.look()
            owner = self.fold.chain.owner
            return sum(mark.owner == owner for mark in self.marks[seen:]) >= count

        wait_until("the owner gives signs of life", enough, WITHIN_S)

    def close(self) -> None:
        self.sender.close()
        self.reader.close()


def _must_land(_offset: int | None, error: str | None) -> None:
    assert error is None, error


@pytest.fixture
def witness(stack_dir: Path) -> Iterator[Witness]:
    settings = free_settings(stack_dir, agents=0)
    settings = settings.model_copy(update={"postgres_dsn": NO_SERVER, "redis_url": NO_SERVER})
    with local_servers(settings) as servers:
        ensure_topics(servers.addresses.bootstrap, 1)
        made = Witness(servers.addresses.bootstrap)
        yield made
        made.close()


@pytest.fixture
def engines(witness: Witness, stack_dir: Path) -> Iterator[list[EngineProcess]]:
    """The owner first, and one that stands by for it."""
    made = [EngineProcess(witness.bootstrap, stack_dir / "first.log")]
    try:
        made[0].wait_for("owning")
        made.append(EngineProcess(witness.bootstrap, stack_dir / "second.log"))
        made[1].wait_for("following")
        witness.submit_and_see()
        yield made
    finally:
        for engine in made:
            engine.end()


def test_an_owner_that_is_killed_is_followed_and_its_successor_is_left_alone(
    witness: Witness, engines: list[EngineProcess], stack_dir: Path
) -> None:
    owner = witness.fold.chain.owner
    engines[0].end()
    witness.submit_and_see()
    assert witness.fold.chain.owner != owner
    assert len(witness.claims) == 2
    engines.append(EngineProcess(witness.bootstrap, stack_dir / "third.log"))
    engines[2].wait_for("following")
    witness.see_marks(MARKS)
    assert len(witness.claims) <= 3, "at most the group's word moves it once more"


def test_a_frozen_owner_is_followed_and_does_no_harm_when_it_wakes(
    witness: Witness, engines: list[EngineProcess]
) -> None:
    frozen = witness.fold.chain.owner
    engines[0].send(signal.SIGSTOP)
    try:
        witness.submit_and_see()
        successor = witness.fold.chain.owner
        assert successor != frozen
    finally:
        engines[0].send(signal.SIGCONT)
    engines[0].wait_for("stepped_down")
    given = len(engines[0].moments("assigned"))
    witness.see_marks(MARKS)
    witness.submit_and_see()
    taken_back = sum(claim.owner == frozen for claim in witness.claims) - 1
    given_again = len(engines[0].moments("assigned")) - given
    assert taken_back <= given_again, "it claims again only if the group gives it the shard anew"
    assert len(witness.claims) == 2 + taken_back
    owns = engines[0] if witness.fold.chain.owner == frozen else engines[1]
    owner = witness.fold.chain.owner
    owns.end()
    witness.submit_and_see()
    assert witness.fold.chain.owner != owner, "the other one stood by"
