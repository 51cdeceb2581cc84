"""Records of the input topics as they come, spoilt or damaged; and a shard's life among them."""

from __future__ import annotations

from random import Random
from typing import Any

from schemas.codec import encode
from schemas.commands import (
    CancelJob,
    Dependency,
    PurgeDeadLetters,
    PutPool,
    PutQueue,
    SubmitJob,
    SubmitJobs,
)
from schemas.reports import DrainNode, Heartbeat, Probe, RegisterNode, TasksReported
from schemas.terms import (
    Condition,
    Extra,
    FailureClass,
    GpuDevice,
    JobSpec,
    JobTerms,
    Label,
    Micros,
    QueueDefaults,
    QueueState,
    RetryRule,
    TaskState,
)
from stream_processors.domain.state import TaskPhase
from tests.cluster import node, uid
from tests.poison_world import PoisonShard, damage, spoil

BIGGEST = 2_000_000
"""Bytes of a record here: how several big ones share decisions is the engine's business."""
KEYS = ("a", "b", "c", "d")


def job_spec(chance: Random) -> JobSpec:
    return JobSpec(
        "training", "a name", command=("true",), config=chance.choice(("{}", "[", "NaN"))
    )


def submit(chance: Random) -> SubmitJob:
    rules = (RetryRule(FailureClass.USER_ERROR, 2, 1), RetryRule(FailureClass.TIMEOUT, 0))
    tasks = chance.choice((1, 1, 2, 3))
    terms = JobTerms(
        tasks=tasks,
        min_members=chance.choice((0, tasks)),
        queue=chance.choice(("", "default", "q")),
        cpu_milli=100,
        memory_mib=10,
        gpu_milli=chance.choice((0, 500)),
        extras=(Extra("licence", 1),),
        node_selector=(Label("zone", "a"),),
        max_retries=chance.choice((0, 1, -1)),
        backoff_s=1,
        deadline_s=chance.choice((0, 5)),
        retry_rules=rules,
    )
    key = chance.choice(KEYS)
    needs = (Dependency(uid(chance.choice(KEYS)), chance.choice(list(Condition))),)
    depends_on = needs if chance.random() < 0.3 else ()
    redrives = chance.choice(("", uid(chance.choice(KEYS))))
    return SubmitJob(terms, key, 1, depends_on, 0, "me", redrives=redrives, spec=job_spec(chance))


def rows(chance: Random) -> SubmitJobs:
    count = chance.randint(0, 5)
    keys = [chance.choice((*KEYS, f"k{row}")) for row in range(count)]
    return SubmitJobs([JobTerms()], [0] * count, keys, [5] * count, 0, "me", 44, [b"spec"] * count)


def command(chance: Random) -> Any:
    made = (
        submit,
        submit,
        submit,
        rows,
        lambda _: CancelJob(uid(chance.choice(KEYS)), "no", "me"),
        lambda _: PurgeDeadLetters((uid(chance.choice(KEYS)), "0:commands:1"), "dealt", "me"),
        lambda _: PutQueue(
            "default",
            "q",
            chance.choice(list(QueueState)),
            "text",
            "me",
            (QueueDefaults(retry_rules=(RetryRule(FailureClass.TIMEOUT, 1),)),),
            chance.choice((0, 1, 3_600)),
        ),
        lambda _: PutPool("default", "text", "me", tenant_retries_per_hour=chance.choice((0, 1))),
    )
    return chance.choice(made)(chance)


def report(shard: PoisonShard, chance: Random) -> Any:
    name, incarnation = chance.choice(("n1", "n2", "n3")), chance.randint(1, 4)
    made = (
        lambda: registration(name, incarnation),
        lambda: Heartbeat(name, "default", incarnation, 1, Micros(0)),
        lambda: DrainNode(name, "default", incarnation, "repair", Micros(0)),
        lambda: Probe(0, 1, b"o" * 16, 1),
        *[lambda: tasks_reported(shard, chance)] * 6,
    )
    return chance.choice(made)()


def registration(name: str, incarnation: int) -> RegisterNode:
    made = node(name, incarnation, labels={"zone": "a"})
    return RegisterNode(
        **{field: getattr(made, field) for field in made.__slots__}
        | {"gpus": (GpuDevice("A100", 80),), "extras": (Extra("licence", 5),)}
    )


def tasks_reported(shard: PoisonShard, chance: Random) -> TasksReported:
    held = [
        (some, index, task)
        for some in shard.state.jobs.values()
        for index, task in some.tasks.items()
        if task.phase is not TaskPhase.ENDED
    ]
    if not held:
        return TasksReported("n1", "default", 1, [], [], [], [], [], [], [], [], [])
    some, index, task = chance.choice(held)
    holder = shard.state.nodes[task.node_no]
    return TasksReported(
        node=holder.name,
        pool=holder.pool,
        incarnation=holder.incarnation,
        job_nos=[some.no],
        attempts=[some.attempt],
        tasks=[index],
        states=[chance.choice(list(TaskState))],
        ats=[0],
        exit_codes=[chance.choice((0, 1, -9))],
        failures=[chance.choice(list(FailureClass))],
        messages=["it broke"],
        endpoints=["host:1"],
        tail_rows=[0],
        tails=["last line 17"],
    )


def poisoned(message: Any, chance: Random) -> bytes:
    """A record as it is, spoilt, or damaged."""
    act = chance.random()
    if act < 0.4:
        return encode(message)
    value = encode(spoil(message, chance))[:BIGGEST]
    return damage(value, chance) if act > 0.9 else value


def live(shard: PoisonShard, chance: Random, steps: int) -> None:
    """So many steps of a life among poison."""
    shard.take_reports(*(encode(registration(name, 1)) for name in ("n1", "n2")))
    for _ in range(steps):
        act = chance.random()
        count = chance.randint(1, 3)
        if act < 0.4:
            shard.take_commands(*(poisoned(command(chance), chance) for _ in range(count)))
        elif act < 0.85:
            told = [poisoned(report(shard, chance), chance) for _ in range(count)]
            shard.take_reports(*told)
        else:
            shard.pass_time(chance.choice((1, 6, 40)))
