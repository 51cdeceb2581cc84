"""Generations of the hot view: built beside the live one, flipped, rolled back, swept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.redis_store import RedisStore
from projections.hot import HotView
from projections.hot_keys import meta, root
from projections.hot_read import HotReader
from projections.logs import MemoryLogs
from projections.loop import ViewOptions, ViewRunner
from projections.pipeline import (
    StaleWriter,
    ViewBehind,
    ViewReplaced,
    position_of,
)
from projections.rebuild import hot_digest, rebuild
from schemas.digest import digest
from stream_processors.domain.rows import live_rows
from tests.hot_valkey import busy, live
from tests.valkey_server import ValkeyServer
from tests.view_shard import Life, job

pytest_plugins = ["tests.hot_fixtures"]


def test_a_rebuilt_view_takes_the_place_of_the_live_one(view: HotView, reader: HotReader) -> None:
    life = Life(8)
    logs = MemoryLogs({0: life.shard.partition})
    for _ in range(150):
        life.step()
    runner = ViewRunner(view, logs, ViewOptions(), lambda: False)
    runner.open()
    runner.turn()
    for _ in range(50):
        life.step()
    report = rebuild(
        view, hot_digest, MemoryLogs({0: life.shard.partition}), ViewOptions(), lambda: False
    )
    assert [shard.live_agreed for shard in report.shards] == [True]
    assert reader.position(0) == position_of(life.shard.chain)
    with pytest.raises(ViewReplaced):
        runner.turn()
    runner.open()
    life.step()
    runner.turn()
    assert view.digest(0)[:2] == (
        position_of(life.shard.chain),
        digest(live_rows(life.shard.state)),
    )
    counted = reader.statistics(0, 0)
    assert counted is not None
    assert counted.value.counts["submitted"] > 0


def test_readers_see_the_old_generation_until_the_new_one_is_flipped(
    valkey: ValkeyServer, view: HotView, store: RedisStore, reader: HotReader
) -> None:
    shard = busy()
    batch = shard.batch()
    view.store(batch)
    first = live(store)
    built = view.new_generation()
    assert built.generation is not None
    assert built.position(0) is None
    built.store(batch)
    shard.command(job("built only"))
    built.store(shard.batch())
    assert reader.position(0) == batch.stop
    assert built.rows(0) == (position_of(shard.chain), list(live_rows(shard.state)))
    view.flip(built.generation)
    assert reader.position(0) == position_of(shard.chain)
    shard.command(job("after the flip"))
    after = shard.batch()
    with pytest.raises(ViewReplaced):
        view.store(after)
    view.store(after)
    assert reader.position(0) == after.stop
    view.flip(first)  # a rollback
    assert reader.position(0) == batch.stop
    assert view.position(0) == batch.stop
    built.close()


def test_a_generation_that_is_behind_cannot_become_the_live_one(
    view: HotView, reader: HotReader
) -> None:
    shard = busy()
    batch = shard.batch()
    view.store(batch)
    built = view.new_generation()
    built.store(batch)
    shard.command(job("more"))
    more = shard.batch()
    view.store(more)
    assert built.generation is not None
    with pytest.raises(ViewBehind):
        view.flip(built.generation)
    assert reader.position(0) == more.stop
    built.store(more)
    view.flip(built.generation)
    assert view.position(0) == more.stop
    built.close()


def test_a_generation_never_finished_goes_when_the_next_is_begun(
    view: HotView, store: RedisStore
) -> None:
    shard = busy()
    batch = shard.batch()
    view.store(batch)
    abandoned = view.new_generation()
    abandoned.store(batch)
    view.new_generation()
    assert abandoned.generation is not None
    assert store.keys(f"{root(0, abandoned.generation)}*") == []
    with pytest.raises(StaleWriter):
        abandoned.store(batch=replace(batch, start=batch.stop))
    abandoned.close()


def test_of_all_generations_flipped_only_one_is_kept_for_rollback(
    view: HotView, store: RedisStore
) -> None:
    shard = busy()
    batch = shard.batch()
    view.store(batch)
    generations = [live(store)]
    for _ in range(3):
        built = view.new_generation()
        built.store(batch)
        assert built.generation is not None
        view.flip(built.generation)
        generations.append(built.generation)
        built.close()
    kept = [number for number in generations if store.get_fields(meta(0, number))]
    assert kept == generations[-2:]


def test_a_refilled_view_says_since_when_it_counts(view: HotView, reader: HotReader) -> None:
    shard = busy()
    view.refill(0, shard.state, position_of(shard.chain))
    counted = reader.statistics(0, 0)
    assert counted is not None
    assert counted.value.counted_from == shard.state.at
    assert counted.value.counts == {}
