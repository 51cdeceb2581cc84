"""What the Kafka adapter promises, on a real broker: topics, sending, reading, membership.

Each test has a topic of its own; the catalogue's topics are only created and checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented, not re-exported
    AdminClient,
    NewTopic,
)

from infra import kafka_port, kafka_settings
from infra.kafka import (
    KafkaUnavailable,
    Membership,
    Message,
    OffsetOutOfRange,
    Reader,
    Sender,
    commit_group,
    committed,
    delete_before,
)
from infra.kafka_port import insist
from infra.local.ports import LOOPBACK, free_ports
from infra.local.stack import Addresses
from schemas.ids import partition_of
from schemas.topics import MAX_RECORD_BYTES

PARTITIONS = 3
WITHIN_S = 20.0
Result = tuple[int | None, str | None]


@pytest.fixture
def topic(servers: Addresses) -> str:
    """A topic of the test's own with three partitions."""
    name = f"foldline.test.clients.{uuid4().hex}"
    config = {
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(kafka_settings.MAX_BATCH_BYTES),
    }
    admin = AdminClient({"bootstrap.servers": servers.bootstrap})
    for created in admin.create_topics([NewTopic(name, PARTITIONS, 1, config=config)]).values():
        created.result(WITHIN_S)
    return name


@pytest.fixture
def sender(servers: Addresses, topic: str) -> Iterator[Sender]:
    made = Sender(servers.bootstrap)
    until(lambda: bool(send_all(made, topic, [b"first"], partition=PARTITIONS - 1)[0][1] is None))
    yield made
    made.close()


@pytest.fixture
def reader(servers: Addresses) -> Iterator[Reader]:
    made = Reader(servers.bootstrap)
    yield made
    made.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, "not within the time"


def send_all(sender: Sender, topic: str, values: list[bytes], partition: int = 0) -> list[Result]:
    results: list[Result] = []
    for value in values:
        sender.send(
            topic, value, partition=partition, on_result=lambda *result: results.append(result)
        )
    assert sender.flush(WITHIN_S) == 0
    return results


def read_to(reader: Reader, topic: str, partition: int, end: int) -> list[Message]:
    found: list[Message] = []

    def at_end() -> bool:
        found.extend(reader.poll(0.1))
        return reader.position(topic, partition) >= end

    until(at_end)
    return found


def fails(reader: Reader) -> KafkaUnavailable:
    failures: list[KafkaUnavailable] = []

    def failed() -> bool:
        try:
            reader.poll(0.1)
        except KafkaUnavailable as error:
            failures.append(error)
        return bool(failures)

    until(failed)
    return failures[0]


def test_a_record_arrives_as_it_was_sent_and_its_sender_learns_its_place(
    topic: str, sender: Sender, reader: Reader
) -> None:
    results: list[Result] = []
    sent_at = time.time_ns() // 1000
    sender.send(
        topic,
        b"value",
        key="key",
        headers=[("ce_id", b"1"), ("traceparent", b"00")],
        on_result=lambda *result: results.append(result),
    )
    sender.send(topic, None, key="key", on_result=lambda *result: results.append(result))
    assert sender.flush(WITHIN_S) == 0
    partition = partition_of("key", PARTITIONS)
    assert [error for _, error in results] == [None, None]
    start = results[0][0]
    assert start is not None
    assert results[1][0] == start + 1
    reader.assign({(topic, partition): start})
    value, tombstone = read_to(reader, topic, partition, start + 2)
    headers = [("ce_id", b"1"), ("traceparent", b"00")]
    assert value[:6] == (topic, partition, start, b"key", b"value", headers)
    assert tombstone.value is None
    assert tombstone.headers == []
    assert abs(value.at - sent_at) < 60_000_000


def test_keys_go_where_our_own_murmur2_says(topic: str, sender: Sender, reader: Reader) -> None:
    keys = ["default", "a", "ab", "abc", "abcd", "gpu-pool/7", "\N{SNOWMAN}", "x" * 33]
    for key in keys:
        sender.send(topic, key.encode(), key=key, on_result=lambda *_: None)
    assert sender.flush(WITHIN_S) == 0
    for partition in range(PARTITIONS):
        end = reader.end_offset(topic, partition)
        reader.assign({(topic, partition): 0})
        found = [m.value for m in read_to(reader, topic, partition, end) if m.key is not None]
        here = [key.encode() for key in keys if partition_of(key, PARTITIONS) == partition]
        assert found == here


def test_what_cannot_be_sent_is_told_by_a_later_poll_and_never_within_send(
    topic: str, sender: Sender
) -> None:
    results: list[Result] = []
    for value, partition in ((bytes(MAX_RECORD_BYTES + 1), 0), (b"", PARTITIONS + 4)):
        sender.send(
            topic, value, partition=partition, on_result=lambda *result: results.append(result)
        )
        assert results == []
    sender.flush(WITHIN_S)
    assert [offset for offset, _ in results] == [None, None]
    assert all(error is not None and error.startswith("never sent") for _, error in results)
    biggest = send_all(sender, topic, [bytes(MAX_RECORD_BYTES)])
    assert biggest == [(0, None)]


