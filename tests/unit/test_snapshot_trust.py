"""Snapshots of a living state, and which of them are trusted: anything amiss, and the log is folded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from zlib import compress

import pytest
from structlog.testing import capture_logs

from infra.follow import ShardFollower
from infra.log import MemoryLog, MemoryPartition
from infra.snapshots import CHUNK_BYTES, MemoryShelf, SnapshotStore
from infra.state_codec import (
    Snapshot,
    SnapshotUnreadable,
    decode_snapshot,
    encode_snapshot,
    manifest_of,
)
from stream_processors import snapshot_saving
from stream_processors.domain.fingerprint import STATE_VERSION, fingerprint
from stream_processors.engine import SaveSnapshot
from stream_processors.snapshot_loading import load_snapshot
from stream_processors.snapshot_saving import KafkaSnapshots, collect, encode_apart
from tests.cluster import gang, node, submission
from tests.engine_world import Process, World


@dataclass
class Saved:
    """A log, and snapshots at two of its records, older first."""

    partition: MemoryPartition
    shelf: MemoryShelf = field(default_factory=MemoryShelf)
    snapshots: list[Snapshot] = field(default_factory=list)

    def keep(self, snapshot: Snapshot, data: bytes | None = None) -> None:
        bytes_kept = encode_snapshot(snapshot) if data is None else data
        SnapshotStore(self.shelf).save(manifest_of(snapshot, bytes_kept), bytes_kept)

    def load(self, max_seq: int | None = None) -> Snapshot | None:
        return load_snapshot(SnapshotStore(self.shelf), MemoryLog(self.partition), 0, max_seq)


def history() -> World:
    world = World()
    process = Process(world, 1)
    process.settle()
    world.reports.append(node())
    for number in range(8):
        world.commands.append(submission(f"job{number}", cpu_milli=3000))
        process.settle(4)
    world.commands.append(gang("gang", 2))
    process.settle()
    return world


def snapshot_at(world: World, stop: int) -> Snapshot:
    """Of the fold below this offset, which must follow a decision."""
    follower = ShardFollower(0)
    for entry in world.partition.entries[:stop]:
        follower.feed(entry)
    return Snapshot(stop - 1, follower.chain, follower.state)


@pytest.fixture
def saved() -> Saved:
    world = history()
    end = len(world.partition.entries)
    made = Saved(world.partition)
    for stop in (end - 3, end):
        made.snapshots.append(snapshot_at(world, stop))
        made.keep(made.snapshots[-1])
    return made


def warnings_of(load: Callable[[], Snapshot | None]) -> tuple[Snapshot | None, list[str]]:
    with capture_logs() as logs:
        found = load()
    return found, [line["event"] for line in logs if line["log_level"] == "warning"]


def seq(snapshot: Snapshot | None) -> int | None:
    return None if snapshot is None else snapshot.chain.seq


def test_the_newest_snapshot_is_the_state_that_it_was_taken_of(saved: Saved) -> None:
    found, told = warnings_of(saved.load)
    assert found is not None
    assert fingerprint(found.state) == fingerprint(saved.snapshots[1].state)
    assert (found.chain, found.offset) == (saved.snapshots[1].chain, saved.snapshots[1].offset)
    assert told == []


def test_equal_terms_are_one_object_again(saved: Saved) -> None:
    found = saved.load()
    assert found is not None
    jobs = [job for job in found.state.jobs.values() if job.terms.cpu_milli == 3000]
    assert len(jobs) == 8
    assert len({id(job.terms) for job in jobs}) == 1
    assert len({id(job.tasks) for job in jobs}) == 8, "what changes is each job's own"


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:40] + b"x" * 40])
def test_a_snapshot_that_does_not_decode_is_passed_over_for_an_older_one(
    saved: Saved, damage: Callable[[bytes], bytes]
) -> None:
    newest = saved.snapshots[1]
    saved.keep(newest, damage(encode_snapshot(newest)))
    found, told = warnings_of(saved.load)
    assert seq(found) == saved.snapshots[0].chain.seq
    assert told == ["snapshot_unreadable"]


def test_a_snapshot_of_which_a_chunk_is_torn_is_passed_over_for_an_older_one(saved: Saved) -> None:
    newest = saved.snapshots[1].chain.seq
    saved.shelf.append(0, {f"0:{newest}:0": b"torn"})
    found, told = warnings_of(saved.load)
    assert seq(found) == saved.snapshots[0].chain.seq
    assert "snapshot ignored" in told


def test_a_snapshot_of_another_version_is_passed_over_with_a_warning(saved: Saved) -> None:
    newest = saved.snapshots[1]
    data = encode_snapshot(newest)
    other = replace(manifest_of(newest, data), state_version=STATE_VERSION + 1)
    SnapshotStore(saved.shelf).save(other, data)
    found, told = warnings_of(saved.load)
    assert seq(found) == saved.snapshots[0].chain.seq
    assert told == ["snapshot ignored"]


def test_a_snapshot_that_does_not_stand_in_the_log_is_passed_over(saved: Saved) -> None:
    newest = saved.snapshots[1]
    elsewhere = replace(newest, chain=replace(newest.chain, value=sha256(b"other").digest()))
    saved.keep(elsewhere)
    found, told = warnings_of(saved.load)
    assert seq(found) == saved.snapshots[0].chain.seq
    assert told == ["snapshot_not_in_the_log"]


def test_a_snapshot_from_beyond_the_end_of_the_log_is_passed_over(saved: Saved) -> None:
    del saved.partition.entries[saved.snapshots[0].offset + 1 :]
    found, told = warnings_of(saved.load)
    assert seq(found) == saved.snapshots[0].chain.seq
    assert told == ["snapshot_not_in_the_log"]


def test_where_no_snapshot_can_be_trusted_there_is_none(saved: Saved) -> None:
    for snapshot in saved.snapshots:
        saved.keep(snapshot, b"nothing of the kind")
    found, told = warnings_of(saved.load)
    assert found is None
    assert told == ["snapshot_unreadable"] * 2


def test_a_snapshot_of_the_past_is_found_when_the_newest_is_too_new(saved: Saved) -> None:
    older = saved.snapshots[0].chain.seq
    assert seq(saved.load(older)) == older
    assert saved.load(older - 1) is None


@pytest.mark.parametrize("data", [b"", b"\x00", b"x" * 99, compress(b"\x94\x01\x02\x03\x04")])
def test_foreign_bytes_are_no_snapshot(data: bytes) -> None:
    with pytest.raises(SnapshotUnreadable):
        decode_snapshot(data)


def test_a_child_encodes_the_state_of_the_moment_it_was_made(saved: Saved) -> None:
    snapshot = saved.snapshots[1]
    before = fingerprint(snapshot.state)
    pid, pipe = encode_apart(snapshot)
    snapshot.state.jobs.clear()
    assert fingerprint(decode_snapshot(collect(pid, pipe)).state) == before


def test_a_child_that_dies_is_told_and_the_next_snapshot_is_taken(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = MemoryShelf()
    snapshots = KafkaSnapshots(SnapshotStore(shelf))
    effect = SaveSnapshot(saved.snapshots[1])

    def fails(_snapshot: Snapshot) -> bytes:
        raise MemoryError("no room for a snapshot")

    with capture_logs() as logs:
        monkeypatch.setattr(snapshot_saving, "encode_snapshot", fails)
        snapshots.save(effect)
        snapshots.close()
        monkeypatch.undo()
    assert [line["event"] for line in logs] == ["snapshot_not_saved"]
    again = KafkaSnapshots(SnapshotStore(shelf))
    again.save(effect)
    again.close()
    found = again.newest(MemoryLog(saved.partition), 0, effect.snapshot.chain.seq)
    assert seq(found) == effect.snapshot.chain.seq


def test_a_snapshot_of_many_chunks_comes_back(saved: Saved) -> None:
    snapshot = saved.snapshots[1]
    for number, job in enumerate(snapshot.state.jobs.values()):
        job.spec = sha256(b"%d" % number).digest() * (CHUNK_BYTES // 100)
    snapshot.state.jobs[1].spec = b"".join(
        sha256(b"%d" % number).digest() for number in range(CHUNK_BYTES // 16)
    )
    saved.keep(snapshot)
    found = saved.load()
    assert found is not None
    assert fingerprint(found.state) == fingerprint(snapshot.state)
    assert len([key for key, _ in saved.shelf.records[0] if key.startswith("0:")]) > 4
