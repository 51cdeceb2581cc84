"""The engine's process with several shards, on doubles for Kafka: one shard's trouble is its own."""

from __future__ import annotations

import pytest

from infra.kafka import OffsetOutOfRange
from infra.settings import AdmissionSettings, EngineSettings, KafkaSettings
from schemas.commands import SubmitJob
from schemas.terms import JobSpec, JobTerms
from schemas.topics import COMMANDS, DISPATCH, LOG, REPORTS
from stream_processors.domain.draft import CommandAt
from stream_processors.engine_process import MISSING_PATIENCE_US, EngineProcess
from stream_processors.shard_runner import BACKLOG_MAX
from tests.cluster import node, put_queue
from tests.engine_brokers import SHARDS, Brokers, doubled, go_on, jobs, owned, owning, rival
from tests.engine_world import SECOND, START


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    return doubled(monkeypatch)


@pytest.fixture
def process(brokers: Brokers) -> EngineProcess:
    """One that stands by for nobody."""
    return EngineProcess(KafkaSettings(), EngineSettings(stands_by=False), AdmissionSettings())


def test_a_shard_that_could_not_be_opened_is_opened_later(
    brokers: Brokers, process: EngineProcess
) -> None:
    brokers.unavailable = {0}
    brokers.wished = frozenset({0})
    go_on(process, brokers)
    assert owned(process) == []
    assert len(brokers.closed_logs) == 12, "a handle that came to nothing is let go of"
    brokers.unavailable = set()
    go_on(process, brokers)
    assert owned(process) == [0]


def test_a_shard_opened_beside_one_that_could_not_be_is_given_up_when_revoked(
    brokers: Brokers, process: EngineProcess
) -> None:
    brokers.unavailable = {1}
    brokers.wished = frozenset({0, 1})
    go_on(process, brokers)
    assert owned(process) == [0]
    brokers.wished = frozenset()
    go_on(process, brokers)
    assert owned(process) == [0], "until another claims it"
    rival(brokers, 0)
    go_on(process, brokers, apart_s=1.0)
    assert process._runners == {}, "nothing of it can count any more"
    assert brokers.closed_logs.count(0) == 1


def test_a_superseded_shard_with_a_backlog_does_not_stop_its_neighbour_from_reading(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0, 1)
    leaving = process._runners[0]
    rival(brokers, 0)
    go_on(process, brokers, turns=6)
    command = put_queue("q")
    for offset in range(BACKLOG_MAX + 1):
        leaving.engine.receive_command(CommandAt(offset, START, command), 100)
    brokers.put(COMMANDS.name, 1, put_queue("fast"))
    polls = brokers.polls
    go_on(process, brokers, turns=2)
    assert brokers.polls == polls + 2
    assert leaving.engine.backlog == 0


def test_nothing_is_read_while_a_shard_has_too_much_to_decide(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0)
    brokers.unavailable = {0}
    engine = process._runners[0].engine
    for offset in range(BACKLOG_MAX + 1):
        engine.receive_command(CommandAt(offset, START, put_queue("q")), 100)
    polls = brokers.polls
    process._receive(0.0)
    assert brokers.polls == polls


def test_inputs_of_a_superseded_shard_are_no_longer_read_but_its_log_is_followed(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0, 1)
    assert {shard for _, shard in brokers.reading} == {0, 1}
    assert brokers.following == {}
    rival(brokers, 0)
    go_on(process, brokers, turns=6)
    assert {shard for _, shard in brokers.reading} == {1}
    assert brokers.following.keys() == {(LOG.name, 0), (REPORTS.name, 0)}
    brokers.wished = frozenset({1})
    go_on(process, brokers, turns=2)
    assert brokers.following == {}, "not its business any more"
    assert brokers.closed_logs == [0]


def test_a_shard_whose_log_is_unavailable_does_not_stop_its_neighbour(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0, 1)
    brokers.unavailable = {0}
    polls, records = brokers.polls, len(brokers.logs[1].entries)
    brokers.put(COMMANDS.name, 1, put_queue("fast"))
    go_on(process, brokers, turns=20, apart_s=6.0)
    assert brokers.polls == polls + 20
    assert len(brokers.logs[1].entries) > records
    brokers.unavailable = set()
    go_on(process, brokers)
    assert owned(process) == [0, 1]


def missing(brokers: Brokers, shard: int) -> None:
    """The first two commands are deleted, and the reader is sent back to the first."""
    brokers.begins[COMMANDS.name, shard] = 2
    brokers.reading[COMMANDS.name, shard] = 0


def test_an_input_out_of_range_ends_the_process_only_when_it_outlives_the_patience(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0, 1)
    missing(brokers, 0)
    go_on(process, brokers, turns=2, apart_s=MISSING_PATIENCE_US / SECOND / 2)
    assert owned(process) == [0, 1]
    with pytest.raises(OffsetOutOfRange):
        go_on(process, brokers, turns=2, apart_s=MISSING_PATIENCE_US / SECOND / 2)


def test_an_input_out_of_range_that_was_there_again_for_long_begins_its_patience_anew(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0)
    for _ in range(3):
        missing(brokers, 0)
        go_on(process, brokers, turns=2, apart_s=5.0)
        brokers.begins.clear()
        go_on(process, brokers, turns=2, apart_s=MISSING_PATIENCE_US / SECOND)
    assert owned(process) == [0]


def test_inputs_that_another_owner_has_used_and_let_go_of_are_no_fault(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0)
    rival(brokers, 0, put_queue("fast"), put_queue("slow"))
    missing(brokers, 0)
    brokers.inputs[COMMANDS.name, 0] = [b"", b""]
    go_on(process, brokers, turns=4, apart_s=3.0)
    assert owned(process) == [], "it has read on, and leaves it to the other"
    go_on(process, brokers)
    assert owned(process) == [0], "of whom nothing is heard"
    assert brokers.reading[COMMANDS.name, 0] == 2


def test_a_mail_producer_that_failed_for_good_is_replaced(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0, 1)
    home = next(shard for shard in range(SHARDS) if has_default_pool(process, shard))
    brokers.senders[0].fatal = "fenced by the broker"
    brokers.put(REPORTS.name, home, node())
    brokers.put(
        COMMANDS.name, home, SubmitJob(JobTerms(), "a", 50, (), 0, "me", JobSpec("training"))
    )
    go_on(process, brokers)
    first, second = brokers.senders
    assert first.is_closed
    assert any(topic == DISPATCH.name for topic, _ in second.sent)
    assert jobs(process, home) == 1


def has_default_pool(process: EngineProcess, shard: int) -> bool:
    return "default" in process._runners[shard].engine.state.pools


def test_a_shard_that_is_wished_for_again_before_anyone_took_it_was_owned_all_the_time(
    brokers: Brokers, process: EngineProcess
) -> None:
    owning(process, brokers, 0)
    runner = process._runners[0]
    brokers.wished = frozenset()
    go_on(process, brokers)
    owning(process, brokers, 0)
    assert process._runners[0] is runner
    assert runner.engine.epoch == 1
