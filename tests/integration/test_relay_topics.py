"""The relay on real public topics: what others read, and what a kill at any moment leaves."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic
from uuid import uuid4

import pytest

from infra.kafka import Message, Reader, ensure_topics, shard_count
from infra.kafka_port import KafkaUnavailable, Place
from infra.local.stack import Addresses
from projections.logs import MemoryLogs
from projections.relay import KafkaTopics, Relay, RelayShard
from projections.relay_facts import PublicRecord
from schemas.codec import decode
from schemas.headers import header
from schemas.ids import partition_of
from schemas.public import DeadLetter, JobEvent, JobRetry
from schemas.topics import DEAD_LETTERS, JOB_EVENTS, JOB_RETRIES
from tests.view_shard import lived

ROOT = Path(__file__).parents[2]
CLASSES = {
    JOB_EVENTS.name: JobEvent,
    JOB_RETRIES.name: JobRetry,
    DEAD_LETTERS.name: DeadLetter,
}
PLACES = [
    (topic.name, partition)
    for topic in (JOB_EVENTS, JOB_RETRIES, DEAD_LETTERS)
    for partition in range(topic.partitions)
]
READ_S = 30.0
STEPS = 150

PROCESS = """
import sys
from projections import relay
from projections.logs import MemoryLogs
from tests.view_shard import lived

relay.TURN_RECORDS, relay.COMMIT_EVERY_S = 5, 0.0
bootstrap, group, seed, steps = sys.argv[1:]
partition = lived(int(seed), int(steps)).shard.partition
topics = relay.KafkaTopics(bootstrap, group)
one = relay.Relay(topics, MemoryLogs({0: partition}), lambda: False)
one.open()
said = dict(topics.published([0])).get(0, 0)
while True:
    one.turn()
    now = dict(topics.published([0])).get(0, 0)
    if now > said:
        print("said", now, flush=True)
    said = now
"""


@dataclass
class Public:
    """The public topics from where they ended when the test began."""

    bootstrap: str
    reader: Reader
    group: str = field(default_factory=lambda: f"relay-test-{uuid4().hex[:8]}")
    messages: list[Message] = field(default_factory=list)

    def read(self, due: list[PublicRecord]) -> None:
        """Read until every id that is due was seen."""
        missing = {event_id(record) for record in due}
        deadline = monotonic() + READ_S
        while missing:
            assert monotonic() < deadline, f"{len(missing)} facts never came"
            for message in self.reader.poll(0.2):
                self.messages.append(message)
                missing.discard(header(message.headers, "ce_id"))


@pytest.fixture
def public(servers: Addresses) -> Iterator[Public]:
    try:
        shard_count(servers.bootstrap)
    except KafkaUnavailable:
        ensure_topics(servers.bootstrap, 2)
    reader = Reader(servers.bootstrap)
    reader.assign(ends(reader))
    yield Public(servers.bootstrap, reader)
    reader.close()


def ends(reader: Reader) -> dict[Place, int]:
    """Where each public topic ends now; new ones get their leaders within moments."""
    deadline = monotonic() + READ_S
    while True:
        try:
            return {place: reader.end_offset(*place) for place in PLACES}
        except KafkaUnavailable:
            assert monotonic() < deadline, "the topics have no leaders"


def event_id(record: PublicRecord) -> str:
    return header(record.headers, "ce_id")


def is_said(words: list[str]) -> bool:
    return words[:1] == ["said"]


def due_of(seed: int) -> list[PublicRecord]:
    relay = RelayShard(0, 0)
    partition = lived(seed, STEPS).shard.partition
    return [record for entry in partition.entries for record in relay.feed(entry)]


def test_every_fact_is_on_its_topic_by_its_job_in_the_order_of_its_life(public: Public) -> None:
    partition, due = lived(11, STEPS).shard.partition, due_of(11)
    topics = KafkaTopics(public.bootstrap, public.group)
    relay = Relay(topics, MemoryLogs({0: partition}), lambda: False)
    relay.open()
    while relay.turn():
        pass
    relay.settle()
    assert topics.published([0]) == {0: len(partition.entries)}
    topics.close()
    public.read(due)
    by_id = {event_id(record): record for record in due}
    assert len(public.messages) == len(due)
    orders: dict[tuple[str, bytes | None], list[str]] = defaultdict(list)
    for message in public.messages:
        record = by_id[header(message.headers, "ce_id")]
        assert message.value == record.value
        assert (message.topic, message.headers) == (record.topic, record.headers)
        assert message.key == record.key.encode()
        assert isinstance(decode(message.value), CLASSES[message.topic])
        orders[message.topic, message.key].append(header(message.headers, "ce_id"))
        assert message.partition == partition_of(record.key, JOB_EVENTS.partitions)
    for (topic, key), seen in orders.items():
        mine = [one for one in due if (one.topic, one.key.encode()) == (topic, key)]
        assert seen == [event_id(record) for record in mine]
    assert {message.topic for message in public.messages} == set(CLASSES)


def test_a_relay_killed_again_and_again_leaves_nothing_out(public: Public) -> None:
    seed, due = 12, due_of(12)
    argv = [sys.executable, "-c", PROCESS, public.bootstrap, public.group, str(seed), str(STEPS)]
    said = 0
    for turns in (1, 3, 2):
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = (line.split() for line in process.stdout)
        turned = [int(line[1]) for line in islice(filter(is_said, lines), turns)]
        process.kill()
        process.wait(READ_S)
        process.stdout.close()
        assert turned[-1] > said, "a restarted relay goes on where it was"
        said = turned[-1]
    assert said < len(lived(seed, STEPS).shard.partition.entries)
    topics = KafkaTopics(public.bootstrap, public.group)
    relay = Relay(topics, MemoryLogs({0: lived(seed, STEPS).shard.partition}), lambda: False)
    relay.open()
    while relay.turn():
        pass
    relay.settle()
    topics.close()
    public.read(due)
    values = {event_id(record): (record.value, record.headers) for record in due}
    firsts: dict[bytes | None, list[str]] = defaultdict(list)
    for message in public.messages:
        told = header(message.headers, "ce_id")
        assert (message.value, message.headers) == values[told], "a repeat has the same bytes"
        if message.topic == JOB_EVENTS.name and told not in firsts[message.key]:
            firsts[message.key].append(told)
    for key, seen in firsts.items():
        mine = [one for one in due if one.topic == JOB_EVENTS.name and one.key.encode() == key]
        assert seen == [event_id(record) for record in mine]
