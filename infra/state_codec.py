"""Folded state to bytes and back, for snapshots: columns of MessagePack by msgspec, deflated.

A snapshot holds the state and the chain where it stands. It is disposable and versioned
(`fingerprint.STATE_VERSION`): what cannot be read, or does not fit the log, is folded again. How
jobs become columns is in `job_columns.py`; the rest of the state goes straight from its classes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Any, get_type_hints

import msgspec

from infra.collector import not_collecting
from infra.job_columns import Column, ColumnsUnreadable, columns_of, jobs_of
from schemas.snapshots import SnapshotManifest
from stream_processors.domain.counting import Chain
from stream_processors.domain.fingerprint import STATE_VERSION
from stream_processors.domain.state import State

LEVEL = 1
"""Of deflation: a quarter of the bytes is left, and more pains save little."""
REBUILT = ("jobs", "nos")
"""Fields of the state that are made from the columns."""


class SnapshotUnreadable(Exception):
    """The bytes are no snapshot of this version; fold the log instead."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counted state, and where in the log it stands. `offset` is that of the last decision."""

    offset: int
    chain: Chain
    state: State


_NAMES = [field.name for field in fields(State) if field.name not in REBUILT]
_Rest: Any = msgspec.defstruct(
    "_Rest", [(name, get_type_hints(State)[name]) for name in _NAMES], array_like=True
)


class _Parts(msgspec.Struct, array_like=True):
    """What the bytes hold."""

    offset: int
    chain: Chain
    rest: _Rest
    jobs: dict[str, Column]


_DECODER = msgspec.msgpack.Decoder(_Parts)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The bytes of a snapshot."""
    state = snapshot.state
    rest = _Rest(*(getattr(state, name) for name in _NAMES))
    columns = columns_of(list(state.jobs.values()))
    parts = _Parts(snapshot.offset, snapshot.chain, rest, columns)
    return zlib.compress(msgspec.msgpack.encode(parts), LEVEL)


def decode_snapshot(data: bytes) -> Snapshot:
    """The snapshot in these bytes; equal terms become one object again."""
    with not_collecting():
        try:
            parts = _DECODER.decode(zlib.decompress(data))
            jobs = jobs_of(parts.jobs)
        except (zlib.error, msgspec.MsgspecError, ColumnsUnreadable) as error:
            raise SnapshotUnreadable(str(error)) from error
        rest = {name: getattr(parts.rest, name) for name in _NAMES}
        state = State(**rest)
        state.jobs = {job.no: job for job in jobs}
        state.nos = {job.job_id: job.no for job in jobs}
        return Snapshot(parts.offset, parts.chain, state)


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
