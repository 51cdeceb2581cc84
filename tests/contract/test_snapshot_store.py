"""What every store of snapshots must do, in memory and on the snapshots topic alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import count

import pytest

from infra import snapshots
from infra.kafka import KafkaUnavailable, ensure_topics, shard_count
from infra.local.ports import LOOPBACK, free_ports
from infra.local.stack import Addresses
from infra.snapshots import CHUNK_BYTES, KafkaShelf, MemoryShelf, Shelf, SnapshotStore
from schemas.codec import encode
from schemas.snapshots import SnapshotManifest
from schemas.terms import Micros

VERSION = 3
MILLION = 1_000_000
_epochs = count(1)


@pytest.fixture(params=["memory", "kafka"])
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    """An empty shelf of shard 0: on Kafka, what other tests left is hidden by tombstones."""
    if request.param == "memory":
        yield MemoryShelf()
        return
    servers: Addresses = request.getfixturevalue("servers")
    try:
        shard_count(servers.bootstrap)
    except KafkaUnavailable:
        ensure_topics(servers.bootstrap, 2)
    made = KafkaShelf(servers.bootstrap)
    made.append(0, dict.fromkeys(keys(made), None))
    yield made
    made.close()


def keys(shelf: Shelf) -> set[str]:
    """The keys that have a value, as a reader of the whole shelf finds them."""
    found: snapshots.Records = {}
    for window in shelf.windows(0):
        found = window | found
    return {key for key, value in found.items() if value is not None}


def kept(shelf: Shelf) -> list[int]:
    """The seqs that have a manifest."""
    return sorted(int(key.split(":")[1]) for key in keys(shelf) if key.endswith("manifest"))


def manifest(seq: int, data: bytes, version: int = VERSION) -> SnapshotManifest:
    return SnapshotManifest(
        shard=0,
        seq=seq,
        offset=seq + 7,
        epoch=next(_epochs),
        owner=b"o" * 16,
        prev=b"p" * 32,
        at=Micros(seq),
        state_version=version,
        chunks=0,
        sha256=sha256(data).digest(),
    )


def save(shelf: Shelf, *seqs: int) -> None:
    """Each by a process of its own, as after takeovers."""
    for seq in seqs:
        data = b"state %d" % seq
        SnapshotStore(shelf).save(manifest(seq, data), data)


def load(shelf: Shelf, max_seq: int | None = None, version: int = VERSION) -> bytes | None:
    found = SnapshotStore(shelf).load(0, state_version=version, max_seq=max_seq)
    return found[1] if found else None


def test_a_snapshot_is_found_as_it_was_saved(shelf: Shelf) -> None:
    store = SnapshotStore(shelf)
    assert store.load(0, state_version=VERSION) is None
    data = bytes(range(256)) * (CHUNK_BYTES // 100) + b"end"
    saved = manifest(40, data)
    store.save(saved, data)
    found = store.load(0, state_version=VERSION)
    assert found is not None
    assert found[1] == data
    assert found[0].chunks == len(keys(shelf)) - 1 == -(-len(data) // CHUNK_BYTES)
    assert (found[0].offset, found[0].epoch) == (saved.offset, saved.epoch)


def test_an_empty_state_is_a_snapshot_too(shelf: Shelf) -> None:
    SnapshotStore(shelf).save(manifest(1, b""), b"")
    assert load(shelf) == b""


def test_the_newest_of_the_asked_version_is_found(shelf: Shelf) -> None:
    save(shelf, 10, 20)
    SnapshotStore(shelf).save(manifest(30, b"new", VERSION + 1), b"new")
    assert load(shelf) == b"state 20"
    assert load(shelf, version=VERSION + 1) == b"new"
    assert load(shelf, version=VERSION + 2) is None


def test_a_snapshot_of_the_past_is_found_for_time_travel(shelf: Shelf) -> None:
    save(shelf, 10, MILLION + 20, 2 * MILLION + 30)
    assert load(shelf, max_seq=2 * MILLION + 30) == b"state 2000030"
    assert load(shelf, max_seq=2 * MILLION) == b"state 1000020"
    assert load(shelf, max_seq=10) == b"state 10"
    assert load(shelf, max_seq=9) is None


def test_a_snapshot_without_its_manifest_or_a_chunk_is_not_there(shelf: Shelf) -> None:
    save(shelf, 10)
    data = b"x" * (2 * CHUNK_BYTES)
    SnapshotStore(shelf).save(manifest(20, data), data)
    shelf.append(0, {"0:20:1": None})
    assert load(shelf) == b"state 10"
    save(shelf, 30)
    shelf.append(0, {"0:30:manifest": None})
    assert load(shelf) == b"state 10"


@pytest.mark.parametrize("damage", [b"", b"\x00\x00\x00\x00\x0d", b"\xff" * 40])
def test_damaged_bytes_are_not_trusted(shelf: Shelf, damage: bytes) -> None:
    save(shelf, 10, 20)
    shelf.append(0, {"0:20:0": damage})
    assert load(shelf) == b"state 10"
    save(shelf, 30)
    shelf.append(0, {"0:30:manifest": damage})
    assert load(shelf) == b"state 10"


def test_bytes_of_another_writer_under_the_same_seq_are_not_trusted(shelf: Shelf) -> None:
    save(shelf, 10, 20)
    shelf.append(0, {"0:20:manifest": encode(manifest(20, b"other bytes"))})
    assert load(shelf) == b"state 10"
    save(shelf, 20)
    assert load(shelf) == b"state 20"


def test_the_two_newest_and_the_first_of_each_million_are_kept(shelf: Shelf) -> None:
    save(shelf, 5, 6, 7, 8)
    assert kept(shelf) == [5, 7, 8]
    save(shelf, MILLION - 1, MILLION + 1, MILLION + 2)
    assert kept(shelf) == [5, MILLION + 1, MILLION + 2]
    save(shelf, MILLION + 3, 3 * MILLION, 3 * MILLION + 1, 3 * MILLION + 2, 4 * MILLION)
    assert kept(shelf) == [5, MILLION + 1, 3 * MILLION, 3 * MILLION + 2, 4 * MILLION]
    assert {key.split(":")[1] for key in keys(shelf)} == {str(seq) for seq in kept(shelf)}


def test_one_process_thins_what_it_saves_as_many_do(shelf: Shelf) -> None:
    store = SnapshotStore(shelf)
    for seq in (5, 6, 7, MILLION + 1, MILLION + 2, MILLION + 3, MILLION + 4):
        store.save(manifest(seq, b"x"), b"x")
    assert kept(shelf) == [5, MILLION + 1, MILLION + 3, MILLION + 4]


def test_what_a_dying_writer_left_is_cleared_by_the_next(shelf: Shelf) -> None:
    save(shelf, 10, 20)
    shelf.append(0, {"0:25:0": b"half a snapshot", "0:25:1": b"more of it"})
    save(shelf, 30)
    assert kept(shelf) == [10, 20, 30]
    assert not {"0:25:0", "0:25:1"} & keys(shelf)


class TornShelf(MemoryShelf):
    """Fails the appends that it is told to, after half of the records."""

    def __init__(self, fails: Callable[[snapshots.Records], bool]) -> None:
        super().__init__()
        self.fails = fails

    def append(self, shard: int, records: snapshots.Records) -> None:
        if self.fails(records):
            half = list(records.items())[: len(records) // 2]
            super().append(shard, dict(half))
            raise KafkaUnavailable("no answer in time")
        super().append(shard, records)


def test_a_save_that_fails_is_an_error_and_the_older_one_stays() -> None:
    shelf = TornShelf(
        lambda records: bool(records.get("0:20:0") or records.get("0:30:manifest")),
    )
    store = SnapshotStore(shelf)
    store.save(manifest(10, b"ten"), b"ten")
    for seq in (20, 30):
        data = b"x" * (3 * CHUNK_BYTES)
        with pytest.raises(KafkaUnavailable):
            store.save(manifest(seq, data), data)
        assert load(shelf) == b"ten"
    store.save(manifest(40, b"forty"), b"forty")
    assert kept(shelf) == [10, 40]
    assert {key.split(":")[1] for key in keys(shelf)} == {"10", "40"}


def test_thinning_that_fails_is_made_good_by_the_next_save() -> None:
    fails = True
    shelf = TornShelf(lambda records: fails and None in records.values())
    store = SnapshotStore(shelf)
    for seq in (1, 2, 3, 4):
        store.save(manifest(seq, b"x"), b"x")
    assert {"0:2:0", "0:3:0", "0:3:manifest"} <= keys(shelf)
    fails = False
    store.save(manifest(5, b"x"), b"x")
    assert {key.split(":")[1] for key in keys(shelf)} == {"1", "4", "5"}


def test_without_kafka_saving_and_loading_are_operating_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "SEND_TIMEOUT_S", 0.3)
    monkeypatch.setattr("infra.kafka.REQUEST_TIMEOUT_S", 0.3)
    store = SnapshotStore(f"{LOOPBACK}:{free_ports(1)[0]}")
    with pytest.raises(KafkaUnavailable):
        store.load(0, state_version=VERSION)
    with pytest.raises(KafkaUnavailable):
        store.save(manifest(1, b"x"), b"x")
    store.close()
