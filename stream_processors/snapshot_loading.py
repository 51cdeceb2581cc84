"""The newest snapshot of a shard that can be trusted: it reads well, and stands in the log."""

from __future__ import annotations

import structlog

from infra.follow import is_anchored
from infra.log import ShardLog
from infra.snapshots import SnapshotStore
from infra.state_codec import Snapshot, SnapshotUnreadable, decode_snapshot
from schemas.snapshots import SnapshotManifest
from stream_processors.domain.fingerprint import STATE_VERSION
from stream_processors.shard_runner import read_range

LOG = structlog.get_logger("foldline.snapshots")


def load_snapshot(
    store: SnapshotStore, log: ShardLog, shard: int, max_seq: int | None = None
) -> Snapshot | None:
    """The newest that reads well and stands in the log where it says, else None: fold the log.

    Up to record `max_seq`, where it is given. What is passed over is told in a warning. Raises
    `KafkaUnavailable` and `LogUnavailable`.
    """
    while found := store.load(shard, state_version=STATE_VERSION, max_seq=max_seq):
        manifest, data = found
        snapshot = _trusted(log, manifest, data)
        if snapshot is not None:
            return snapshot
        max_seq = manifest.seq - 1
    LOG.info("no_snapshot", shard=shard, note="the log is folded from its beginning")
    return None


def _trusted(log: ShardLog, manifest: SnapshotManifest, data: bytes) -> Snapshot | None:
    shard, seq = manifest.shard, manifest.seq
    try:
        snapshot = decode_snapshot(data)
    except SnapshotUnreadable as error:
        LOG.warning("snapshot_unreadable", shard=shard, seq=seq, error=str(error))
        return None
    in_log = snapshot.offset == manifest.offset < log.end()
    entries = read_range(log, manifest.offset, manifest.offset + 1) if in_log else []
    if not entries or not is_anchored(snapshot, entries[0]):
        LOG.warning("snapshot_not_in_the_log", shard=shard, seq=seq, offset=manifest.offset)
        return None
    return snapshot
