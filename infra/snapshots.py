"""Snapshots of shards on their topic: saved in chunks, found again newest first, thinned.

Reads and writes `foldline.shard.snapshots.v1`, partition = shard, keyed shard:seq:chunk. The
manifest comes last and makes a snapshot complete; whatever is not complete, or whose SHA-256 is
another, is as if it were not there. `SnapshotStore("host:port")` keeps them on Kafka,
`SnapshotStore(MemoryShelf())` in memory. What is in the bytes is `infra.state_codec`'s matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from time import monotonic
from typing import Any, Protocol

import structlog

from infra.kafka import KafkaUnavailable, Reader, Sender
from schemas.codec import MalformedRecord, UnknownSchema, decode, encode
from schemas.snapshots import SnapshotChunk, SnapshotManifest
from schemas.topics import SNAPSHOTS

CHUNK_BYTES = 1024 * 1024
KEPT_NEWEST = 2
KEPT_FOR_EVER_EVERY = 1_000_000
"""The first snapshot of each so many records is never thinned: time travel starts from there."""
FIRST_WINDOW = 64
"""Records read at once going back from the end; doubled until a snapshot is whole."""
SEEN_ENOUGH = KEPT_NEWEST + 2
"""Older snapshots than these were thinned by whoever saved these."""
READ_TIMEOUT_S = 30.0
SEND_TIMEOUT_S = 10.0
MANIFEST = "manifest"
KEY = re.compile(rf"\d+:\d+:(\d+|{MANIFEST})")

Records = dict[str, bytes | None]
"""The last value of each key; None is a tombstone."""

_log = structlog.get_logger("snapshots")


class Shelf(Protocol):
    """Where records of snapshots lie: appended in order, read in windows from the end back."""

    def append(self, shard: int, records: Records) -> None:
        """Write all of these; raises `KafkaUnavailable` unless every one is surely there."""

    def windows(self, shard: int) -> Iterator[Records]:
        """Stretches of the shard's records, the newest stretch first."""


class SnapshotStore:
    """Saves and finds the snapshots of any shard; `where` is Kafka's address or a shelf."""

    def __init__(self, where: str | Shelf) -> None:
        self._shelf: Shelf = KafkaShelf(where) if isinstance(where, str) else where
        self._inventories: dict[int, _Inventory] = {}

    def save(self, manifest: SnapshotManifest, data: bytes) -> None:
        """Keep a snapshot and thin out older ones; the manifest's `chunks` is filled in here.

        Raises `KafkaUnavailable`; then the snapshot is not there, or is incomplete and ignored.
        """
        assert manifest.sha256 == sha256(data).digest(), "the manifest is of other bytes"
        shard, seq = manifest.shard, manifest.seq
        pieces = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        chunks: Records = {
            _key(shard, seq, number): encode(SnapshotChunk(shard, seq, number, piece))
            for number, piece in enumerate(pieces)
        }
        whole = replace(manifest, chunks=len(pieces))
        inventory = self._inventory(shard)
        inventory.broken[seq] = len(pieces)
        self._shelf.append(shard, chunks)
        self._shelf.append(shard, {_key(shard, seq, MANIFEST): encode(whole)})
        inventory.whole[seq] = inventory.broken.pop(seq)
        self._thin(shard, inventory)

    def load(
        self, shard: int, *, state_version: int, max_seq: int | None = None
    ) -> tuple[SnapshotManifest, bytes] | None:
        """The newest whole snapshot of this version, at or before `max_seq` where it is given.

        What is passed over, because it is of another version or not whole, is told in a warning.
        """
        found: Records = {}
        passed: list[SnapshotManifest] = []
        whole = None
        for window in self._shelf.windows(shard):
            found = window | found
            asked = [one for one in _manifests(found) if max_seq is None or one.seq <= max_seq]
            whole, passed = _newest_whole(found, asked, state_version)
            if whole is not None:
                break
        for manifest in passed:
            _log.warning(
                "snapshot ignored",
                shard=shard,
                seq=manifest.seq,
                version=manifest.state_version,
                reads_version=state_version,
                reason="not whole" if manifest.state_version == state_version else "other version",
            )
        return whole

    def close(self) -> None:
        """Let go of the broker, if there is one."""
        if isinstance(self._shelf, KafkaShelf):
            self._shelf.close()

    def _inventory(self, shard: int) -> _Inventory:
        """What is on the shelf, looked up once, as far back as thinning could have left any."""
        if shard not in self._inventories:
            found: Records = {}
            for window in self._shelf.windows(shard):
                found = window | found
                if len(_take_stock(found).whole) > SEEN_ENOUGH:
                    break
            self._inventories[shard] = _take_stock(found)
        return self._inventories[shard]

    def _thin(self, shard: int, inventory: _Inventory) -> None:
        doomed = [(inventory.broken, seq) for seq in list(inventory.broken)]
        doomed += [(inventory.whole, seq) for seq in _superfluous(inventory.whole)]
        for shelved, seq in doomed:
            parts = [MANIFEST, *range(shelved[seq])]  # the manifest first: no whole one is torn
            try:
                self._shelf.append(shard, {_key(shard, seq, part): None for part in parts})
            except KafkaUnavailable as error:
                _log.warning("old snapshot kept until the next", seq=seq, error=str(error))
                return
            del shelved[seq]


@dataclass(slots=True)
class _Inventory:
    """The seqs on the shelf, each with the number of its chunks: complete ones, and the rest."""

    whole: dict[int, int]
    broken: dict[int, int]


