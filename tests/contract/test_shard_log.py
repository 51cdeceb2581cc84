"""What every shard log must do, on memory and Kafka alike.

Kafka tests use the broker of the `servers` fixture, each a topic of its own. What owners make of a
log is in `test_log_protocol.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.kafka_log import KafkaLog
from infra.log import Entry, LogUnavailable, OffsetOutOfRange, Outcome, RecordTooLarge
from schemas.topics import MAX_RECORD_BYTES
from tests.kafka_proxy import KafkaProxy
from tests.shard_players import (
    TOKENS,
    KafkaTopic,
    LogCase,
    Servers,
    append,
    log_case,
    now,
    read_all,
    until,
)


@pytest.fixture(params=["memory", "kafka"])
def case(request: pytest.FixtureRequest) -> Iterator[LogCase]:
    with log_case(request) as case:
        yield case


def test_appends_of_all_handles_get_dense_offsets_and_read_back_unchanged(case: LogCase) -> None:
    first, second = case.open(), case.open()
    assert append(first, b"one", b"two") == [0, 1]
    assert append(second, b"three") == [2]
    assert append(first, bytes(range(256)) * 100) == [3]
    entries = read_all(second)
    assert [entry.offset for entry in entries] == [0, 1, 2, 3]
    assert [entry.value for entry in entries[:3]] == [b"one", b"two", b"three"]
    assert entries[3].value == bytes(range(256)) * 100


def test_a_read_at_the_end_finds_nothing_and_one_past_it_is_an_error(case: LogCase) -> None:
    log = case.open()
    assert log.end() == 0
    assert log.read(0, 10) == []
    append(case.open(), b"one")
    assert log.end() == 1
    assert log.read(1, 10) == []
    with pytest.raises(OffsetOutOfRange):
        log.read(2, 10)


def test_a_read_gives_no_more_than_asked_and_can_go_back(case: LogCase) -> None:
    log = case.open()
    append(log, b"one", b"two", b"three")
    for start in (0, 1, 0):
        found: list[Entry] = []
        until(lambda found=found: bool(found), lambda s=start, f=found: f.extend(log.read(s, 1)))
        assert [entry.offset for entry in found] == [start]


def test_a_reader_that_was_at_the_end_finds_what_came_later(case: LogCase) -> None:
    log, other = case.open(), case.open()
    append(other, b"one")
    assert len(read_all(log)) == 1
    assert log.read(1, 10) == []
    append(other, b"two")
    found: list[Entry] = []
    until(lambda: bool(found), lambda: found.extend(log.read(1, 10)))
    assert found[0].value == b"two"


def test_a_record_of_the_limit_is_taken_and_a_larger_one_is_not(case: LogCase) -> None:
    log = case.open()
    with pytest.raises(RecordTooLarge):
        log.append(bytes(MAX_RECORD_BYTES + 1), 1)
    assert append(log, bytes(MAX_RECORD_BYTES)) == [0]


def test_the_append_time_is_the_brokers_and_near_ours(case: LogCase) -> None:
    log = case.open()
    append(log, b"one")
    (entry,) = read_all(log)
    assert abs(entry.at - now().wall_us) < 60_000_000


def test_without_a_broker_a_send_is_in_doubt(request: pytest.FixtureRequest) -> None:
    servers: Servers = request.getfixturevalue("servers")
    outcomes: list[Outcome] = []
    with KafkaTopic(servers.bootstrap) as topic:
        proxy = KafkaProxy(servers.bootstrap)
        log = topic.open(0, proxy.bootstrap, 1.0)
        append(log, b"one")
        proxy.close()
        log.append(b"two", next(TOKENS))
        until(lambda: bool(outcomes), lambda: outcomes.extend(log.poll(0.01)))
    assert outcomes[0].offset is None
    assert outcomes[0].error is not None


def test_a_log_that_is_not_there_is_unavailable(request: pytest.FixtureRequest) -> None:
    servers: Servers = request.getfixturevalue("servers")
    log = KafkaLog(servers.bootstrap, 0, topic="foldline.test.log.missing")
    with pytest.raises(LogUnavailable, match="missing"):
        log.end()
    log.close()
