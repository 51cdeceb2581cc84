"""An engine that follows shards of others: it leaves a living owner alone and follows a dead one."""

from __future__ import annotations

import pytest

from infra.kafka import OffsetOutOfRange
from infra.settings import AdmissionSettings, EngineSettings, KafkaSettings
from schemas.codec import encode
from schemas.envelope import LOG_FORMAT, Claim
from schemas.terms import Micros
from schemas.topics import COMMANDS, LOG, REPORTS
from stream_processors.domain.counting import LogStopped
from stream_processors.domain.fingerprint import fingerprint
from stream_processors.engine_process import EngineProcess
from tests.cluster import put_queue
from tests.engine_brokers import Brokers, doubled, go_on, owned, owning, rival
from tests.engine_world import START, Process, World


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    return doubled(monkeypatch)


@pytest.fixture
def standby(brokers: Brokers) -> EngineProcess:
    """One that follows all shards, whatever the group says."""
    return EngineProcess(KafkaSettings(), EngineSettings(), AdmissionSettings())


def test_one_that_stands_by_folds_what_the_owner_writes_and_leaves_it_alone_while_it_lives(
    brokers: Brokers, standby: EngineProcess
) -> None:
    other = Process(World(brokers.logs[0], now_us=brokers.now_us), 2)
    brokers.wished = frozenset({1})
    for number in range(40):
        brokers.pass_time(0.2)
        other.world.now_us = brokers.now_us
        other.world.commands.append(put_queue(f"q{number}"))
        written = len(other.world.reports)
        other.turn()
        for mark in other.world.reports[written:]:
            brokers.put(REPORTS.name, 0, mark)
        standby.turn()
    assert owned(standby) == [1]
    followed = standby._runners[0].engine.state
    assert fingerprint(followed) == fingerprint(other.world.fold().state)
    assert ("default", "q30") in followed.queues


def test_one_that_stands_by_takes_over_from_an_owner_that_falls_silent_and_decides(
    brokers: Brokers, standby: EngineProcess
) -> None:
    other = Process(World(brokers.logs[0], [put_queue("before")], now_us=brokers.now_us), 2)
    other.settle()
    brokers.wished = frozenset({1})
    brokers.put(COMMANDS.name, 0, put_queue("before"))
    go_on(standby, brokers, turns=6)
    assert owned(standby) == [1], "it may yet speak"
    brokers.put(COMMANDS.name, 0, put_queue("after"))
    go_on(standby, brokers, turns=8)
    assert owned(standby) == [0, 1]
    assert standby._runners[0].engine.epoch == 2
    assert ("default", "after") in standby._runners[0].engine.state.queues


def test_marks_that_their_owner_let_go_of_are_passed_over(
    brokers: Brokers, standby: EngineProcess
) -> None:
    owning(standby, brokers, 0, 1)
    rival(brokers, 0)
    go_on(standby, brokers, turns=6)
    assert brokers.following.keys() == {(LOG.name, 0), (REPORTS.name, 0)}
    brokers.inputs[REPORTS.name, 0] += [b""] * 9
    brokers.following[REPORTS.name, 0] = 0
    brokers.begins[REPORTS.name, 0] = 5
    go_on(standby, brokers, turns=1)
    assert brokers.following[REPORTS.name, 0] == len(brokers.inputs[REPORTS.name, 0])


def test_a_log_that_no_longer_holds_what_is_followed_ends_the_process(
    brokers: Brokers, standby: EngineProcess
) -> None:
    owning(standby, brokers, 0, 1)
    rival(brokers, 0)
    go_on(standby, brokers, turns=6)
    brokers.begins[LOG.name, 0] = 100
    with pytest.raises(OffsetOutOfRange):
        go_on(standby, brokers, turns=1)


def test_a_log_of_a_newer_release_is_given_up_by_one_that_stands_by_and_nothing_else_is(
    brokers: Brokers, standby: EngineProcess
) -> None:
    brokers.logs[0].land(encode(Claim(LOG_FORMAT + 1, 1, b"n" * 16, Micros(START))))
    owning(standby, brokers, 1)
    assert brokers.closed_logs == [0]
    assert brokers.following == {}
    brokers.wished = frozenset({0, 1})
    with pytest.raises(LogStopped, match="newer release"):
        go_on(standby, brokers)
