"""Builders for tests of the core: submissions, nodes and reports in one line each, and a shard.

`Shard` is given, when, then: it decides inputs and remembers the events; `gives` checks that the
state after a decision is exactly what folding its events makes of the state before.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from schemas.commands import CancelJob, Dependency, PutQueue, Submission
from schemas.dispatch import Dispatch
from schemas.events import Event
from schemas.ids import format_job_id, job_id
from schemas.reports import Heartbeat, RegisterNode, TasksReported
from schemas.terms import (
    FailureClass,
    GpuDevice,
    JobState,
    JobTerms,
    Label,
    Micros,
    QueueState,
    TaskState,
)
from stream_processors.domain.decide import Decided, decide
from stream_processors.domain.draft import Command, CommandAt, Inputs, Policy, Report
from stream_processors.domain.effects import dispatches
from stream_processors.domain.evolve import begin_record, evolve
from stream_processors.domain.fingerprint import fingerprint
from stream_processors.domain.state import Job, State, initial_state

SECOND = 1_000_000
OK = FailureClass.NONE


def submission(key: str, priority: int = 50, **terms: Any) -> Submission:
    """A job of one task that runs `true`; keywords go to its terms."""
    depends_on = tuple(
        Dependency(other, condition) for other, condition in terms.pop("depends_on", ())
    )
    return Submission(JobTerms(**terms), key, priority, depends_on, 0, "someone", 44, b"spec")


def gang(key: str, members: int, **terms: Any) -> Submission:
    """A gang of so many members."""
    return submission(key, tasks=members, min_members=members, **terms)


def uid(key: str, tenant: str = "default", pool: str = "default", shard: int = 0) -> str:
    """The id that a submission with this key gets."""
    return format_job_id(job_id(shard, tenant, pool, key))


def node(name: str = "n1", incarnation: int = 1, **has: Any) -> RegisterNode:
    """A registration: 8 cores, 16 GiB and no GPUs unless said."""
    gpus = tuple(GpuDevice(model, 81_920) for model in has.pop("gpus", ()))
    labels = tuple(Label(key, value) for key, value in has.pop("labels", {}).items())
    values: dict[str, Any] = {"pool": "default", "cpu_milli": 8000, "memory_mib": 16_384}
    values.update(has)
    return RegisterNode(
        node=name,
        incarnation=incarnation,
        address="127.0.0.1",
        gpus=gpus,
        extras=(),
        labels=labels,
        lease_s=10,
        sent_at=Micros(0),
        **values,
    )


def heartbeat(name: str = "n1", incarnation: int = 1) -> Heartbeat:
    """A heartbeat of an incarnation."""
    return Heartbeat(name, "default", incarnation, 0, Micros(0))


def cancel(key: str) -> CancelJob:
    """A wish to end the job with this key."""
    return CancelJob(uid(key), "no longer needed", "someone")


def put_queue(name: str, state: QueueState = QueueState.OPEN) -> PutQueue:
    """Create a queue or change its state."""
    return PutQueue("default", name, state, "", "someone")


class Shard:
    """One shard under test: its state, its time, its inputs' offsets, all events and mail."""

    def __init__(self, **policy: Any) -> None:
        """An empty shard 0 of 1 at second 1,000."""
        self.state: State = initial_state(0)
        self.policy = Policy(shards=1, **policy)
        self.now = 1_000 * SECOND
        self.events: list[Event] = []
        self.mail: list[Dispatch] = []
        self.answers: tuple[Any, ...] = ()
        self.unsettled: tuple[int, ...] = ()
        self._commands = 0
        self._reports = 0

    def command(self, *commands: Command) -> tuple[Event, ...]:
        """Decide these commands; answers the events."""
        first, self._commands = self._commands, self._commands + len(commands)
        received = [
            CommandAt(offset, self.now, command) for offset, command in enumerate(commands, first)
        ]
        return self._decide(Inputs(commands=tuple(received)))

    def report(self, *reports: Report) -> tuple[Event, ...]:
        """Decide these reports; answers the events."""
        first, self._reports = self._reports, self._reports + len(reports)
        return self._decide(Inputs(reports=tuple(enumerate(reports, first))))

    def lose(self, name: str) -> tuple[Event, ...]:
        """The lease of this node's incarnation has surely run out."""
        return self._decide(Inputs(expired=(self.state.node_nos[name],)))

    def wait(self, seconds: float) -> tuple[Event, ...]:
        """Time passes, and a decision without inputs."""
        self.now += int(seconds * SECOND)
        return self._decide(Inputs())

    def _decide(self, inputs: Inputs) -> tuple[Event, ...]:
        before = deepcopy(self.state)
        inputs = replace(inputs, unsettled=self.unsettled)
        decided: Decided = decide(self.state, inputs, self.now, self.policy)
        self.unsettled = decided.unsettled
        begin_record(before, before.seq + 1, self.now)
        for event in decided.events:
            evolve(before, event)
        assert fingerprint(before) == fingerprint(self.state), "decide changed more than it said"
        self.mail = dispatches(self.state, decided, epoch=1)
        self.answers = decided.answers
        self.events.extend(decided.events)
        return decided.events

    def job(self, key: str) -> Job:
        """The job with this key."""
        return self.state.jobs[self.state.nos[bytes.fromhex(uid(key).replace("-", ""))]]

    def states(self, *keys: str) -> list[JobState]:
        """The states of these jobs."""
        return [self.job(key).state for key in keys]

    def says(
        self, key: str, said: TaskState, index: int = 0, failure: FailureClass = OK
    ) -> tuple[Event, ...]:
        """The agent that holds this task reports it."""
        return self.report(self.row(key, said, index, failure))

    def row(
        self, key: str, said: TaskState, index: int = 0, failure: FailureClass = OK
    ) -> TasksReported:
        """A report of one task by the agent that holds it."""
        job = self.job(key)
        holder = self.state.nodes[job.tasks[index].node_no]
        return TasksReported(
            node=holder.name,
            pool=holder.pool,
            incarnation=holder.incarnation,
            job_nos=[job.no],
            attempts=[job.attempt],
            tasks=[index],
            states=[said],
            ats=[0],
            exit_codes=[0 if failure is OK else 1],
            failures=[failure],
            messages=["" if failure is OK else "it broke"],
            endpoints=[f"{holder.address}:2{index:04}" if said is TaskState.READY else ""],
        )

    def run(self, key: str, failure: FailureClass = OK, tail: str = "") -> tuple[Event, ...]:
        """The job's only task starts and ends, having written `tail` last."""
        self.says(key, TaskState.STARTED)
        row = self.row(key, TaskState.ENDED, failure=failure)
        return self.report(replace(row, tail_rows=[0], tails=[tail]) if tail else row)

    def node_of(self, key: str, index: int = 0) -> str:
        """The name of the node that holds a task."""
        return self.job(key).tasks[index].node


def shard_of_two(**policy: Any) -> Shard:
    shard = Shard(**policy)
    shard.report(node("n1"), node("n2"))
    return shard


def only(events: tuple[Event, ...], kind: type[Any]) -> Any:
    found = [event for event in events if isinstance(event, kind)]
    assert len(found) == 1, [type(event).__name__ for event in events]
    return found[0]
