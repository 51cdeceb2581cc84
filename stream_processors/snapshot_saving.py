"""Snapshots of a living state, taken by a child of the process: no decision waits for one.

The child is a fork: it holds the state as it was in that moment, encodes it (seconds, at a million
jobs), and sends the bytes back through a pipe; a thread of ours puts them on their topic. The child
touches no thread, no socket and no lock of ours, and ends without clearing up.
"""

from __future__ import annotations

import gc
import os
import traceback
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import structlog

from infra.kafka import KafkaUnavailable
from infra.log import ShardLog
from infra.snapshots import SnapshotStore
from infra.state_codec import Snapshot, encode_snapshot, manifest_of
from infra.telemetry import count
from stream_processors.engine import SaveSnapshot
from stream_processors.snapshot_loading import load_snapshot

LOG = structlog.get_logger("foldline.engine")
NICE = 5
"""The child gives way to those who decide."""
STDERR = 2
HIGHEST_FILE = 65_536


@dataclass(slots=True)
class KafkaSnapshots:
    """Saves and finds the snapshots of this process's shards. A failed save is told: the next one
    makes it good. While one of a shard is being made, another of it is left out.
    """

    store: SnapshotStore
    writer: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 1, "snapshots"))
    saving: set[int] = field(default_factory=set)

    def save(self, effect: SaveSnapshot) -> None:
        """Keep one, soon, of the state as it is now."""
        shard = effect.snapshot.state.shard
        if shard in self.saving:
            return
        self.saving.add(shard)
        pid, pipe = encode_apart(effect.snapshot)
        saved = self.writer.submit(self._save, effect.snapshot, pid, pipe)
        saved.add_done_callback(_raise_bug)

    def newest(self, log: ShardLog, shard: int, max_seq: int) -> Snapshot | None:
        """See `load_snapshot`."""
        return load_snapshot(self.store, log, shard, max_seq)

    def close(self) -> None:
        """Wait for what is being saved."""
        self.writer.shutdown()

    def _save(self, snapshot: Snapshot, pid: int, pipe: int) -> None:
        """Of the snapshot only what never changes is looked at here: its state has gone on."""
        shard, seq = snapshot.state.shard, snapshot.chain.seq
        outcome = "failed"
        try:
            data = collect(pid, pipe)
            self.store.save(manifest_of(snapshot, data), data)
            LOG.info("snapshot", shard=shard, seq=seq, bytes=len(data))
            outcome = "saved"
        except (KafkaUnavailable, ChildProcessError) as error:
            LOG.warning("snapshot_not_saved", shard=shard, seq=seq, error=str(error))
        finally:
            self.saving.discard(shard)
            count("foldline_snapshots_total", shard=shard, outcome=outcome)


def encode_apart(snapshot: Snapshot) -> tuple[int, int]:
    """Encode in a child: its pid, and the pipe that its bytes will come through."""
    source, sink = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of forks beside threads: the child takes no lock that they may hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        os.close(sink)
        return pid, source
    try:
        _send_all(snapshot, sink)
        os._exit(0)
    finally:  # only where it failed: its traceback is all that may still happen in here
        os.write(STDERR, traceback.format_exc().encode())
        os._exit(1)


def _send_all(snapshot: Snapshot, sink: int) -> None:
    gc.disable()
    os.nice(NICE)
    os.closerange(STDERR + 1, sink)  # what the parent listens on must end with the parent
    os.closerange(sink + 1, HIGHEST_FILE)
    left = memoryview(encode_snapshot(snapshot))
    while left:
        left = left[os.write(sink, left) :]


def collect(pid: int, source: int) -> bytes:
    """The bytes that a child encoded. Raises `ChildProcessError` where it did not end well."""
    with open(source, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status:
        raise ChildProcessError(f"its process ended with {os.waitstatus_to_exitcode(status)}")
    return data


def _raise_bug(saved: Future[None]) -> None:
    """What a save did not expect is a bug: tell it where people look."""
    error = saved.exception()
    if error is not None:
        LOG.critical("snapshot_bug", error=repr(error))
