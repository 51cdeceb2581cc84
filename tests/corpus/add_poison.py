"""`python -m tests.corpus.add_poison` keeps poison: small records that must never stop anybody.

Writes `poison/<topic>.<what>.bin`, bytes as they would lie in a topic. A file that is there is
never rewritten: what once was poison stays it. `tests/unit/test_poison_corpus.py` replays all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
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
from schemas.dispatch import NO_RELEASES, NO_STARTS, NO_STOPS, Dispatch, Starts
from schemas.public import LogLines
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
    Switch,
    TaskState,
    Topology,
)
from tests.cluster import node, uid
from tests.message_samples import sample

POISON = Path(__file__).parent / "poison"
LARGEST, SMALLEST = 2**63 - 1, -(2**63)
ODD = "\0\u202e\N{PILE OF POO}'; DROP TABLE jobs; --{0}%s\\"


def submit(**changes: Any) -> SubmitJob:
    """A good submission but for these."""
    terms = changes.pop("terms", JobTerms())
    good = SubmitJob(terms, "poison", 50, (), 0, "me", spec=JobSpec("training", command=("true",)))
    return replace(good, **changes)


def garbage() -> Iterator[tuple[str, bytes]]:
    """Bytes that are no message, for every topic."""
    good = encode(submit())
    yield "empty", b""
    yield "wrong-magic-byte", b"\x01" + good[1:]
    yield "unknown-schema", b"\0\0\x01\x2f\xff" + good[5:]
    yield "truncated", good[:-3]
    yield "too-long", good + b"\0"
    yield "json", b'{"job_type": "training"}'
    yield "lone-surrogate", good.replace(b"poison", b"poi\xed\xa0\x80")
    yield "frame-only", good[:5]
    yield "endless-number", good[:5] + b"\xff" * 40
    yield "announces-the-world", good[:5] + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"
    yield "a-snapshot-on-the-wrong-topic", encode(sample(LogLines))


def commands() -> Iterator[tuple[str, object]]:
    """Readable commands that nobody should have sent."""
    million = JobTerms(tasks=1_000_000, min_members=1_000_000)
    yield "million-task-gang", submit(terms=million)
    yield "self-dependency", submit(depends_on=(Dependency(uid("poison")),))
    yield "unknown-dependency", submit(depends_on=(Dependency(ODD, Condition.UNKNOWN),))
    yield "cycle", submit(idempotency_key="x", depends_on=(Dependency(uid("poison")),))
    for name, value in (("largest", LARGEST), ("smallest", SMALLEST)):
        numbers: dict[str, Any] = dict.fromkeys(JobTerms.__slots__, value)
        words = ("tenant", "pool", "queue", "topology", "extras", "gpu_models", "node_selector")
        for word in (*words, "retry_rules"):
            del numbers[word]
        rule = RetryRule(FailureClass.TIMEOUT, value, value, value, value)
        extras = (Extra("x", value),)
        terms = JobTerms(**numbers, extras=extras, retry_rules=(rule,))
        yield f"{name}-numbers", submit(terms=terms, priority=value, key_id=value)
        yield f"{name}-priority", submit(priority=value)
        yield f"{name}-gpu", submit(terms=JobTerms(gpu_milli=value))
        rows = SubmitJobs([JobTerms()], [value], ["k"], [value], value, "", value, [b""])
        yield f"{name}-rows", rows
        defaults = QueueDefaults(value, value, value, value, value, value, value)
        queue = PutQueue("default", "q", QueueState.OPEN, "", "", (defaults,), value)
        yield f"{name}-defaults", queue
        yield f"{name}-budget", PutPool("default", "", "", Switch.UNKNOWN, value)
    yield "odd-texts", submit(terms=JobTerms(ODD, ODD, ODD), idempotency_key=ODD, actor=ODD)
    yield "odd-actor", submit(actor=ODD, causation_id=ODD, redrives=ODD)
    yield "odd-spec", submit(idempotency_key="odd", spec=JobSpec(ODD, ODD, ODD, (ODD,), config=ODD))
    yield "nan-config", submit(idempotency_key="nan", spec=JobSpec("t", config='{"a": NaN}'))
    yield "unknown-topology", submit(terms=JobTerms(topology=Topology.UNKNOWN))
    yield "unequal-columns", SubmitJobs([JobTerms()], [0, 0], ["k"], [], 0, "", 44, [])
    yield "no-rows", SubmitJobs([], [], [], [], 0, "me", 44, [])
    yield "specs-of-nothing", SubmitJobs([JobTerms()], [0], ["k"], [5], 0, "me", 9_999, [b"\xff"])
    yield "cancel-of-nothing", CancelJob(ODD, ODD, ODD)
    yield "purge-of-nothing", PurgeDeadLetters(("0:commands:" + "9" * 30, ODD), ODD, ODD)
    yield "queue-of-no-pool", PutQueue(ODD, ODD, QueueState.UNKNOWN, ODD, ODD)
    yield "pool-without-a-name", PutPool("", ODD, ODD)


def reports() -> Iterator[tuple[str, object]]:
    """Readable reports that no agent should have sent."""
    yield "unknown-node", Heartbeat(ODD, ODD, 1, LARGEST, Micros(SMALLEST))
    yield "negative-incarnation", Heartbeat("n1", "default", SMALLEST, -1, Micros(0))
    yield "drain-of-nothing", DrainNode("nobody", "default", 1, ODD, Micros(0))
    yield "foreign-probe", Probe(LARGEST, SMALLEST, b"\xff", LARGEST)
    gpus = tuple(GpuDevice(ODD, LARGEST, SMALLEST) for _ in range(300))
    doubled = (Extra("x", 1), Extra("x", 2))
    labels = (Label("", ""), Label("", ODD))
    good = node("poison", 1)
    spoilt: dict[str, dict[str, Any]] = {
        "absurd-amounts": {"cpu_milli": LARGEST, "memory_mib": SMALLEST},
        "too-many-gpus": {"gpus": gpus},
        "doubled-extras": {"extras": doubled},
        "nameless-labels": {"labels": labels},
        "nameless-node": {"node": ""},
        "odd-node": {"node": ODD, "address": ODD},
        "no-pool": {"pool": ODD},
        "endless-lease": {"lease_s": LARGEST},
        "last-incarnation": {"incarnation": LARGEST},
    }
    for name, changes in spoilt.items():
        registered: RegisterNode = replace(good, **changes)
        yield name, registered
    rows = {"job_nos": [LARGEST, SMALLEST, 0], "attempts": [1, 1, 1], "tasks": [0, -1, LARGEST]}
    told = TasksReported(
        node="nobody",
        pool="default",
        incarnation=1,
        **rows,
        states=[TaskState.ENDED] * 3,
        ats=[LARGEST] * 3,
        exit_codes=[SMALLEST] * 3,
        failures=[FailureClass.UNKNOWN] * 3,
        messages=[ODD] * 3,
        endpoints=[ODD] * 3,
        tail_rows=[LARGEST],
        tails=[ODD],
    )
    yield "tasks-of-nobody", told
    yield "tasks-of-another-attempt", replace(told, node="n1")
    yield "unequal-columns", replace(told, node="n1", attempts=[])
    yield "unequal-tails", replace(told, node="n1", tails=[])


def dispatches() -> Iterator[tuple[str, object]]:
    """What no engine says to an agent."""
    plain = Dispatch(
        shard=0,
        epoch=0,
        node="node-1",
        incarnation=1,
        floor=0,
        registered=False,
        register_again=False,
        starts=NO_STARTS,
        releases=NO_RELEASES,
        stops=NO_STOPS,
    )
    starts = Starts(
        [LARGEST], b"", [1], [0], [1], [JobTerms()], [0], [b""], [0], [9_999], [b"\xff"]
    )
    yield "old-epoch", replace(plain, starts=starts)
    yield "another-incarnation", replace(plain, epoch=1, incarnation=SMALLEST, starts=starts)
    yield "another-kind", sample(LogLines)


def write() -> list[str]:
    """Write the files that are missing; answers their names."""
    kinds = (("commands", commands()), ("reports", reports()), ("dispatch", dispatches()))
    made = {f"any.{name}": value for name, value in garbage()}
    for topic, found in kinds:
        made |= {f"{topic}.{name}": encode(message) for name, message in found}
    POISON.mkdir(exist_ok=True)
    written = []
    for name, value in made.items():
        path = POISON / f"{name}.bin"
        if not path.exists():
            path.write_bytes(value)
            written.append(path.name)
    return written


if __name__ == "__main__":
    sys.stdout.write("".join(f"wrote {name}\n" for name in write()))
