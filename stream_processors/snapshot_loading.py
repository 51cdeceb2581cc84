"""The newest snapshot of a shard that can be trusted: it reads well, and stands in the log."""

from __future__ import annotations

import structlog

from infra.follow import is_anchored
from infra.log import ShardLog
from infra.snapshots import SnapshotStore
from infra.state_codec import Snapshot, SnapshotUnreadable, decode_snapshot
from stream_processors.domain.fingerprint import STATE_VERSION
from stream_processors.shard_runner import read_range

LOG = structlog.get_logger("foldline.snapshots")


def load_snapshot(store: SnapshotStore, log: ShardLog, shard: int) -> tuple[Snapshot, bytes] | None:
    """The newest snapshot that reads well and stands in the log where it says; else None."""
    found = store.load(shard, state_version=STATE_VERSION)
    if found is None:
        return None
    manifest, data = found
    try:
        snapshot = decode_snapshot(data)
    except SnapshotUnreadable as error:
        LOG.warning("snapshot_unreadable", shard=shard, error=str(error))
        return None
    if manifest.offset >= log.end():
        return None
    entries = read_range(log, manifest.offset, manifest.offset + 1)
    if not is_anchored(snapshot, entries[0]):
        LOG.warning("snapshot_not_in_the_log", shard=shard, seq=manifest.seq)
        return None
    return snapshot, data
