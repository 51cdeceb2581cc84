"""The hot view's net effect: batches applied one by one are the state that they lead to."""

from __future__ import annotations

from collections import defaultdict

import pytest

from projections.histogram import bucket, middle, quantile
from projections.hot_net import (
    PRIORITY_STEP,
    Memory,
    Net,
    net_effect,
    order_score,
    remember,
    settle,
    whole_effects,
)
from projections.hot_rows import decode_job, decode_node
from projections.pipeline import START
from schemas.digest import digest
from schemas.terms import FailureClass, JobState, TaskState
from stream_processors.domain.rows import live_rows
from stream_processors.domain.state import State
from tests.cluster import node, uid
from tests.view_shard import Life, ViewShard, job


class Model:
    """What the script does, on dictionaries."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}
        self.sets: dict[str, dict[str, int]] = defaultdict(dict)
        self.tables: dict[str, dict[str, str]] = defaultdict(dict)
        self.counts: dict[str, int] = defaultdict(int)

    def apply(self, net: Net) -> None:
        self.jobs.update(zip(net.jobs[::2], net.jobs[1::2], strict=True))
        for job_id in net.ended:
            self.jobs.pop(job_id, None)
        for group in net.groups:
            self._rank(f"order:{group.pool}", group.ids, group.order)
            self._rank(f"waiting:{group.queue}", group.ids, group.waiting)
            self._rank(f"active:{group.queue}", group.ids, group.active)
            self._rank(f"retrying:{group.queue}", group.ids, group.retrying)
        if net.all_nodes:
            self.tables["nodes"].clear()
        for name in net.lost:
            self.tables["nodes"].pop(name, None)
        for table, flat in (("nodes", net.nodes), ("queues", net.queues), ("pools", net.pools)):
            self.tables[table].update(zip(flat[::2], flat[1::2], strict=True))
        for minute in net.minutes:
            for counter, amount in zip(minute.counts[::2], minute.counts[1::2], strict=True):
                self.counts[str(counter)] += int(amount)

    def _rank(self, name: str, ids: list[str], flat: list[int | str]) -> None:
        for job_id in ids:
            self.sets[name].pop(job_id, None)
        for score, member in zip(flat[::2], flat[1::2], strict=True):
            self.sets[name][str(member)] = int(score)

    def held(self) -> tuple[object, ...]:
        sets = {name: members for name, members in self.sets.items() if members}
        return self.jobs, sets, dict(self.tables)

    def service(self, pool: str = "default") -> list[str]:
        order = self.sets[f"order:{pool}"]
        return sorted(order, key=order.__getitem__)


def whole(state: State) -> Model:
    model = Model()
    for net in whole_effects(state):
        model.apply(net)
    return model


def follow(shard: ViewShard, model: Model, memory: Memory | None) -> Memory:
    batch = shard.batch()
    if batch.start == START:
        memory = Memory()
    model.apply(net_effect(batch, memory))
    if memory is None:
        return remember(batch.state)
    settle(batch, memory)
    return memory


@pytest.mark.parametrize("seed", range(8))
def test_batches_of_any_size_lead_to_what_the_whole_state_says(seed: int) -> None:
    life = Life(seed)
    model = Model()
    memory: Memory | None = None
    for _ in range(60):
        for _ in range(life.chance.choice((1, 1, 2, 10))):
            life.step()
        if life.chance.random() < 0.1:
            memory = None  # a restarted process
        memory = follow(life.shard, model, memory)
        assert model.held() == whole(life.shard.state).held()
    rows = [decode_job(text.encode()).row for text in model.jobs.values()]
    assert digest(rows) == digest(live_rows(life.shard.state))
    depths = {f"{queue.pool}/{queue.name}": queue for queue in life.shard.state.queues.values()}
    for name, queue in depths.items():
        assert len(model.sets[f"waiting:{name}"]) == queue.waiting
        assert len(model.sets[f"active:{name}"]) == queue.active


def test_a_job_that_lived_within_one_batch_is_one_removal() -> None:
    shard = ViewShard()
    shard.report(node())
    shard.command(job("a"))
    shard.run("a")
    net = net_effect(shard.batch(), Memory())
    assert (net.jobs, net.ended) == ([], [uid("a")])
    assert net.groups[0].ids == [uid("a")]
    assert not net.groups[0].waiting + net.groups[0].active


def test_service_is_by_priority_and_then_by_age() -> None:
    shard = ViewShard()
    shard.command(job("old", priority=10), job("urgent", priority=90), job("young", priority=10))
    shard.command(job("urgent too", priority=90))
    model = Model()
    follow(shard, model, None)
    assert model.service() == [uid("urgent"), uid("urgent too"), uid("old"), uid("young")]


def test_scores_stay_exact_where_lua_counts_in_floats() -> None:
    shard = ViewShard()
    shard.command(job("a", priority=0))
    one = shard.job("a")
    one.no = PRIORITY_STEP - 1
    assert order_score(one) == int(float(order_score(one))) < 2**53
    assert float(order_score(one)) - 1 != float(order_score(one))


def test_a_job_gets_its_place_when_what_it_waited_for_has_ended() -> None:
    shard = ViewShard()
    shard.command(job("first"))
    shard.command(job("second", depends_on=[(uid("first"), "succeeded")]))
    model = Model()
    memory = follow(shard, model, None)
    assert model.service() == [uid("first")]
    assert decode_job(model.jobs[uid("second")].encode()).blocked
    shard.report(node(cpu_milli=1000))
    shard.says("first", TaskState.STARTED)
    memory = follow(shard, model, memory)
    shard.state.pools["default"].nodes.clear()  # nothing new is placed
    shard.says("first", TaskState.ENDED)
    follow(shard, model, memory)
    assert model.service() == [uid("second")]
    assert not decode_job(model.jobs[uid("second")].encode()).blocked


def test_nodes_show_what_is_free_as_tasks_come_and_go() -> None:
    shard = ViewShard()
    shard.report(node("n1", gpus=("A100", "A100")), node("n2"))
    model = Model()
    memory = follow(shard, model, None)
    shard.command(job("a", gpu_milli=500))
    memory = follow(shard, model, memory)
    busy = decode_node(model.tables["nodes"]["n1"].encode())
    assert [gpu.free_milli for gpu in busy.gpus] == [500, 1000]
    assert (busy.cpu_free_milli, busy.tasks) == (7000, 1)
    assert decode_job(model.jobs[uid("a")].encode()).nodes == ("n1",)
    shard.run("a")
    memory = follow(shard, model, memory)
    assert decode_node(model.tables["nodes"]["n1"].encode()).cpu_free_milli == 8000
    shard.lose("n1")
    follow(shard, model, memory)
    assert list(model.tables["nodes"]) == ["n2"]


def test_counters_tell_submissions_starts_ends_waits_and_runs() -> None:
    shard = ViewShard()
    shard.command(job("a"), job("b", max_retries=0))
    shard.wait(8)
    shard.report(node())
    for key in ("a", "b"):
        shard.says(key, TaskState.STARTED)
    shard.wait(3)
    shard.says("a", TaskState.ENDED)
    shard.says("b", TaskState.ENDED, failure=FailureClass.USER_ERROR)
    model = Model()
    follow(shard, model, None)
    waited, ran = bucket(8_000_000), bucket(3_000_000)
    assert model.counts == {
        "submitted:default/default": 2,
        "started:default/default": 2,
        f"wait.{waited}:default/default": 2,
        "succeeded:default/default": 1,
        "dead_letter:default/default": 1,
        f"run.{ran}:default/default": 2,
    }


def test_a_title_is_what_the_spec_says_or_nothing() -> None:
    shard = ViewShard()
    shard.command(job("a", job_type="inference"))
    model = Model()
    follow(shard, model, None)
    read = decode_job(model.jobs[uid("a")].encode())
    assert (read.job_type, read.name) == ("inference", "job a")
    shard.job("a").key_id = 7
    assert decode_job(whole(shard.state).jobs[uid("a")].encode()).job_type == ""
    shard.job("a").key_id, shard.job("a").spec = 0, b"\xff"
    assert decode_job(whole(shard.state).jobs[uid("a")].encode()).job_type == ""


def test_random_lives_come_to_every_end() -> None:
    seen: set[JobState] = set()
    for seed in range(12):
        life = Life(seed)
        for _ in range(250):
            life.step()
            seen |= {some.state for some in life.shard.state.jobs.values()}
    assert seen >= set(JobState) - {JobState.UNKNOWN, JobState.PENDING, JobState.REFUSED}


def test_a_histogram_answers_quantiles_within_a_sixteenth() -> None:
    values = [7 * step * step for step in range(1, 2_000)]
    counts: dict[int, int] = defaultdict(int)
    for value in values:
        counts[bucket(value)] += 1
        assert abs(middle(bucket(value)) - value) <= value / 16
    for share in (1, 500, 990, 1000):
        truth = values[max(-(-len(values) * share // 1000), 1) - 1]
        assert abs(quantile(counts, share) - truth) <= truth / 8
    assert quantile({}, 500) == 0
