"""The hot view on a real server: gaps and repeats, lost tails, outages. Nothing half applied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from infra.redis_store import RedisStore, Script, StoreUnavailable
from projections.hot import HotView
from projections.hot_keys import REGISTRY, root
from projections.hot_read import HotReader
from projections.logs import MemoryLogs
from projections.loop import ViewOptions, ViewRunner
from projections.pipeline import (
    START,
    StaleWriter,
    ViewUnavailable,
    position_of,
)
from schemas.digest import digest
from stream_processors.domain.rows import live_rows
from tests.hot_valkey import FLUSH, busy, held, live
from tests.valkey_server import ValkeyServer
from tests.view_shard import Life, ViewShard, job

pytest_plugins = ["tests.hot_fixtures"]


def test_an_empty_view_has_no_position_and_takes_the_first_batch(
    view: HotView, reader: HotReader
) -> None:
    assert view.position(0) is None
    assert reader.position(0) is None
    shard = busy()
    view.store(shard.batch())
    assert view.position(0) == position_of(shard.chain) == reader.position(0)
    assert view.rows(0) == (position_of(shard.chain), list(live_rows(shard.state)))


def test_the_digest_is_that_of_the_jobs_that_live(view: HotView) -> None:
    shard = busy()
    shard.run("j0")
    view.store(shard.batch())
    rows = list(live_rows(shard.state))
    assert len(rows) == 2
    assert view.digest(0) == (position_of(shard.chain), digest(rows), 2)


@pytest.mark.parametrize("seed", range(3))
def test_batches_leave_what_writing_the_whole_state_leaves(
    seed: int, view: HotView, store: RedisStore
) -> None:
    life = Life(100 + seed)
    for _ in range(25):
        for _ in range(life.chance.randint(1, 12)):
            life.step()
        view.store(life.shard.batch())
    stepwise = held(store, live(store))
    view.refill(0, life.shard.state, position_of(life.shard.chain))
    assert held(store, live(store)) == stepwise
    assert len(stepwise) > 20


def test_a_gap_is_refused_and_changes_nothing(view: HotView, store: RedisStore) -> None:
    shard = busy()
    view.store(shard.batch())
    before = held(store, live(store))
    shard.command(job("missed"))
    shard.batch()
    shard.command(job("after the gap"))
    with pytest.raises(StaleWriter):
        view.store(shard.batch())
    assert held(store, live(store)) == before


def test_a_repeated_batch_is_taken_once(view: HotView, reader: HotReader) -> None:
    shard = busy()
    batch = shard.batch()
    view.store(batch)
    view.store(batch)
    counted = reader.statistics(0, 0)
    assert counted is not None
    assert counted.value.counts == {"submitted": 3}
    assert view.position(0) == batch.stop


def test_a_second_writer_that_is_behind_is_refused(valkey: ValkeyServer, view: HotView) -> None:
    shard = busy()
    other = HotView(valkey.url)
    first = shard.batch()
    other.store(first)
    view.position(0)
    shard.command(job("later"))
    view.store(shard.batch())
    shard.command(job("late"))
    behind = replace(shard.batch(), start=first.stop)
    with pytest.raises(StaleWriter):
        other.store(behind)
    with pytest.raises(StaleWriter):
        other.refill(0, shard.state, first.stop)
    other.close()


def test_a_flushed_server_is_found_empty_and_written_anew(
    view: HotView, store: RedisStore, reader: HotReader
) -> None:
    shard = busy()
    view.store(shard.batch())
    assert reader.position(0) is not None
    store.run(FLUSH, [], [])
    assert reader.position(0) is None
    shard.command(job("unheard of"))
    batch = shard.batch()
    with pytest.raises(StaleWriter):
        view.store(batch)
    assert view.position(0) is None
    view.refill(0, batch.state, batch.stop)
    assert view.rows(0) == (batch.stop, list(live_rows(shard.state)))
    assert reader.position(0) == batch.stop
    shard.run("j0")
    view.store(shard.batch())
    assert view.rows(0) == (position_of(shard.chain), list(live_rows(shard.state)))


def test_a_tail_lost_in_a_crash_is_noticed_and_written_anew(
    valkey: ValkeyServer, view: HotView, store: RedisStore
) -> None:
    shard = busy()
    saved = shard.batch()
    view.store(saved)
    valkey.save()
    shard.command(job("in the tail"))
    view.store(shard.batch())
    valkey.kill()
    shard.command(job("meanwhile"))
    batch = shard.batch()
    with pytest.raises(ViewUnavailable):
        view.store(batch)
    valkey.start()
    with pytest.raises(StaleWriter):
        view.store(batch)
    assert view.position(0) == saved.stop
    old = live(store)
    view.refill(0, shard.state, batch.stop)
    assert view.rows(0) == (batch.stop, list(live_rows(shard.state)))
    assert store.keys(f"{root(0, old)}*") == []
    assert not [name for name in store.get_fields(REGISTRY) if name.startswith("doomed")]


def test_a_script_that_the_server_forgot_is_sent_again(valkey: ValkeyServer, view: HotView) -> None:
    shard = busy()
    view.store(shard.batch())
    valkey.save()
    valkey.kill()
    valkey.start()
    shard.command(job("more"))
    batch = shard.batch()
    try:
        view.store(batch)
    except ViewUnavailable:  # the connection to the killed server
        view.store(batch)
    assert view.position(0) == batch.stop


def test_a_script_that_fails_on_its_way_leaves_no_position(
    view: HotView, store: RedisStore, reader: HotReader
) -> None:
    shard = busy()
    view.store(shard.batch())
    store.unlink([f"{root(0, live(store))}pools"])
    store.run(
        Script("return redis.call('SET', KEYS[1], 'x')"), [f"{root(0, live(store))}pools"], []
    )
    shard.command(job("fails half way"))
    with pytest.raises(Exception, match="WRONGTYPE"):
        view.store(shard.batch())
    assert view.position(0) is None
    assert reader.position(0) is None
    view.refill(0, shard.state, position_of(shard.chain))
    assert view.rows(0)[1] == list(live_rows(shard.state))


def test_a_full_server_refuses_the_whole_batch(
    valkey: ValkeyServer, view: HotView, store: RedisStore
) -> None:
    shard = busy()
    view.store(shard.batch())
    before = held(store, live(store))
    shard.command(job("too much"))
    batch = shard.batch()
    valkey.limit("1mb")
    try:
        with pytest.raises(ViewUnavailable):
            view.store(batch)
        assert held(store, live(store)) == before
    finally:
        valkey.limit("0")
    view.store(batch)
    assert view.position(0) == batch.stop


def test_big_batches_pass_the_limits_of_lua(view: HotView) -> None:
    shard = ViewShard()
    shard.command(*(job(f"j{number}") for number in range(9_000)))
    view.store(shard.batch())
    assert view.digest(0) == (position_of(shard.chain), digest(live_rows(shard.state)), 9_000)


def test_the_loop_goes_on_through_kills_of_the_server(
    valkey: ValkeyServer, view: HotView, reader: HotReader
) -> None:
    life = Life(7)
    shard = life.shard
    runner = ViewRunner(view, MemoryLogs({0: shard.partition}), ViewOptions(), lambda: False)
    runner.open()
    for number in range(12):
        for _ in range(10):
            life.step()
        if number % 4 == 1:
            valkey.save()
        if number % 4 == 3:  # loses the two batches before, or only the connection
            valkey.kill()
            valkey.start()
        runner.turn()
        rows = list(live_rows(shard.state))
        assert view.digest(0) == (position_of(shard.chain), digest(rows), len(rows))
    assert reader.position(0) == position_of(shard.chain)


def test_a_server_that_is_not_there_is_unavailable(valkey: ValkeyServer) -> None:
    url = "redis://127.0.0.1:1/0"
    with pytest.raises(ViewUnavailable):
        HotView(url).position(0)
    with pytest.raises(ViewUnavailable):
        HotReader(url, shards=1).position(0)
    with pytest.raises(StoreUnavailable):
        RedisStore(url).get_fields(REGISTRY)


def test_a_bug_in_a_script_is_not_taken_for_an_outage(store: RedisStore) -> None:
    with pytest.raises(Exception, match=r"(?i)unknown") as raised:
        store.run(Script("return redis.call('NOSUCH')"), [], [])
    assert not isinstance(raised.value, StoreUnavailable)


def test_the_first_position_is_that_of_an_empty_log(view: HotView) -> None:
    assert view.rows(0) == (START, [])
    assert view.digest(0) == (START, 0, 0)


def test_only_one_of_two_first_writers_opens_the_view(valkey: ValkeyServer, view: HotView) -> None:
    other = HotView(valkey.url)
    shard = busy()
    batch = shard.batch()
    view.store(batch)
    other.store(batch)  # finds the generation that was opened, and the batch in it
    different: dict[str, Any] = {"stop": replace(batch.stop, value=b"x" * 32)}
    with pytest.raises(StaleWriter):
        other.store(replace(batch, **different))
    other.close()
