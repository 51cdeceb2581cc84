"""The relay's facts: what other systems read follows from the log, in order and byte for byte."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from infra.kafka_port import KafkaUnavailable
from infra.log import MemoryLog, MemoryPartition
from infra.state_codec import Snapshot, decode_snapshot, encode_snapshot
from projections.logs import MemoryLogs
from projections.pipeline import ViewDiverged
from projections.relay import Relay, RelayShard, run_relay
from projections.relay_facts import JobFacts, PublicRecord, is_tellable, to_record
from schemas.codec import decode, encode, schema_id_of
from schemas.headers import HEADER_NAMES, header
from schemas.ids import format_job_id
from schemas.public import JobEvent, JobRetry
from schemas.terms import (
    ENDED_STATES,
    FailureClass,
    JobState,
    TaskState,
)
from schemas.topics import JOB_EVENTS
from tests.cluster import cancel, gang, node, uid
from tests.told_facts import Told
from tests.view_shard import Life, ViewShard, job

NEXT = {
    None: {JobState.QUEUED},
    JobState.QUEUED: {JobState.SCHEDULED, JobState.CANCELLED},
    JobState.SCHEDULED: {JobState.RUNNING, JobState.RETRYING} | ENDED_STATES,
    JobState.RUNNING: {JobState.RETRYING} | ENDED_STATES,
    JobState.RETRYING: {JobState.QUEUED, JobState.CANCELLED},
}
"""How the states that are told may follow one another."""


@pytest.fixture
def told() -> Told:
    return Told(ViewShard())


def test_a_life_is_told_from_queued_to_succeeded(told: Told) -> None:
    shard = told.shard
    shard.report(node())
    shard.command(job("a", job_type="inference"))
    shard.run("a")
    told.listen()
    assert told.states("a") == [
        JobState.QUEUED,
        JobState.SCHEDULED,
        JobState.RUNNING,
        JobState.SUCCEEDED,
    ]
    queued, scheduled, running, succeeded = told.events("a")
    assert (queued.attempt, queued.job_type, queued.cluster) == (0, "inference", "default")
    assert (scheduled.attempt, scheduled.nodes) == (1, ("n1",))
    assert (running.nodes, succeeded.failure) == ((), FailureClass.NONE)
    assert succeeded.at == shard.now


def test_what_happens_in_one_record_is_told_in_order_with_running_numbers(told: Told) -> None:
    shard = told.shard
    shard.report(node())
    shard.command(job("a", backoff_s=1))
    shard.run("a", FailureClass.INFRASTRUCTURE)
    told.listen()
    shard.wait(10)  # the backoff is over: queued and placed again at once
    new = told.listen()
    states = [fact.message.state for fact in new if isinstance(fact.message, JobEvent)]
    attempts = [fact.message.attempt for fact in new if isinstance(fact.message, JobEvent)]
    assert (states, attempts) == ([JobState.QUEUED, JobState.SCHEDULED], [1, 2])
    offset = shard.chain.next_offset - 1
    assert [fact.id for fact in new] == [f"0:{offset}:0", f"0:{offset}:1"]


def test_the_names_of_lost_nodes_are_told(told: Told) -> None:
    shard = told.shard
    shard.report(node("n1", cpu_milli=1000), node("n2", cpu_milli=1000))
    shard.command(replace(job("a"), terms=gang("a", 2).terms))
    shard.says("a", TaskState.READY, 0)
    shard.lose("n1")
    told.listen()
    shard.says("a", TaskState.ENDED, 1, FailureClass.USER_ERROR)
    told.listen()
    (retry,) = [fact.message for fact in told.facts if isinstance(fact.message, JobRetry)]
    assert (retry.nodes, retry.failure) == (("n1", "n2"), FailureClass.NODE_LOST)
    assert retry.retries_left == 3, "a lost node costs no retry"


def test_a_cancel_names_the_command_that_asked_for_it(told: Told) -> None:
    shard = told.shard
    shard.command(job("a"))
    shard.command(cancel("a"))
    told.listen()
    submitted, cancelled = told.facts
    assert submitted.causation == "foldline.jobs.commands.v1:0:0"
    assert cancelled.causation == "foldline.jobs.commands.v1:0:1"
    assert isinstance(cancelled.message, JobEvent)
    assert cancelled.message.message == "no longer needed"


def test_a_record_on_the_wire_is_a_cloud_event_that_decodes(told: Told) -> None:
    shard = told.shard
    shard.command(job("a"))
    (fact,) = told.listen()
    record = to_record(fact)
    assert decode(record.value) == fact.message
    assert (record.topic, record.key) == (JOB_EVENTS.name, uid("a"))
    names = [name for name, _ in record.headers]
    assert set(names) <= set(HEADER_NAMES)
    expected = {
        "ce_specversion": "1.0",
        "ce_id": "0:1:0",
        "ce_source": "/foldline/shards/0",
        "ce_type": "foldline.job.queued",
        "ce_time": "1970-01-01T00:16:40.000000Z",
        "ce_subject": uid("a"),
        "ce_dataschema": f"/schemas/ids/{schema_id_of(JobEvent)}",
        "content-type": "application/avro",
    }
    assert {name: header(record.headers, name) for name in expected} == expected


@pytest.mark.parametrize("seed", range(4))
def test_random_lives_are_told_whole_and_in_order(seed: int) -> None:
    life = Life(seed)
    told = Told(life.shard)
    for _ in range(300):
        life.step()
        told.listen()
    by_job: dict[str, list[JobEvent]] = defaultdict(list)
    for fact in told.facts:
        if isinstance(fact.message, JobEvent):
            by_job[fact.key].append(fact.message)
    for events in by_job.values():
        states = [None, *(event.state for event in events)]
        assert all(after in NEXT[before] for before, after in pairwise(states))
        assert [event.attempt for event in events] == sorted(event.attempt for event in events)
    for some in life.shard.state.jobs.values():
        last = by_job[format_job_id(some.job_id)][-1]
        assert (last.state, last.attempt, last.at) == (some.state, some.attempt, some.changed_at)
    ids = [fact.id for fact in told.facts]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("seed", range(4))
def test_a_relay_from_any_tellable_state_says_the_same_bytes(seed: int) -> None:
    life = Life(seed)
    told = Told(life.shard)
    resumed: list[tuple[int, JobFacts]] = []
    for _ in range(200):
        life.step()
        records = life.shard.records[:]
        told.listen()
        for start, machine in resumed:
            machine._state = life.shard.state
            for record in records:
                expected = [
                    fact for fact in told.facts if fact.id.split(":")[1] == str(record.offset)
                ]
                said = machine.take(record)
                assert said == expected
                assert list(map(to_record, said)) == list(map(to_record, expected))
                assert record.offset >= start
        if len(resumed) < 3 and life.chance.random() < 0.05 and is_tellable(life.shard.state):
            resumed.append((life.shard.chain.next_offset, JobFacts(deepcopy(life.shard.state))))
    assert resumed


# The loop around it, on a log in memory.


class MemoryTopics:
    """Public topics in memory, on which every call can fail before or after it took place."""

    def __init__(self, chance: Random | None = None) -> None:
        self.records: list[PublicRecord] = []
        self.offsets: dict[int, int] = {}
        self._chance = chance

    def _fails(self) -> bool:
        return self._chance is not None and self._chance.random() < 0.2

    def published(self, shards: Sequence[int]) -> Mapping[int, int]:
        if self._fails():
            raise KafkaUnavailable("away")
        return {shard: self.offsets[shard] for shard in shards if shard in self.offsets}

    def publish(self, records: Sequence[PublicRecord]) -> None:
        for record in records:
            if self._fails():
                raise KafkaUnavailable("away in the middle")
            self.records.append(record)
        if self._fails():
            raise KafkaUnavailable("away after the last")

    def move(self, offsets: Mapping[int, int]) -> None:
        if self._fails():
            raise KafkaUnavailable("away")
        assert all(offset >= self.offsets.get(shard, 0) for shard, offset in offsets.items())
        self.offsets.update(offsets)


def logged(seed: int, steps: int = 120) -> tuple[MemoryPartition, list[PublicRecord]]:
    """A log with a life in it, and what is to be said of it. Its chain is that of its bytes."""
    life = Life(seed)
    for _ in range(steps):
        life.step()
    relay = RelayShard(0, 0)
    partition = life.shard.partition
    return partition, [record for entry in partition.entries for record in relay.feed(entry)]


def ids(records: list[PublicRecord]) -> list[str]:
    return [header(record.headers, "ce_id") for record in records]


def first_of_each(records: list[PublicRecord]) -> list[PublicRecord]:
    found: dict[str, PublicRecord] = {}
    for record in records:
        found.setdefault(header(record.headers, "ce_id"), record)
    return list(found.values())


def test_a_restarted_relay_goes_on_without_gaps_or_repeats() -> None:
    partition, due = logged(1)
    topics = MemoryTopics()
    cut = len(partition.entries) // 2
    half = MemoryPartition(now=partition.now)
    half.entries = partition.entries[:cut]
    for known in (half, partition):
        relay = Relay(topics, MemoryLogs({0: known}), lambda: False)
        relay.open()
        relay.turn()
        relay.settle()
    assert ids(topics.records) == ids(due)
    assert topics.records == due


@pytest.mark.parametrize("seed", range(4))
def test_whatever_fails_nothing_is_left_out_and_repeats_are_identical(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.relay.sleep", lambda _: None)
    monkeypatch.setattr("projections.relay.TURN_RECORDS", 7)
    partition, due = logged(seed)
    chance = Random(seed)
    topics = MemoryTopics(chance)
    relay = Relay(topics, MemoryLogs({0: partition}), lambda: False)
    for _ in range(20):  # killed again and again
        relay = Relay(topics, MemoryLogs({0: partition}), lambda: False)
        relay.open()
        for _ in range(chance.randrange(8)):
            relay.turn()
        if chance.random() < 0.5:
            relay.settle()
    while topics.offsets.get(0, 0) < len(partition.entries):
        relay.turn()
        relay.settle()
    by_id = {header(record.headers, "ce_id"): record for record in due}
    assert all(record == by_id[header(record.headers, "ce_id")] for record in topics.records)
    assert ids(first_of_each(topics.records)) == ids(due)


def test_a_snapshot_saves_folding_and_changes_nothing() -> None:
    partition, due = logged(3)
    follower = RelayShard(0, 0)._follower
    snapshot: Snapshot | None = None
    said = len(partition.entries) // 2
    for entry in partition.entries[:said]:
        record = follower.feed(entry)
        if record is not None and record.events and is_tellable(follower.state):
            taken = Snapshot(entry.offset, follower.chain, follower.state)
            snapshot = decode_snapshot(encode_snapshot(taken))
    assert snapshot is not None
    topics = MemoryTopics()
    topics.offsets[0] = said
    asked: list[tuple[int, int | None]] = []

    def find(shard: int, before: int | None) -> Snapshot | None:
        asked.append((shard, before))
        return snapshot

    relay = Relay(topics, MemoryLogs({0: partition}), lambda: False, find)
    relay.open()
    relay.turn()
    assert asked == [(0, said)]
    assert topics.records == [
        record for record in due if int(header(record.headers, "ce_id").split(":")[1]) >= said
    ]


def test_a_log_shorter_than_what_was_said_of_it_stops_the_relay() -> None:
    partition, _ = logged(4, steps=5)
    topics = MemoryTopics()
    topics.offsets[0] = len(partition.entries) + 1
    with pytest.raises(ViewDiverged):
        Relay(topics, MemoryLogs({0: partition}), lambda: False).open()


def test_a_relay_that_is_told_to_stop_while_kafka_is_away_ends_quietly() -> None:
    partition, _ = logged(4, steps=5)

    class Away(MemoryTopics):
        def publish(self, records: Sequence[PublicRecord]) -> None:
            raise KafkaUnavailable(f"away with {len(records)} records")

    stops = iter([False, True, True, True])
    topics = Away()
    run_relay(topics, MemoryLogs({0: partition}), lambda: next(stops))
    assert topics.offsets == {}
    relay = Relay(topics, MemoryLogs({0: partition}), lambda: False, retry_for_s=0)
    relay.open()
    with pytest.raises(KafkaUnavailable):
        relay.turn()


def test_no_word_of_owners_or_epochs_leaves_the_house() -> None:
    partition, due = logged(5)
    log = MemoryLog(partition)
    assert log.end() == len(partition.entries)
    zombie = decode(partition.entries[-1].value)
    stale = replace(zombie, owner=b"z" * 16, seq=zombie.seq + 1)
    log.append(encode(stale), 1)
    topics = MemoryTopics()
    relay = Relay(topics, MemoryLogs({0: partition}), lambda: False)
    relay.open()
    relay.turn()
    assert topics.records == due
    assert not any(name.startswith("foldline_") for record in due for name, _ in record.headers)