def _take_stock(found: Records) -> _Inventory:
    chunks: dict[int, int] = {}
    complete: set[int] = set()
    for key in (key for key, value in found.items() if value is not None):
        _, seq, part = key.split(":")
        if part == MANIFEST:
            complete.add(int(seq))
        count = 0 if part == MANIFEST else int(part) + 1
        chunks[int(seq)] = max(count, chunks.get(int(seq), 0))
    return _Inventory(
        {seq: count for seq, count in chunks.items() if seq in complete},
        {seq: count for seq, count in chunks.items() if seq not in complete},
    )


def _superfluous(seqs: Iterable[int]) -> list[int]:
    """The seqs that are neither among the newest nor the first of their stretch."""
    ordered = sorted(seqs)
    doomed = []
    kept = -1
    for seq in ordered[:-KEPT_NEWEST]:
        if seq // KEPT_FOR_EVER_EVERY == kept:
            doomed.append(seq)
        kept = seq // KEPT_FOR_EVER_EVERY
    return doomed


def _key(shard: int, seq: int, part: int | str) -> str:
    return f"{shard}:{seq}:{part}"


def _read(data: bytes) -> Any:
    try:
        return decode(data)
    except (MalformedRecord, UnknownSchema) as error:
        _log.warning("snapshot record ignored", error=str(error))
        return None


def _manifests(found: Records) -> list[SnapshotManifest]:
    """Those found, newest first."""
    read = [_read(value) for key, value in found.items() if value and key.endswith(MANIFEST)]
    manifests = [manifest for manifest in read if isinstance(manifest, SnapshotManifest)]
    return sorted(manifests, key=lambda manifest: -manifest.seq)


def _newest_whole(
    found: Records, manifests: list[SnapshotManifest], state_version: int
) -> tuple[tuple[SnapshotManifest, bytes] | None, list[SnapshotManifest]]:
    """The first of these that can be used, with its bytes; and those before it."""
    for place, manifest in enumerate(manifests):
        if manifest.state_version == state_version:
            data = _data(found, manifest)
            if data is not None:
                return (manifest, data), manifests[:place]
    return None, manifests


def _data(found: Records, manifest: SnapshotManifest) -> bytes | None:
    """The snapshot's bytes, if every chunk is there and they are what the manifest says."""
    pieces = []
    for number in range(manifest.chunks):
        value = found.get(_key(manifest.shard, manifest.seq, number))
        chunk = _read(value) if value else None
        if not isinstance(chunk, SnapshotChunk):
            return None
        pieces.append(chunk.data)
    data = b"".join(pieces)
    return data if sha256(data).digest() == manifest.sha256 else None


class MemoryShelf:
    """A shelf in memory: the double for tests."""

    def __init__(self) -> None:
        self.records: dict[int, list[tuple[str, bytes | None]]] = {}

    def append(self, shard: int, records: Records) -> None:
        """Write all of these."""
        self.records.setdefault(shard, []).extend(records.items())

    def windows(self, shard: int) -> Iterator[Records]:
        """Stretches of the shard's records, the newest stretch first."""
        kept = self.records.get(shard, [])
        for start, stop in _back(0, len(kept)):
            yield dict(kept[start:stop])


class KafkaShelf:
    """The snapshots topic. Readers live for one search, the producer as long as the shelf."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._sender: Sender | None = None

    def append(self, shard: int, records: Records) -> None:
        """Write all of these; raises `KafkaUnavailable` unless every one is surely there."""
        if self._sender is None or self._sender.fatal:
            self.close()
            self._sender = Sender(self._bootstrap, message_timeout_s=SEND_TIMEOUT_S)
        errors: list[str] = []

        def on_result(_offset: int | None, error: str | None) -> None:
            if error is not None:
                errors.append(error)

        for key, value in records.items():
            self._sender.send(SNAPSHOTS.name, value, key=key, partition=shard, on_result=on_result)
        left = self._sender.flush(SEND_TIMEOUT_S + 1.0)
        if errors or left:
            raise KafkaUnavailable(f"snapshot not written: {(errors or ['no answer in time'])[0]}")

    def windows(self, shard: int) -> Iterator[Records]:
        """Stretches of the shard's records, the newest stretch first."""
        reader = Reader(self._bootstrap)
        try:
            begin = reader.begin_offset(SNAPSHOTS.name, shard)
            for start, stop in _back(begin, reader.end_offset(SNAPSHOTS.name, shard)):
                yield _stretch(reader, shard, start, stop)
        finally:
            reader.close()

    def close(self) -> None:
        """Let go of the broker."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None


def _back(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Windows that cover begin..end from the end back, each twice as wide as the one before."""
    width = FIRST_WINDOW
    while end > begin:
        start = max(begin, end - width)
        yield start, end
        end, width = start, width * 2


def _stretch(reader: Reader, shard: int, start: int, stop: int) -> Records:
    """The records of start..stop that compaction has left, the last of each key."""
    reader.assign({(SNAPSHOTS.name, shard): start})
    found: Records = {}
    deadline = monotonic() + READ_TIMEOUT_S
    while reader.position(SNAPSHOTS.name, shard) < stop:
        messages = reader.poll(1.0)
        for message in messages:
            if message.offset < stop and message.key is not None:
                key = message.key.decode(errors="replace")
                if KEY.fullmatch(key):
                    found[key] = message.value
        if messages:
            deadline = monotonic() + READ_TIMEOUT_S
        elif monotonic() > deadline:
            raise KafkaUnavailable(f"no answer from {SNAPSHOTS.name}[{shard}]")
    return found
