"""A process that folds every shard's log without owning any, and answers questions about it.

Reads the log (from the newest snapshot that stands in it), writes nothing. One loop folds; the
small HTTP service of `app.py` runs beside it in a thread and takes the lock for each answer.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock, Thread
from typing import Any

import structlog
import uvicorn

from infra.collector import spare_the_fold
from infra.follow import ShardFollower
from infra.kafka import KafkaUnavailable, OffsetOutOfRange, Reader, shard_count
from infra.kafka_log import KafkaLog
from infra.log import Entry
from infra.settings import FollowerSettings, KafkaSettings
from infra.snapshots import SnapshotStore
from schemas.ids import parse_job_id, shard_of
from schemas.terms import Micros
from schemas.topics import LOG
from stream_processors.app import follower_app
from stream_processors.domain.explain import Explanation, explain
from stream_processors.snapshot_loading import load_snapshot

LOGGER = structlog.get_logger("foldline.follower")
POLL_S = 0.1
RECORDS_PER_TURN = 50
"""So that a question never waits long for the lock while a backlog is folded."""


class Follower:
    """The folds of all shards, and the answers they give. Safe to ask from any thread."""

    def __init__(self, shards: dict[int, ShardFollower]) -> None:
        """From where these folds stand."""
        self._shards = shards
        self._lock = Lock()

    @property
    def offsets(self) -> dict[tuple[str, int], int]:
        """Where to read each shard's log from."""
        return {
            (LOG.name, shard): follower.chain.next_offset
            for shard, follower in self._shards.items()
        }

    def feed(self, records: list[tuple[int, Entry]]) -> None:
        """Fold records, in order."""
        with self._lock:
            for shard, entry in records:
                self._shards[shard].feed(entry)

    def position(self) -> dict[int, int]:
        """By shard: the first command that was not folded yet."""
        with self._lock:
            return {
                shard: follower.chain.consumed.commands for shard, follower in self._shards.items()
            }

    def explain(self, job_id: str) -> dict[str, Any] | None:
        """Why a job stands where it stands; None for one that no fold knows."""
        raw = parse_job_id(job_id)
        if raw is None or shard_of(raw) not in self._shards:
            return None
        with self._lock:
            found = explain(self._shards[shard_of(raw)].state, raw)
        return None if found is None else as_answer(found)


def as_answer(found: Explanation) -> dict[str, Any]:
    """An explanation as plain JSON values; `at` is the moment of the state, RFC 3339."""
    at = datetime.fromtimestamp(found.at / 1_000_000, UTC)
    return {
        "job_id": found.job_id,
        "status": found.state.value,
        "at": at.isoformat(),
        "position": found.position or None,
        "reasons": [{"code": one.code, "message": one.message} for one in found.reasons],
    }


def run_follower(kafka: KafkaSettings, settings: FollowerSettings, stop: Callable[[], bool]) -> int:
    """Fold and answer until told to stop. An offset out of range ends it loudly."""
    follower = Follower(
        {shard: _open(kafka, shard) for shard in range(shard_count(kafka.bootstrap))}
    )
    spare_the_fold()
    reader = Reader(kafka.bootstrap)
    reader.assign(follower.offsets)
    server = _serve(follower, settings)
    try:
        while not stop():
            _turn(follower, reader)
    finally:
        server.should_exit = True
        reader.close()
    return 0


def _turn(follower: Follower, reader: Reader) -> None:
    try:
        messages = reader.poll(POLL_S, RECORDS_PER_TURN)
    except OffsetOutOfRange:
        raise
    except KafkaUnavailable as error:
        LOGGER.warning("kafka_unavailable", error=str(error))
        return
    follower.feed([(m.partition, Entry(m.offset, m.value or b"", Micros(m.at))) for m in messages])


def _open(kafka: KafkaSettings, shard: int) -> ShardFollower:
    log = KafkaLog(kafka.bootstrap, shard)
    try:
        found = load_snapshot(SnapshotStore(kafka.bootstrap), log, shard)
    finally:
        log.close()
    return ShardFollower(shard, found)


def _serve(follower: Follower, settings: FollowerSettings) -> uvicorn.Server:
    app = follower_app(follower.explain, follower.position)
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    Thread(target=server.run, name="http", daemon=True).start()
    return server
