"""A Valkey of its own for the hot view's tests, which flush and kill it.

A plugin: a test file names it in `pytest_plugins` and asks for `valkey`, `store`, `view`, `reader`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.redis_store import RedisStore
from projections.hot import HotView
from projections.hot_read import HotReader
from tests.hot_valkey import FLUSH
from tests.valkey_server import ValkeyServer


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Valkey of these tests' own: they flush and kill it."""
    valkey = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    try:
        valkey.start()
        yield valkey
    finally:
        valkey.kill()


@pytest.fixture
def store(valkey: ValkeyServer) -> Iterator[RedisStore]:
    store = RedisStore(valkey.url)
    store.run(FLUSH, [], [])
    yield store
    store.close()


@pytest.fixture
def view(valkey: ValkeyServer, store: RedisStore) -> Iterator[HotView]:
    view = HotView(valkey.url)
    yield view
    view.close()


@pytest.fixture
def reader(valkey: ValkeyServer, store: RedisStore) -> Iterator[HotReader]:
    reader = HotReader(valkey.url, shards=1)
    yield reader
    reader.close()
