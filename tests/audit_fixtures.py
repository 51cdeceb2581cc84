"""A PostgreSQL of its own for the audit view's tests, which drop everything in it and kill it.

A plugin: a test file names it in `pytest_plugins` and asks for `server`, `url`, `audit`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from projections.audit import AuditView
from projections.migrate import migrate
from tests.postgres_server import PostgresServer


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """PostgreSQL of these tests' own."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def url(server: PostgresServer) -> str:
    """Of an audit view that holds nothing yet."""
    server.clear()
    migrate(server.url)
    return server.url


@pytest.fixture
def audit(url: str) -> Iterator[AuditView]:
    view = AuditView(url)
    yield view
    view.close()
