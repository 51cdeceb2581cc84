"""The API process: the endpoints that write and those that read, put together and served.

Composes `ingest/routes.py`, `projections/routes.py`, health, figures and the read part of a schema
registry into one application. What it talks to is given to it by `hold`, so that tests can give doubles;
`serve_api` takes settings and runs until it is told to stop.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

import uvicorn

from foldline.known_jobs import ViewKnownJobs, pending_jobs
from foldline.known_letters import ViewAdmission, ViewKnownLetters
from foldline.view_watch import watch_views
from infra.http import routes as beside
from infra.http.app import Application, finish, new_app
from infra.kafka import shard_count
from infra.settings import (
    AdmissionSettings,
    ApiSettings,
    KafkaSettings,
    PostgresSettings,
    RedisSettings,
    load,
)
from ingest import app as ingest_app
from ingest import routes as writes
from ingest.app import Ingest
from ingest.dlq import routes as dlq_writes
from ingest.kafka_sink import KafkaCommandSink
from projections import app as read_app
from projections import routes as reads
from projections.app import ReadSide
from projections.dlq import routes as dlq_reads
from projections.dlq.queries import LetterQueries
from projections.dlq.reads import ViewLetters
from projections.explain_client import FollowerClient
from projections.health import StackHealth
from projections.hot_read import HotReader
from projections.job_logs import KafkaJobLogs
from projections.queries import Queries
from projections.reads import ViewReads

GRACE_S = 5
"""How long requests under way may go on once told to stop."""

DESCRIPTION = """\
Runs AI jobs on shared clusters. Every submission is an event on Kafka; everything shown here is
folded from it.

* A write is accepted (201, 202) once Kafka has acknowledged it, and answers its **position**.
* A read says in `Foldline-Position` how far it has come; give a position as `min_position` to wait
  for it, bounded. Where that is too long: 503 with `Retry-After`.
* `GET /commands/{position}` tells what became of a write, refusals with their reason.
* Errors always look like `{"error": {"code", "message", "details", "request_id"}}`.
"""

TAGS = (
    {"name": "jobs", "description": "Submit, watch, explain, cancel"},
    {"name": "dead letters", "description": "Failed for good: look, run again, purge"},
    {"name": "queues", "description": "Where jobs wait"},
    {"name": "clusters", "description": "Pools of nodes"},
    {"name": "commands", "description": "What became of writes"},
    {"name": "metrics", "description": "Figures"},
    {"name": "health", "description": "For probes"},
    {"name": "schemas", "description": "Avro schemas of the topics, as a schema registry"},
)


def build_app() -> Application:
    """The application; `hold` gives it whatever it is to talk to."""
    app = new_app("Foldline", DESCRIPTION, TAGS)
    app.include_router(writes.router)
    app.include_router(reads.router)
    app.include_router(dlq_writes.router)
    app.include_router(dlq_reads.router)
    app.include_router(reads.health_router, prefix=reads.PREFIX)
    app.include_router(reads.health_router, include_in_schema=False)
    app.include_router(beside.metrics_router)
    app.include_router(beside.router)
    return finish(app)


def hold(app: Application, ingest: Ingest, read_side: ReadSide) -> None:
    """Give the application what it talks to."""
    ingest_app.hold(app, ingest)
    read_app.hold(app, read_side)


async def serve_api(
    api: ApiSettings, kafka: KafkaSettings, postgres: PostgresSettings, redis: RedisSettings
) -> None:
    """Serve until SIGTERM or SIGINT. Raises `KafkaUnavailable` where Kafka is not there at start."""
    shards = await asyncio.to_thread(shard_count, kafka.bootstrap)
    async with AsyncExitStack() as stack:
        sink = KafkaCommandSink(kafka.bootstrap, shards, api.produce_timeout_s)
        sink.start()
        stack.callback(sink.stop)
        queries = Queries(postgres.dsn)
        await queries.open()
        stack.push_async_callback(queries.close)
        hot = HotReader(redis.url, shards)
        stack.callback(hot.close)
        follower = FollowerClient(api.follower_url)
        stack.push_async_callback(follower.close)
        health = StackHealth(kafka.bootstrap, queries, hot, shards)
        stack.callback(health.close)
        views = ViewReads(queries, hot, shards)
        stack.callback(views.close)
        letters = LetterQueries(queries)
        ingest = Ingest(
            sink=sink,
            known=ViewKnownJobs(queries, views, shards, api.min_position_wait_s),
            letters=ViewKnownLetters(letters),
            admission=ViewAdmission(hot, load(AdmissionSettings)),
        )
        logs = KafkaJobLogs(kafka.bootstrap)
        read_side = ReadSide(
            reads=views,
            letters=ViewLetters(letters),
            pending=pending_jobs(ingest.recent),
            logs=logs,
            explainer=follower,
            health=health,
            shards=shards,
            wait_s=api.min_position_wait_s,
            page_limit_max=api.page_limit_max,
        )
        app = build_app()
        hold(app, ingest, read_side)
        stack.callback(asyncio.create_task(watch_views(health, letters)).cancel)
        await _serve(app, api, logs.stop)


class _Server(uvicorn.Server):
    """A server that leaves signals to us: uvicorn would raise them again before we have closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


async def _serve(app: Application, api: ApiSettings, on_stop: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app,
        host=api.host,
        port=api.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True
        on_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.serve()