def test_a_full_buffer_makes_senders_wait_and_loses_no_result(topic: str, sender: Sender) -> None:
    offsets: list[int | None] = []
    sending = False

    def on_result(offset: int | None, error: str | None) -> None:
        assert not sending, "a result within send would find its owner in the middle of something"
        assert error is None
        offsets.append(offset)

    for _ in range(110_000):  # the library's queue takes 100,000
        sending = True
        sender.send(topic, b"x", partition=1, on_result=on_result)
        sending = False
    assert sender.flush(WITHIN_S) == 0
    assert offsets == list(range(110_000))


def test_without_a_broker_every_record_has_an_error_for_a_result() -> None:
    lonely = Sender(f"{LOOPBACK}:{free_ports(1)[0]}", message_timeout_s=0.3)
    results: list[Result] = []
    lonely.send("topic", b"x", partition=0, on_result=lambda *result: results.append(result))

    def answered() -> bool:
        lonely.poll(0.05)
        return bool(results)

    until(answered)
    lonely.send("topic", b"x", partition=0, on_result=lambda *result: results.append(result))
    lonely.close()
    assert [offset for offset, _ in results] == [None, None]
    assert all(error for _, error in results)


def test_a_sender_that_can_do_nothing_any_more_says_so(sender: Sender) -> None:
    assert sender.fatal is None
    sender._on_error(KafkaError(KafkaError._TRANSPORT, "connection lost"))
    assert sender.fatal is None
    sender._on_error(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "lost track", True))
    assert sender.fatal is not None
    assert "lost track" in sender.fatal


def test_a_poll_answers_as_soon_as_anything_is_there(
    topic: str, sender: Sender, reader: Reader
) -> None:
    reader.assign({(topic, 0): 0})
    assert reader.poll(0.1) == []
    send_all(sender, topic, [b"one"])
    started = time.monotonic()
    assert [message.value for message in reader.poll(10.0, 100)] == [b"one"]
    assert time.monotonic() - started < 5


def test_a_poll_gives_at_most_what_was_asked_and_goes_on_from_there(
    topic: str, sender: Sender, reader: Reader
) -> None:
    send_all(sender, topic, [b"%d" % number for number in range(10)])
    reader.assign({(topic, 0): 4})
    first = reader.poll(WITHIN_S, 1)
    assert [message.offset for message in first] == [4]
    assert reader.position(topic, 0) == 5
    rest = read_to(reader, topic, 0, 10)
    assert [message.offset for message in rest] == [5, 6, 7, 8, 9]


def test_after_a_seek_nothing_from_before_comes_through(
    topic: str, sender: Sender, reader: Reader
) -> None:
    send_all(sender, topic, [b"%d" % number for number in range(500)])
    send_all(sender, topic, [b"other"], partition=1)
    reader.assign({(topic, 0): 0, (topic, 1): 0})
    for start in (0, 499, 3, 250, 249, 251, 0, 498):
        reader.seek(topic, 0, start)
        found: list[int] = []
        until(lambda found=found: found or bool(found.extend(offsets_of(reader, 0))))
        assert found[0] == start
        assert found == list(range(start, start + len(found)))
    reader.seek(topic, 2, 0)
    assert [message.value for message in read_to(reader, topic, 2, 1)] == [b"first"]


def offsets_of(reader: Reader, partition: int) -> list[int]:
    return [m.offset for m in reader.poll(0.1, 7) if m.partition == partition]


def test_a_new_assignment_forgets_the_old_one(topic: str, sender: Sender, reader: Reader) -> None:
    send_all(sender, topic, [b"zero"] * 50, partition=0)
    send_all(sender, topic, [b"one"] * 50, partition=1)
    reader.assign({(topic, 0): 0})
    assert reader.poll(WITHIN_S, 1)[0].value == b"zero"
    reader.assign({(topic, 1): 10})
    found = read_to(reader, topic, 1, 50)
    assert {message.value for message in found} == {b"one"}
    assert len(found) == 40


def test_an_offset_that_is_not_there_is_an_error_and_never_a_reset(
    servers: Addresses, topic: str, sender: Sender, reader: Reader
) -> None:
    send_all(sender, topic, [b"x"] * 20)
    delete_before(servers.bootstrap, topic, 0, 15)
    assert reader.begin_offset(topic, 0) == 15
    for gone in (3, 21):
        reader.assign({(topic, 0): gone})
        failure = fails(reader)
        assert isinstance(failure, OffsetOutOfRange)
        assert f"{topic}[0] from {gone}" in str(failure)
    reader.seek(topic, 0, 15)
    assert len(read_to(reader, topic, 0, 20)) == 5


