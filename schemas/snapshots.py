"""A snapshot of a shard's counted state, on `foldline.shard.snapshots.v1`, in chunks.

Complete only with its manifest, which is written last. Disposable: a reader that finds anything
amiss folds the log from an older snapshot or from its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.terms import Micros


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """A piece of a snapshot, numbered from 0."""

    shard: int
    seq: int
    chunk: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """Makes a snapshot complete: where in the log it stands and the SHA-256 of its bytes."""

    shard: int
    seq: int
    offset: int
    epoch: int
    owner: bytes
    prev: bytes
    at: Micros
    state_version: int
    chunks: int
    sha256: bytes
