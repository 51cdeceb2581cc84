"""Fixtures that need servers: Kafka, PostgreSQL and Valkey, the same three for a whole test run.

Chosen by one setting, FOLDLINE_TEST_SERVERS: `embedded` (default) starts the local stack on free
ports in a directory of its own; `testcontainers` takes them from a Docker engine; `existing` uses
FOLDLINE_TEST_BOOTSTRAP, FOLDLINE_TEST_DSN and FOLDLINE_TEST_REDIS_URL. The only file that imports
testcontainers. A test that asks for `servers` is marked `stack`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from infra.kafka import wait_ready
from infra.local.ports import free_ports
from infra.local.stack import Addresses, free_settings, local_servers

KAFKA_IMAGE = "apache/kafka:4.1.0"
POSTGRES_IMAGE = "postgres:18"
VALKEY_IMAGE = "valkey/valkey:8"
KAFKA_SETTINGS = {
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_LISTENERS": "CLIENT://:9092,BROKER://:9094,CONTROLLER://:9093",
    "KAFKA_ADVERTISED_LISTENERS": "CLIENT://localhost:{port},BROKER://localhost:9094",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": (
        "CLIENT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT"
    ),
    "KAFKA_INTER_BROKER_LISTENER_NAME": "BROKER",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_MESSAGE_MAX_BYTES": "8454144",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its directory, and those on real servers with `stack`."""
    kinds = {"unit", "property", "contract", "replay", "simulation", "integration", "e2e"}
    for item in items:
        for kind in kinds.intersection(item.path.parts):
            item.add_marker(kind)
        if "servers" in getattr(item, "fixturenames", ()):
            item.add_marker("stack")


@pytest.fixture(scope="session")
def servers() -> Iterator[Addresses]:
    """Where the three servers of this test run listen: `bootstrap`, `dsn`, `redis_url`."""
    source = os.environ.get("FOLDLINE_TEST_SERVERS", "embedded")
    sources = {"embedded": _embedded, "existing": _existing, "testcontainers": _containers}
    if source not in sources:
        pytest.exit(f"FOLDLINE_TEST_SERVERS={source}: choose one of {', '.join(sources)}", 4)
    with sources[source]() as addresses:
        yield addresses


@pytest.fixture
def stack_dir() -> Iterator[Path]:
    """A data directory for a stack of the test's own; PostgreSQL's system user may reach it."""
    with _passable_dir() as path:
        yield path


@contextmanager
def _embedded() -> Iterator[Addresses]:
    with _passable_dir() as path, local_servers(free_settings(path)) as running:
        yield running.addresses


@contextmanager
def _existing() -> Iterator[Addresses]:
    names = ("FOLDLINE_TEST_BOOTSTRAP", "FOLDLINE_TEST_DSN", "FOLDLINE_TEST_REDIS_URL")
    missing = [name for name in names if name not in os.environ]
    if missing:
        pytest.exit(f"FOLDLINE_TEST_SERVERS=existing needs {', '.join(missing)}", 4)
    bootstrap, dsn, redis_url = (os.environ[name] for name in names)
    yield Addresses(bootstrap, dsn, redis_url)


@contextmanager
def _containers() -> Iterator[Addresses]:
    from testcontainers.community.postgres import (  # noqa: PLC0415 - only with a Docker engine
        PostgresContainer,
    )
    from testcontainers.community.redis import (  # noqa: PLC0415 - only with a Docker engine
        RedisContainer,
    )
    from testcontainers.core.container import (  # noqa: PLC0415 - only with a Docker engine
        DockerContainer,
    )

    (port,) = free_ports(1)
    broker = DockerContainer(KAFKA_IMAGE).with_bind_ports("9092/tcp", port)
    for key, value in KAFKA_SETTINGS.items():
        broker = broker.with_env(key, value.format(port=port))
    with ExitStack() as stack:
        stack.enter_context(broker)
        postgres = stack.enter_context(PostgresContainer(POSTGRES_IMAGE, dbname="foldline"))
        valkey = stack.enter_context(RedisContainer(VALKEY_IMAGE))
        bootstrap = f"{broker.get_container_host_ip()}:{port}"
        wait_ready(bootstrap, timeout_s=60)
        redis_port = valkey.get_exposed_port(6379)
        yield Addresses(
            bootstrap,
            postgres.get_connection_url(driver=None),
            f"redis://{valkey.get_container_host_ip()}:{redis_port}/0",
        )


@contextmanager
def _passable_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="foldline-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)