def test_a_topic_that_is_not_there_is_an_operating_error(reader: Reader) -> None:
    with pytest.raises(KafkaUnavailable, match="nowhere"):
        reader.end_offset("foldline.test.nowhere", 0)
    reader.assign({("foldline.test.nowhere", 0): 0})
    assert "nowhere" in str(fails(reader))


def test_a_position_reaches_the_end_over_records_that_were_taken_back(
    servers: Addresses, topic: str, sender: Sender, reader: Reader
) -> None:
    send_all(sender, topic, [b"kept"])
    doubtful = Producer({"bootstrap.servers": servers.bootstrap, "transactional.id": topic})
    doubtful.init_transactions(WITHIN_S)
    doubtful.begin_transaction()
    doubtful.produce(topic, b"taken back", partition=0)
    doubtful.flush(WITHIN_S)
    doubtful.abort_transaction(WITHIN_S)
    reader.assign({(topic, 0): 0})
    until(lambda: reader.end_offset(topic, 0) > 2)
    end = reader.end_offset(topic, 0)
    assert [message.value for message in read_to(reader, topic, 0, end)] == [b"kept"]


def test_a_question_is_asked_again_only_while_its_error_will_pass() -> None:
    errors: list[Exception] = [TimeoutError("no leader yet"), TimeoutError("no leader yet")]

    def question() -> str:
        if errors:
            raise errors.pop()
        return "answer"

    def will_pass(error: Exception) -> bool:
        return isinstance(error, TimeoutError)

    assert insist(question, will_pass, WITHIN_S) == "answer"
    errors.append(ValueError("never"))
    with pytest.raises(ValueError, match="never"):
        insist(question, will_pass, WITHIN_S)
    errors.extend([TimeoutError("no leader yet")] * 1000)
    with pytest.raises(TimeoutError):
        insist(question, will_pass, 0.05)


def test_an_offset_is_found_by_the_moment_it_was_appended(
    topic: str, sender: Sender, reader: Reader
) -> None:
    send_all(sender, topic, [b"early"] * 3)
    reader.assign({(topic, 0): 0})
    last = read_to(reader, topic, 0, 3)[-1].at
    until(lambda: time.time_ns() // 1000 > last + 2_000)
    send_all(sender, topic, [b"late"])
    assert reader.offset_at(topic, 0, 0) == 0
    assert reader.offset_at(topic, 0, last + 1) == 3
    assert reader.offset_at(topic, 0, last + 3_600_000_000) == 4
    assert reader.begin_offset(topic, 0) == 0


def test_a_record_that_comes_while_a_moment_is_looked_up_is_not_passed_over(
    topic: str, sender: Sender, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = kafka_port.insist

    def ask_and_let_one_arrive(*question: Any) -> Any:
        answer = ask(*question)
        send_all(sender, topic, [b"came meanwhile"])
        return answer

    end = reader.end_offset(topic, 0)
    monkeypatch.setattr(kafka_port, "insist", ask_and_let_one_arrive)
    assert reader.offset_at(topic, 0, (time.time_ns() // 1000) + 60_000_000) == end


def test_members_share_partitions_and_one_that_leaves_is_replaced(
    servers: Addresses, topic: str
) -> None:
    group = f"foldline.test.{uuid4().hex}"
    first = Membership(servers.bootstrap, group, topic)
    seen: list[frozenset[int]] = []

    def first_has(count: int) -> bool:
        assigned, changed = first.poll(0.05)
        if changed:
            seen.append(assigned)
        return len(assigned) == count

    until(lambda: first_has(PARTITIONS))
    assert seen[-1] == frozenset(range(PARTITIONS))
    assert first.poll(0.0) == (seen[-1], False)
    second = Membership(servers.bootstrap, group, topic)
    until(lambda: len(second.poll(0.05)[0]) + len(first.poll(0.05)[0]) == PARTITIONS > 0)
    until(lambda: not first_has(PARTITIONS) and bool(second.poll(0.05)[0]))
    assert not first.poll(0.0)[0] & second.poll(0.0)[0]
    second.close()
    until(lambda: first_has(PARTITIONS))
    first.commit({0: 7})
    until(lambda: committed(servers.bootstrap, group, [(topic, 0)]) == {(topic, 0): 7})
    first.close()


def test_a_plain_reader_can_keep_its_position_under_a_group(servers: Addresses, topic: str) -> None:
    group = f"foldline.test.{uuid4().hex}"
    places = [(topic, number) for number in range(PARTITIONS)]
    assert committed(servers.bootstrap, group, places) == {}
    commit_group(servers.bootstrap, group, {places[0]: 12, places[2]: 0})
    commit_group(servers.bootstrap, group, {places[0]: 13})
    assert committed(servers.bootstrap, group, places) == {places[0]: 13, places[2]: 0}
