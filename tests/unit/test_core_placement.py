"""Placement: who gets which node and devices, and the explanation when nobody does."""

from __future__ import annotations

from schemas.terms import JobState, Label, TaskState
from stream_processors.domain.explain import explain
from tests.cluster import Shard, gang, node, put_queue, submission


def reasons(shard: Shard, key: str) -> dict[str, str]:
    found = explain(shard.state, shard.job(key).job_id)
    assert found is not None
    return {reason.code: reason.message for reason in found.reasons}


def test_higher_priority_goes_first_then_the_older_job() -> None:
    shard = Shard()
    shard.command(submission("a", 10), submission("b", 90), submission("c", 90))
    shard.report(node(cpu_milli=2000))
    assert shard.states("a", "b", "c") == [
        JobState.QUEUED,
        JobState.SCHEDULED,
        JobState.SCHEDULED,
    ]


def test_a_job_that_does_not_fit_lets_others_pass() -> None:
    shard = Shard()
    shard.report(node(cpu_milli=2000))
    shard.command(submission("big", cpu_milli=4000), submission("small"))
    assert shard.states("big", "small") == [JobState.QUEUED, JobState.SCHEDULED]


def test_fractional_gpus_share_one_device_and_whole_ones_take_free_devices() -> None:
    shard = Shard()
    shard.report(node(gpus=["A100"] * 4))
    shard.command(
        submission("half", gpu_milli=500),
        submission("third", gpu_milli=300),
        submission("two", gpu_milli=2000),
        submission("rest", gpu_milli=300),
    )
    devices = [shard.job(key).tasks[0].devices for key in ("half", "third", "two", "rest")]
    assert devices == [b"\0", b"\0", b"\1\2", b"\3"]
    assert shard.state.nodes[1].gpu_free == [200, 0, 0, 700]


def test_gpus_come_back_when_tasks_end() -> None:
    shard = Shard()
    shard.report(node(gpus=["A100"] * 2))
    shard.command(submission("a", gpu_milli=2000), submission("b", gpu_milli=1000))
    assert shard.states("b") == [JobState.QUEUED]
    shard.run("a")
    assert shard.states("b") == [JobState.SCHEDULED]


def test_models_and_labels_are_hard_conditions() -> None:
    shard = Shard()
    shard.report(node("old", gpus=["P100"]), node("new", gpus=["H100"], labels={"zone": "b"}))
    shard.command(
        submission("model", gpu_milli=1000, gpu_models=("H100",)),
        submission("label", node_selector=(Label("zone", "b"),)),
        submission("nowhere", node_selector=(Label("zone", "c"),)),
    )
    holder = shard.state.node_nos["new"]
    assert shard.job("model").tasks[0].node_no == holder
    assert shard.job("label").tasks[0].node_no == holder
    assert "never_fits" in reasons(shard, "nowhere")


def test_tasks_of_a_plain_job_start_as_they_fit() -> None:
    shard = Shard()
    shard.report(node(cpu_milli=2000))
    shard.command(submission("many", tasks=3))
    assert len(shard.job("many").tasks) == 2
    shard.says("many", TaskState.STARTED, 0)
    shard.says("many", TaskState.ENDED, 0)
    assert len(shard.job("many").tasks) == 3
    for index in (1, 2):
        shard.says("many", TaskState.ENDED, index)
    assert shard.states("many") == [JobState.SUCCEEDED]


def test_a_draining_node_takes_nothing_new() -> None:
    shard = Shard()
    shard.report(node())
    shard.state.nodes[1].draining = True
    shard.command(submission("a"))
    assert shard.states("a") == [JobState.QUEUED]


def test_a_waiting_job_is_told_how_many_are_before_it_and_what_is_short() -> None:
    shard = Shard()
    shard.report(node(cpu_milli=1000))
    shard.command(submission("a"), submission("b", 90), submission("c", 10))
    told = reasons(shard, "c")
    assert told["no_room"] == "1 of 1 nodes: too little CPU free"
    assert told["behind"] == "1 jobs of cluster 'default' are served before it"


def test_a_gang_is_told_how_many_members_would_fit() -> None:
    shard = Shard()
    shard.report(node(cpu_milli=3000))
    shard.command(submission("a"), gang("g", 3))
    assert reasons(shard, "g")["gang_room"] == "room for 2 of 3 gang members; all start together"
    shard.command(gang("h", 9))
    assert "has room for 3 of 9 members" in reasons(shard, "h")["never_fits"]


def test_explanations_name_the_rule_that_holds_a_job() -> None:
    shard = Shard()
    shard.command(put_queue("q"), submission("a", queue="q"))
    assert "no_nodes" in reasons(shard, "a")
    shard.report(node())
    assert "starting" in reasons(shard, "a")
    shard.says("a", TaskState.STARTED)
    assert "running" in reasons(shard, "a")
    shard.says("a", TaskState.ENDED)
    assert "ended" in reasons(shard, "a")


def test_one_decision_places_no_more_than_its_bound_and_the_next_goes_on() -> None:
    shard = Shard(placements_max=3)
    shard.report(node(cpu_milli=8000))
    shard.command(*[submission(f"j{number}") for number in range(7)])
    placed = [sum(bool(job.tasks) for job in shard.state.jobs.values())]
    for _ in range(2):
        shard.wait(0)
        placed.append(sum(bool(job.tasks) for job in shard.state.jobs.values()))
    assert placed == [3, 6, 7]
