"""The views' loops on a real log: Kafka, PostgreSQL and Valkey, each killed while they work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep

import psutil
import pytest

from infra.kafka import Sender, ensure_topics
from infra.local.process import Server
from infra.local.stack import LocalServers, free_settings, local_servers
from projections.audit import AuditView
from projections.hot import HotView
from projections.logs import KafkaLogs
from projections.loop import ViewOptions, run_view
from projections.migrate import migrate
from projections.pipeline import View, ViewUnavailable
from projections.verify import verify
from schemas.topics import LOG
from tests.view_log import LifeLog

PATIENCE_S = 120.0
OPTIONS = ViewOptions(batch_records=10, retry_for_s=PATIENCE_S)


@pytest.fixture
def stack(stack_dir: Path) -> Iterator[LocalServers]:
    """Servers of this test's own: it kills them."""
    with local_servers(free_settings(stack_dir)) as running:
        ensure_topics(running.addresses.bootstrap, shards=1)
        migrate(running.addresses.dsn)
        yield running


class LogWriter:
    """Writes a life's records to the log topic, each after the one before is acknowledged."""

    def __init__(self, bootstrap: str, seed: int) -> None:
        self.life = LifeLog(seed)
        self._sender = Sender(bootstrap, message_timeout_s=PATIENCE_S)
        self._written = 0

    def live(self, steps: int) -> int:
        """Some more of life; the offset of the log's end."""
        self.life.live(steps)
        entries = self.life.partition.entries
        for entry in entries[self._written :]:
            self._send(entry.offset, entry.value)
        self._written = len(entries)
        return self._written

    def close(self) -> None:
        """Let go of the broker."""
        self._sender.close()

    def _send(self, offset: int, value: bytes) -> None:
        landed: list[int | None] = []

        def arrived(place: int | None, error: str | None) -> None:
            assert error is None, error
            landed.append(place)

        self._sender.send(LOG.name, value, partition=0, on_result=arrived)
        while not landed:
            self._sender.poll(1.0)
        assert landed == [offset]


class Loop:
    """A view's loop in a thread; `stop` brings out whatever ended it."""

    def __init__(self, view: View, bootstrap: str) -> None:
        self._stop = Event()
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._run, args=(view, bootstrap))
        self._thread.start()

    def _run(self, view: View, bootstrap: str) -> None:
        logs = KafkaLogs(bootstrap)
        try:
            run_view(view, logs, OPTIONS, self._stop.is_set)
        except BaseException as failure:  # noqa: BLE001 - told by `stop`, in the test's own thread
            self._failure = failure
        finally:
            logs.close()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure


def until(said: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE_S
    while not said():
        assert monotonic() < deadline, "it did not come about in time"
        sleep(0.05)


def kill(server: Server) -> None:
    """SIGKILL to it and all its children; returns once they are gone."""
    pid = server.pid()
    assert pid is not None
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    for one in family:
        one.kill()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not alive


def restart(server: Server) -> None:
    server.start()
    server.wait_ready()


def stands(view: AuditView | HotView, end: int) -> bool:
    try:
        position = view.position(0)
    except ViewUnavailable:
        return False
    return position is not None and position.next_offset == end


@contextmanager
def following(stack: LocalServers) -> Iterator[tuple[AuditView, HotView]]:
    """Both views' loops; answers views to watch them with."""
    where = stack.addresses
    views = AuditView(where.dsn), HotView(where.redis_url)
    watch = AuditView(where.dsn), HotView(where.redis_url)
    loops = [Loop(view, where.bootstrap) for view in views]
    try:
        yield watch
    finally:
        for loop in loops:
            loop.stop()
        for view in (*watch, *views):
            view.close()


def test_views_follow_the_log_through_the_death_of_every_server(stack: LocalServers) -> None:
    where = stack.addresses
    writer = LogWriter(where.bootstrap, seed=31)
    with following(stack) as watch:
        end = writer.live(30)
        until(lambda: all(stands(view, end) for view in watch))
        for name in ("postgres", "valkey", "kafka"):
            kill(stack.one(name))
            if name != "kafka":
                writer.live(15)
            restart(stack.one(name))
            end = writer.live(15)
            until(lambda end=end: all(stands(view, end) for view in watch))
    report = verify(where.bootstrap, where.dsn, where.redis_url)
    assert report.is_ok, "\n".join(report.lines())
    writer.close()
