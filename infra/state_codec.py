"""Folded state to bytes and back, for snapshots: MessagePack by msgspec, straight from the classes.

A snapshot holds the state and the chain where it stands. It is disposable and versioned
(`fingerprint.STATE_VERSION`): what cannot be read, or does not fit the log, is folded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import msgspec

from schemas.snapshots import SnapshotManifest
from schemas.terms import JobTerms
from stream_processors.domain.counting import Chain
from stream_processors.domain.fingerprint import STATE_VERSION
from stream_processors.domain.state import State


class SnapshotUnreadable(Exception):
    """The bytes are no snapshot of this version; fold the log instead."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counted state, and where in the log it stands. `offset` is that of the last decision."""

    offset: int
    chain: Chain
    state: State


_DECODER = msgspec.msgpack.Decoder(Snapshot)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The bytes of a snapshot."""
    return msgspec.msgpack.encode(snapshot)


def decode_snapshot(data: bytes) -> Snapshot:
    """The snapshot in these bytes; equal terms become one object again."""
    try:
        snapshot = _DECODER.decode(data)
    except msgspec.MsgspecError as error:
        raise SnapshotUnreadable(str(error)) from error
    terms: dict[JobTerms, JobTerms] = {}
    for job in snapshot.state.jobs.values():
        job.terms = terms.setdefault(job.terms, job.terms)
    return snapshot


def manifest_of(snapshot: Snapshot, data: bytes) -> SnapshotManifest:
    """The manifest that makes a snapshot's chunks complete (their count is the store's matter)."""
    chain = snapshot.chain
    return SnapshotManifest(
        shard=snapshot.state.shard,
        seq=chain.seq,
        offset=snapshot.offset,
        epoch=chain.epoch,
        owner=chain.owner,
        prev=chain.value,
        at=chain.at,
        state_version=STATE_VERSION,
        chunks=0,
        sha256=sha256(data).digest(),
    )
