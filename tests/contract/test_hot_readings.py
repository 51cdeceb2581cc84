"""What can be read of the hot view: each answer at one position, of one generation."""

from __future__ import annotations

from projections.hot import HotView
from projections.hot_read import HotReader
from projections.pipeline import (
    position_of,
)
from schemas.commands import CancelJob, PutPool, PutQueue
from schemas.terms import QueueDefaults, QueueState, Switch, TaskState
from stream_processors.domain.rows import live_rows
from tests.cluster import node, put_queue, uid
from tests.hot_valkey import busy
from tests.view_shard import ViewShard, job

pytest_plugins = ["tests.hot_fixtures"]


def test_a_job_reading_says_what_where_and_at_which_place(view: HotView, reader: HotReader) -> None:
    shard = busy()
    shard.command(job("urgent", priority=90, cpu_milli=4000))
    view.store(shard.batch())
    placed = reader.job(0, uid("j0"))
    assert placed is not None
    assert placed.value is not None
    assert placed.position == position_of(shard.chain)
    assert placed.value.rank is None
    assert placed.value.job.row == next(live_rows(shard.state))
    assert (placed.value.job.nodes, placed.value.job.job_type) == (("n1",), "training")
    ranks = []
    for key in ("urgent", "j2"):
        reading = reader.job(0, uid(key))
        assert reading is not None
        assert reading.value is not None
        rank = reader.waiting_rank(reading.value.job)
        assert rank is not None
        assert rank.value == reading.value.rank
        ranks.append(rank.value)
    assert ranks == [0, 1]
    missing = reader.job(0, uid("never"))
    assert missing is not None
    assert missing.value is None


def test_queue_readings_count_what_waits_runs_and_retries(view: HotView, reader: HotReader) -> None:
    shard = busy()
    shard.command(put_queue("night", QueueState.PAUSED), job("paused", queue="night"))
    since = shard.now
    shard.says("j0", TaskState.STARTED)
    view.store(shard.batch())
    queue = reader.queue("default", "default")
    assert queue is not None
    assert queue.value is not None
    assert (queue.value.waiting, queue.value.active, queue.value.retrying) == (1, 2, 0)
    assert queue.value.oldest_since == since
    queues = reader.queues(0)
    assert queues is not None
    assert [(each.row.name, each.row.state, each.waiting) for each in queues.value] == [
        ("default", "open", 1),
        ("night", "paused", 1),
    ]
    none = reader.queue("default", "no such")
    assert none is not None
    assert none.value is None


def test_pool_readings_show_nodes_with_what_is_free(view: HotView, reader: HotReader) -> None:
    shard = busy()
    shard.report(node("a-node"))
    view.store(shard.batch())
    nodes = reader.nodes("default")
    pools = reader.pools(0)
    assert nodes is not None
    assert pools is not None
    assert [(each.name, each.cpu_free_milli, each.tasks) for each in nodes.value] == [
        ("a-node", 4000, 1),
        ("n1", 0, 2),
    ]
    assert [(pool.row.name, pool.waiting) for pool in pools.value] == [("default", 0)]
    assert list(pools.value[0].nodes) == nodes.value


def test_statistics_are_by_queue_and_from_a_minute_on(view: HotView, reader: HotReader) -> None:
    shard = busy()
    shard.command(put_queue("other"), job("elsewhere", queue="other"))
    shard.wait(2)
    shard.run("j0")
    view.store(shard.batch())
    early = shard.now
    shard.wait(25 * 3600)
    shard.run("j1")
    view.store(shard.batch())
    of_all = reader.statistics(0, 0)
    assert of_all is not None
    assert of_all.value.counts["succeeded"] == 1, "what is older than 24 hours is dropped"
    assert of_all.value.run_p50_us == of_all.value.run_p99_us
    recent = reader.statistics(0, early + 60_000_000, ("default", "other"))
    assert recent is not None
    assert "succeeded" not in recent.value.counts
    assert of_all.value.counted_from == 0


def test_loads_are_what_has_not_ended_of_everyone_and_of_each_tenant(
    view: HotView, reader: HotReader
) -> None:
    shard = ViewShard()
    shard.command(job("a", tenant="one"), job("b", tenant="one"), job("c", tenant="two"))
    view.store(shard.batch())
    found = reader.loads(0, "one")
    assert found is not None
    everyone, one = found.value
    size = len(shard.state.jobs[1].spec)
    assert (everyone.jobs, everyone.spec_bytes) == (3, 3 * size)
    assert (one.jobs, one.spec_bytes) == (2, 2 * size)
    shard.command(*(CancelJob(uid(key, "one"), "", "someone") for key in "ab"))
    view.store(shard.batch())
    found = reader.loads(0, "one")
    assert found is not None
    assert (found.value[0].jobs, found.value[1].jobs) == (1, 0)
    view.refill(0, shard.state, position_of(shard.chain))
    found = reader.loads(0, "two")
    assert found is not None
    assert (found.value[0].jobs, found.value[1].jobs) == (1, 1)


def test_pools_and_queues_say_how_often_things_are_tried_again(
    view: HotView, reader: HotReader
) -> None:
    shard = ViewShard()
    shard.command(
        PutPool("default", "the pool", "someone", Switch.OFF, 5),
        PutQueue(
            "default", "q", QueueState.OPEN, "", "someone", (QueueDefaults(max_retries=1),), 60
        ),
    )
    view.store(shard.batch())
    pools, queue = reader.pools(0), reader.queue("default", "q")
    assert pools is not None
    assert queue is not None
    assert queue.value is not None
    assert (pools.value[0].row.retries_on, pools.value[0].row.tenant_retries_per_hour) == (False, 5)
    assert (queue.value.row.defaults.max_retries, queue.value.row.retries_per_hour) == (1, 60)
