"""`foldline serve NAME`: one process of the system, put together from its room and its settings.

Every process is one loop that ends on SIGTERM or SIGINT. What ends it otherwise is told as one
line and exit code 1: a supervisor starts it again, and people are told.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import structlog

from infra.kafka import shard_count
from infra.kafka_port import KafkaUnavailable
from infra.log import OffsetOutOfRange
from infra.postgres import DatabaseUnavailable
from infra.settings import (
    AdmissionSettings,
    AgentSettings,
    ApiSettings,
    EdgeSettings,
    EngineSettings,
    FollowerSettings,
    KafkaSettings,
    MetricsSettings,
    PostgresSettings,
    ProjectionSettings,
    RedisSettings,
    load,
)
from infra.snapshots import SnapshotStore
from infra.state_codec import Snapshot, SnapshotUnreadable, decode_snapshot
from infra.telemetry import configure_logging, serve_metrics
from projections.pipeline import StaleWriter, View, ViewDiverged, ViewUnavailable
from schemas.terms import GpuDevice, Label
from stream_processors.domain.counting import LogStopped
from stream_processors.domain.fingerprint import STATE_VERSION

LOG = structlog.get_logger("foldline.serve")
STOPPED_LOUDLY = (
    DatabaseUnavailable,
    KafkaUnavailable,
    LogStopped,
    OffsetOutOfRange,
    StaleWriter,
    ViewDiverged,
    ViewUnavailable,
)
"""Errors of operation that must end a process rather than be passed over."""


class StopFlag:
    """Set by SIGTERM and SIGINT; ask by calling it."""

    def __init__(self) -> None:
        """Takes the two signals over."""
        self._told = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def __call__(self) -> bool:
        """Whether the process was told to stop."""
        return self._told

    def _take(self, _number: int, _frame: object) -> None:
        self._told = True


def serve(name: str) -> int:
    """Be the process of this name until told to stop; the exit code."""
    configure_logging(name)
    faulthandler.enable()  # a crash inside a library leaves its traceback in the log
    port = load(MetricsSettings).port
    if port is not None:
        serve_metrics(port)
    try:
        return SERVICES[name]()
    except STOPPED_LOUDLY as error:
        LOG.critical("stopped", reason=str(error), kind=type(error).__name__)
        return 1


def _engine() -> int:
    from stream_processors.engine_process import EngineProcess

    stop = StopFlag()
    return EngineProcess(load(KafkaSettings), load(EngineSettings), load(AdmissionSettings)).run(
        stop
    )


def _follower() -> int:
    from stream_processors.follower import run_follower

    stop = StopFlag()
    return run_follower(load(KafkaSettings), load(FollowerSettings), stop)


def _audit() -> int:
    from projections.audit import AuditView
    from projections.migrate import migrate

    dsn = load(PostgresSettings).dsn
    migrate(dsn)
    return _view("audit", lambda: AuditView(dsn))


def _hot() -> int:
    from projections.hot import HotView

    return _view("hot", lambda: HotView(load(RedisSettings).url))


def _view(name: str, make: Callable[[], View]) -> int:
    from projections.logs import KafkaLogs
    from projections.loop import ViewOptions, run_view

    stop = StopFlag()
    settings = load(ProjectionSettings)
    bootstrap = load(KafkaSettings).bootstrap
    options = ViewOptions(
        name=name,
        batch_records=settings.batch_max_records,
        batch_bytes=settings.batch_max_bytes,
        retry_for_s=settings.retry_for_s,
    )
    run_view(make(), KafkaLogs(bootstrap), options, stop, snapshot_finder(bootstrap))
    return 0


def _relay() -> int:
    from projections.logs import KafkaLogs
    from projections.relay import KafkaTopics, run_relay

    stop = StopFlag()
    bootstrap = load(KafkaSettings).bootstrap
    run_relay(KafkaTopics(bootstrap), KafkaLogs(bootstrap), stop, snapshot_finder(bootstrap))
    return 0


def _api() -> int:
    import uvloop

    from foldline.api import serve_api

    settings = (
        load(ApiSettings),
        load(KafkaSettings),
        load(PostgresSettings),
        load(RedisSettings),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_api(*settings))
    return 0


def _agent() -> int:
    from workers.driver import run_agent
    from workers.options import AgentOptions, LogLimits

    settings = load(AgentSettings)
    kafka = load(KafkaSettings)
    memory_mib = psutil.virtual_memory().total // (1024 * 1024)
    options = AgentOptions(
        node=settings.node,
        pool=settings.pool,
        address=settings.address,
        data_dir=Path(settings.data_dir),
        cpu_milli=settings.cpu_milli or (os.cpu_count() or 1) * 1000,
        memory_mib=settings.memory_mib or memory_mib,
        gpus=tuple(
            GpuDevice(settings.gpu_model, settings.gpu_memory_mib) for _ in range(settings.gpus)
        ),
        labels=tuple(Label(key, value) for key, value in sorted(settings.labels.items())),
        lease_s=settings.lease_s,
        heartbeat_s=settings.heartbeat_s,
        drain_s=settings.drain_s,
        shared_dir=settings.shared_dir,
        cgroup_dir=settings.cgroup_dir,
        log_limits=LogLimits(
            line_bytes=settings.log_line_bytes,
            lines_per_s=settings.log_lines_per_s,
            bytes_per_s=settings.log_bytes_per_s,
            burst_s=settings.log_burst_s,
            total_bytes=settings.log_total_bytes,
        ),
    )
    return run_agent(options, kafka.bootstrap, shard_count(kafka.bootstrap))


def _edge() -> int:
    from stream_processors.edge.process import run_edge

    stop = StopFlag()
    return run_edge(load(KafkaSettings), load(EdgeSettings), stop)


def snapshot_finder(bootstrap: str) -> Callable[[int, int | None], Snapshot | None]:
    """Finds a shard's newest snapshot that stands before an offset of its log (None: at all)."""

    def find(shard: int, before: int | None) -> Snapshot | None:
        store = SnapshotStore(bootstrap)
        max_seq: int | None = None
        try:
            while found := store.load(shard, state_version=STATE_VERSION, max_seq=max_seq):
                manifest, data = found
                if before is None or manifest.offset < before:
                    snapshot = _decoded(data)
                    if snapshot is not None:
                        return snapshot
                max_seq = manifest.seq - 1
        finally:
            store.close()
        return None

    return find


def _decoded(data: bytes) -> Snapshot | None:
    try:
        return decode_snapshot(data)
    except SnapshotUnreadable as error:
        LOG.warning("snapshot_unreadable", error=str(error))
        return None


SERVICES: dict[str, Callable[[], int]] = {
    "engine": _engine,
    "follower": _follower,
    "audit": _audit,
    "hot": _hot,
    "relay": _relay,
    "api": _api,
    "agent": _agent,
    "edge": _edge,
}
