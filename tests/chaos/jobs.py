"""The kinds of jobs that flow through a chaos run, and what each must come to. Values only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schemas.codec import encode_body
from schemas.ids import format_job_id, job_id, partition_of
from schemas.terms import EnvVar, JobSpec, JobTerms
from tests.chaos.options import HERE_POOL, OTHER_POOL
from tests.chaos.task import COMMAND, environment
from tests.chaos.world import SHARDS

TENANT = "default"
CPU_MILLI = 100
MEMORY_MIB = 32
START_TIMEOUT_S = 60
GRACE_S = 1
ALWAYS = 1_000_000
RETRIES = 20
"""For jobs that must succeed: what is killed under them may cost budget now and then."""

SUCCEEDS = frozenset({"succeeded"})
DIES = frozenset({"dead_letter"})
IS_CANCELLED = frozenset({"cancelled"})
MAY_BE_CANCELLED = frozenset({"cancelled", "succeeded"})


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: how its tasks behave, and the states that it may end in.

    `share` is its part of all stories. Tasks live `ticks` ticks; the first `fails` attempts fail.
    """

    name: str
    share: float
    final: frozenset[str] = SUCCEEDS
    ticks: int = 0
    fails: int = 0
    members: int = 0
    max_retries: int = RETRIES
    backoff_s: int = 1
    bulk: bool = False
    may_be_refused: bool = False


KINDS = (
    Kind("plain", 0.68, bulk=True),
    Kind("rest", 0.07),
    Kind("short", 0.06, ticks=2),
    Kind("long", 0.02, ticks=20),
    Kind("flaky", 0.03, fails=1, bulk=True),
    Kind("broken", 0.03, DIES, fails=ALWAYS, max_retries=2),
    Kind("gang", 0.035, ticks=1, members=2),
    Kind("gang-of-three", 0.015, ticks=2, members=3),
    Kind("flaky-gang", 0.01, ticks=1, fails=1, members=2),
    Kind("cancelled", 0.02, MAY_BE_CANCELLED, ticks=16),
    Kind("parent", 0.02, ticks=1),
    Kind("broken-parent", 0.01, DIES, fails=ALWAYS, max_retries=0),
)
BY_NAME = {kind.name: kind for kind in KINDS}
CHILD = Kind("child", 0)
ORPHAN = Kind("child-of-broken", 0, IS_CANCELLED, may_be_refused=True)
"""Waits for the success of a job that never succeeds; refused where it has ended already."""


@dataclass(slots=True)
class Job:
    """One submission. `accepted_at` (boot clock) once the API said 201 or Kafka acknowledged it."""

    key: str
    kind: Kind
    pool: str
    parent: str = ""
    accepted_at: float | None = None
    cancelled_at: float | None = None

    @property
    def id(self) -> str:
        shard = partition_of(self.pool, SHARDS)
        return format_job_id(job_id(shard, TENANT, self.pool, self.key))


@dataclass(frozen=True, slots=True)
class Writer:
    """Turns jobs into what is sent: a REST body, or terms and an encoded spec."""

    journal: Path
    mark: str

    def body(self, job: Job) -> dict[str, Any]:
        kind = job.kind
        found: dict[str, Any] = {
            "job_type": kind.name,
            "cluster": job.pool,
            "command": list(COMMAND),
            "env": environment(self.journal, self.mark, kind.ticks, kind.fails),
            "resources": {"cpu": f"{CPU_MILLI}m", "memory": f"{MEMORY_MIB}Mi"},
            "start_timeout_seconds": START_TIMEOUT_S,
            "grace_seconds": GRACE_S,
            "retry_policy": {
                "max_retries": kind.max_retries,
                "backoff_seconds": kind.backoff_s,
                "max_backoff_seconds": 4,
            },
        }
        if kind.members:
            found["gang"] = {"enabled": True, "min_members": kind.members}
        if job.parent:
            found["depends_on"] = [job.parent]
        return found

    def spec(self, kind: Kind) -> tuple[int, bytes]:
        variables = environment(self.journal, self.mark, kind.ticks, kind.fails)
        env = tuple(EnvVar(*pair) for pair in sorted(variables.items()))
        return encode_body(JobSpec(job_type=kind.name, command=COMMAND, env=env))


def terms_of(kind: Kind, pool: str) -> JobTerms:
    assert not kind.members, "gangs are sent one by one"
    return replace(
        JobTerms(tenant=TENANT, pool=pool),
        cpu_milli=CPU_MILLI,
        memory_mib=MEMORY_MIB,
        start_timeout_s=START_TIMEOUT_S,
        grace_s=GRACE_S,
        max_retries=kind.max_retries,
        backoff_s=kind.backoff_s,
        backoff_max_s=4,
    )


POOLS = (HERE_POOL, HERE_POOL, HERE_POOL, OTHER_POOL, OTHER_POOL)
"""Drawn from: as many jobs for each pool as it has nodes."""
