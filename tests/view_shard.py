"""A shard whose decisions come as batches for views, and a random life for it.

`ViewShard` is `cluster.Shard` with a log: every decision is a record that counts (and, for speed,
is not folded a second time). `batch` answers
what a view gets of everything decided since the last one. `live` draws some steps of a cluster's
life: submissions with dependencies and gangs, nodes that come, drain and go, ends of every kind.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from infra.follow import CountedRecord, touched_jobs
from infra.log import MemoryPartition
from projections.pipeline import START, Position, ViewBatch, position_of
from schemas.codec import encode, encode_body, encode_event
from schemas.commands import Submission
from schemas.envelope import LOG_FORMAT, Claim, Consumed, Decision, Input
from schemas.events import Event, JobsForgotten
from schemas.ids import format_job_id
from schemas.reports import DrainNode
from schemas.terms import (
    Condition,
    FailureClass,
    JobSpec,
    Micros,
    QueueState,
    TaskState,
)
from stream_processors.domain.counting import GENESIS, Chain, judge
from stream_processors.domain.decide import decide
from stream_processors.domain.draft import Inputs
from stream_processors.domain.state import Job, TaskPhase
from tests.cluster import OK, Shard, cancel, node, put_queue, submission

OWNER = b"o" * 16
FAILURES = (FailureClass.USER_ERROR, FailureClass.INFRASTRUCTURE, FailureClass.IMAGE_ERROR)


def job(key: str, job_type: str = "training", **terms: Any) -> Submission:
    """A submission whose spec can be read."""
    schema_id, spec = encode_body(JobSpec(job_type, name=f"job {key}", command=("true",)))
    return replace(submission(key, **terms), spec_schema_id=schema_id, spec=spec)


class ViewShard(Shard):
    """A shard with a log of its own, claimed once at its beginning."""

    def __init__(self, **policy: Any) -> None:
        super().__init__(**policy)
        self.partition = MemoryPartition(now=self.now)
        self.chain: Chain = GENESIS
        self.records: list[CountedRecord] = []
        self.batched: Position = START
        self._land(Claim(LOG_FORMAT, 1, OWNER, Micros(self.now)), (), {})

    def _decide(self, inputs: Inputs) -> tuple[Event, ...]:
        jobs, stands = dict(self.state.jobs), self.chain.consumed
        inputs = replace(inputs, unsettled=self.unsettled)
        decided = decide(self.state, inputs, self.now, self.policy)
        self.unsettled = decided.unsettled
        events = decided.events
        self.events.extend(events)
        record = Decision(
            format=LOG_FORMAT,
            epoch=1,
            owner=OWNER,
            seq=self.state.seq,
            prev=self.chain.value,
            at=Micros(self.state.at),
            consumed=(
                Consumed(Input.COMMANDS, stands.commands, self._commands),
                Consumed(Input.REPORTS, stands.reports, self._reports),
            ),
            events=tuple(map(encode_event, events)),
        )
        self._land(record, events, jobs)
        return events

    def _land(
        self, record: Claim | Decision, events: tuple[Event, ...], jobs: dict[int, Job]
    ) -> None:
        """Put a record into the log, where it must count; `jobs` are those before it."""
        raw = encode(record)
        offset = self.partition.land(raw)
        self.chain, verdict = judge(self.chain, record, raw, offset)
        assert verdict.counts
        gone = tuple(
            jobs[no] for event in events if isinstance(event, JobsForgotten) for no in event.job_nos
        )
        self.records.append(CountedRecord(offset, self.chain, record, events, gone))

    def batch(self) -> ViewBatch:
        """Everything decided since the last batch."""
        records = tuple(self.records)
        self.records = []
        touched: set[int] = set()
        for record in records:
            touched |= touched_jobs(record.events)
        forgotten = {gone.no: gone for record in records for gone in record.forgotten}
        changed = {no: forgotten.get(no) or self.state.jobs[no] for no in sorted(touched)}
        start, self.batched = self.batched, position_of(self.chain)
        return ViewBatch(self.state.shard, start, self.batched, records, self.state, changed)


class Life:
    """A random life of a shard, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.shard = ViewShard(retain_finished_s=40)
        self.made = 0
        self.incarnation = 0
        self.shard.command(put_queue("research"))

    def step(self) -> None:
        """Something happens."""
        acts = ([self._submit] * 5 + [self._report] * 12 + [self._register] * 2 + [self._lose]) + [
            self._drain,
            self._cancel,
            self._queue,
            self._wait,
            self._wait,
        ]
        self.chance.choice(acts)()

    def _submit(self) -> None:
        batch = []
        for _ in range(self.chance.randint(1, 4)):
            self.made += 1
            tasks = self.chance.choice((1, 1, 2, 3))
            batch.append(
                job(
                    f"j{self.made}",
                    priority=self.chance.randint(0, 100),
                    tasks=tasks,
                    min_members=self.chance.choice((0, tasks)),
                    queue=self.chance.choice(("default", "research")),
                    max_retries=self.chance.choice((0, 2)),
                    backoff_s=2,
                    gpu_milli=self.chance.choice((0, 0, 500, 1000)),
                    depends_on=self._dependencies(),
                )
            )
        self.shard.command(*batch)

    def _dependencies(self) -> list[tuple[str, Condition]]:
        live = [some for some in self._jobs() if some.ended_at == 0]
        if not live or self.chance.random() < 0.6:
            return []
        others = self.chance.sample(live, min(len(live), self.chance.randint(1, 2)))
        conditions = (Condition.SUCCEEDED, Condition.ENDED)
        return [(format_job_id(other.job_id), self.chance.choice(conditions)) for other in others]

    def _jobs(self) -> list[Job]:
        return list(self.shard.state.jobs.values())

    def _key(self, some: Job) -> str:
        """The key that a job of ours was submitted with: its spec tells."""
        return some.spec.split(b"job ")[1].split(b"\x00")[0].decode()

    def _report(self) -> None:
        tasks = [
            (some, index, task)
            for some in self._jobs()
            for index, task in some.tasks.items()
            if task.phase is not TaskPhase.ENDED and task.node_no in self.shard.state.nodes
        ]
        if not tasks:
            return self._submit()
        some, index, task = self.chance.choice(tasks)
        key = self._key(some)
        if task.phase is TaskPhase.PLACED and some.terms.is_gang:
            self.shard.says(key, TaskState.READY, index)
        elif task.phase in (TaskPhase.PLACED, TaskPhase.READY) and self.chance.random() < 0.8:
            self.shard.says(key, TaskState.STARTED, index)
        else:
            failure = self.chance.choice((OK, OK, *FAILURES))
            self.shard.says(key, TaskState.ENDED, index, failure)
        return None

    def _register(self) -> None:
        self.incarnation += 1
        name = self.chance.choice(("n1", "n2", "n3"))
        gpus = ("A100",) * self.chance.randint(0, 2)
        self.shard.report(node(name, self.incarnation, gpus=gpus, cpu_milli=4000))

    def _lose(self) -> None:
        names = list(self.shard.state.node_nos)
        if names:
            self.shard.lose(self.chance.choice(names))

    def _drain(self) -> None:
        nodes = list(self.shard.state.nodes.values())
        if nodes:
            some = self.chance.choice(nodes)
            report = DrainNode(some.name, some.pool, some.incarnation, "maintenance", Micros(0))
            self.shard.report(report)

    def _cancel(self) -> None:
        live = [some for some in self._jobs() if some.ended_at == 0]
        if live:
            self.shard.command(cancel(self._key(self.chance.choice(live))))

    def _queue(self) -> None:
        self.shard.command(
            put_queue("research", self.chance.choice((QueueState.OPEN, QueueState.PAUSED)))
        )

    def _wait(self) -> None:
        self.shard.wait(self.chance.choice((1, 5, 30)))


def lived(seed: int, steps: int) -> Life:
    """A life after so many steps: the same in every process."""
    life = Life(seed)
    for _ in range(steps):
        life.step()
    return life
