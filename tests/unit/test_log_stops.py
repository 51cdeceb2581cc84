"""A record that counts and breaks the fold stops every reader, saying where, what, and what to do.

What does not count is passed over by everyone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from infra.follow import ShardFollower
from infra.log import Entry, MemoryPartition
from projections.pipeline import START, Projector
from projections.relay import RelayShard
from schemas.codec import encode, encode_event
from schemas.envelope import Consumed, Decision, EncodedEvent, Input
from schemas.events import Event, JobsForgotten, JobsStarted, NodesLost, TasksPlaced
from schemas.terms import Micros
from stream_processors.domain.counting import GENESIS, Chain, LogStopped, judge
from stream_processors.follower import Follower
from tests.cluster import node
from tests.engine_world import Process, World
from tests.view_shard import OWNER, ViewShard, job


def lived() -> tuple[MemoryPartition, Chain]:
    shard = ViewShard()
    shard.report(node())
    shard.command(job("a"))
    return shard.partition, shard.chain


def following(chain: Chain, *events: EncodedEvent) -> Decision:
    """A decision that counts behind `chain`."""
    at = Micros(chain.at + 1)
    return Decision(1, chain.epoch, OWNER, chain.seq + 1, chain.value, at, (), events)


def saying(*events: Event) -> Callable[[Chain], Decision]:
    return lambda chain: following(chain, *map(encode_event, events))


def consumed(start: int) -> Callable[[Chain], Decision]:
    part = Consumed(Input.COMMANDS, start, start + 1)
    return lambda chain: replace(following(chain), consumed=(part,))


BROKEN: dict[str, tuple[Callable[[Chain], Decision], str]] = {
    "another format": (lambda chain: replace(following(chain), format=2), "newer release"),
    "an unknown event": (lambda chain: following(chain, EncodedEvent(9_999, b"")), "newer release"),
    "a broken event": (
        lambda chain: following(
            chain, EncodedEvent(encode_event(NodesLost([], [])).schema_id, b"")
        ),
        "foldline verify",
    ),
    "an event of an unknown job": (saying(JobsStarted([99], [1])), "foldline verify"),
    "a job forgotten twice": (saying(JobsForgotten([99])), "foldline verify"),
    "a task placed twice": (saying(TasksPlaced([1], [1], [0], [1], [b""])), "foldline verify"),
    "columns of unequal length": (saying(NodesLost([1], [])), "foldline verify"),
    "time that goes back": (lambda chain: replace(following(chain), at=Micros(5)), "verify"),
    "an input used twice": (consumed(0), "foldline verify"),
}
every_break = pytest.mark.parametrize("name", BROKEN)


def broken_log(name: str) -> tuple[list[Entry], int]:
    """A log that ends in a record that counts and cannot be folded, and that record's offset."""
    partition, chain = lived()
    offset = partition.land(encode(BROKEN[name][0](chain)))
    return partition.entries, offset


def assert_says(stopped: LogStopped, name: str, offset: int) -> None:
    text = str(stopped)
    assert text.startswith("shard 0 stops: ")
    assert text.count("stops") == 1
    assert f"offset {offset} " in text
    assert BROKEN[name][1] in text


@every_break
def test_a_fold_stops_with_shard_offset_reason_and_way_out(name: str) -> None:
    entries, offset = broken_log(name)
    follower = ShardFollower(0)
    for entry in entries[:-1]:
        follower.feed(entry)
    with pytest.raises(LogStopped) as stopped:
        follower.feed(entries[-1])
    assert_says(stopped.value, name, offset)


@every_break
def test_views_relay_and_followers_stop_alike(name: str) -> None:
    entries, offset = broken_log(name)
    projector = Projector(0, ShardFollower(0), START)
    relay = RelayShard(0, 0)
    follower = Follower({0: ShardFollower(0)})
    for feed in (
        projector.feed,
        relay.feed,
        lambda entry: follower.feed([(0, entry)]),
    ):
        for entry in entries[:-1]:
            feed(entry)
        with pytest.raises(LogStopped) as stopped:
            feed(entries[-1])
        assert_says(stopped.value, name, offset)


@every_break
def test_an_engine_that_follows_stops_alike(name: str) -> None:
    entries, offset = broken_log(name)
    world = World()
    engine = Process(world, 7)
    with pytest.raises(LogStopped) as stopped:
        engine.runner.follow(entries, engine.now)
    assert_says(stopped.value, name, offset)


@every_break
def test_an_engine_that_reads_to_the_end_to_claim_stops_alike(name: str) -> None:
    entries, offset = broken_log(name)
    world = World(partition=MemoryPartition(entries))
    engine = Process(world, 7)
    with pytest.raises(LogStopped) as stopped:
        engine.settle()
    assert_says(stopped.value, name, offset)


def test_an_offset_that_is_missing_stops_the_reader() -> None:
    partition, _ = lived()
    follower = ShardFollower(0)
    follower.feed(partition.entries[0])
    with pytest.raises(LogStopped, match=r"shard 0 stops: .*offset 2 where 1 was due.*backup"):
        follower.feed(partition.entries[2])


def test_garbage_zombies_and_doubles_that_do_not_count_are_passed_over() -> None:
    partition, chain = lived()
    last = partition.entries[-1].value
    unreadable = EncodedEvent(9_999, b"\xff")
    stale = replace(following(chain, unreadable), epoch=0)
    other = replace(following(chain, unreadable), owner=b"x" * 16)
    ahead = replace(following(chain, unreadable), seq=chain.seq + 2, format=9)
    forked = replace(following(chain, unreadable), prev=bytes(32))
    values = [b"", b"\0", b"\xff" * 100, b"{}", last, *map(encode, (stale, other, ahead, forked))]
    for value in values:
        partition.land(value)
    good = following(replace(chain, next_offset=len(partition.entries)))
    partition.land(encode(good))
    follower = ShardFollower(0)
    found = [follower.feed(entry) for entry in partition.entries]
    assert found[-1] is not None
    assert found[-1].record == good
    assert not any(found[-1 - len(values) : -1])


def test_the_fixtures_records_count() -> None:
    """Else the tests above would prove nothing."""
    partition, chain = lived()
    for make, _ in BROKEN.values():
        record = make(chain)
        if record.format == 1 and not record.consumed and record.at > chain.at:
            offset = len(partition.entries)
            assert judge(chain, record, encode(record), offset)[1].counts
    assert chain != GENESIS
