"""The events of one shard read naively: what may follow what, in its plainest form.

Shares no rule with `stream_processors.domain`. Asks `Truth` whether what a record says of
processes is so. Events that it does not know change nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.envelope import Decision
from schemas.terms import FailureClass, JobTerms
from tests.simulation.witness import Incarnation, TaskName, Truth
from tests.simulation.world import Violation


@dataclass(slots=True)
class Place:
    """One task of an attempt."""

    node_no: int
    devices: bytes
    is_dead: bool = False
    is_ready: bool = False
    failure: FailureClass = FailureClass.NONE


@dataclass(slots=True)
class Job:
    """A job as its events tell it."""

    no: int
    job_id: bytes
    terms: JobTerms
    attempt: int = 0
    tasks: dict[int, Place] = field(default_factory=dict)
    is_waiting: bool = True
    end: str = ""
    retries: int = 0

    def living(self) -> list[int]:
        """Tasks that may run."""
        return [index for index, task in self.tasks.items() if not task.is_dead]


@dataclass(slots=True)
class Node:
    """One incarnation and what is free on it."""

    here: Incarnation
    cpu: int
    memory: int
    gpus: list[int]


class Ledger:
    """Everything that the events of one shard have said."""

    def __init__(self, shard: int, truth: Truth) -> None:
        self.shard = shard
        self.truth = truth
        self.jobs: dict[int, Job] = {}
        self.numbers: dict[bytes, list[int]] = {}
        self.refused: dict[bytes, str] = {}
        self.nodes: dict[int, Node] = {}
        self.current: dict[str, int] = {}
        self.highest: dict[str, int] = {}
        self.at = 0
        self.gangs = 0

    def take(self, record: Decision, events: Sequence[Any]) -> None:
        """A decision that counts."""
        if record.at < self.at:
            raise Violation("time never goes back", f"seq {record.seq}")
        self.at = record.at
        for event in events:
            handler = getattr(self, f"_{type(event).__name__}", None)
            if handler is not None:
                handler(event)

    def check_answers(self, events: Sequence[Any], consumed: list[tuple[int, int]]) -> None:
        """Every command that a decision consumes is answered by an event of it."""
        answered: set[int] = set()
        for event in events:
            if type(event).__name__ != "ReportsRefused":
                answered.update(getattr(event, "offsets", ()))
                answered.add(getattr(event, "offset", -1))
        for start, stop in consumed:
            silent = [offset for offset in range(start, stop) if offset not in answered]
            if silent:
                raise Violation("no accepted submission is lost", f"commands {silent} unanswered")

    def placed(self, name: TaskName, here: Incarnation) -> str:
        """What is wrong with this task running there; "" where it may."""
        _, no, attempt, index = name
        job = self.jobs.get(no)
        task = job.tasks.get(index) if job is not None and job.attempt == attempt else None
        if task is None:
            return "no record that counts has placed it"
        node = self.nodes.get(task.node_no)
        if task.is_dead or node is None:
            return "the log holds it for dead"
        return "" if node.here == here else f"it was placed on {node.here}"

    def unfinished(self) -> list[int]:
        """Jobs that have not ended."""
        return [no for no, job in self.jobs.items() if not job.end]

    # One method an event, by its name.

    def _JobsSubmitted(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        for row, index in enumerate(event.terms_of):
            no = event.first_no + row
            job_id = event.job_ids[row * 16 : row * 16 + 16]
            if no in self.jobs or no != len(self.jobs) + 1:
                raise Violation("job numbers are dense", str(no))
            known = [other for other in self.numbers.get(job_id, []) if not self.jobs[other].end]
            if known:
                raise Violation("a repeated submission is the same job", str(no))
            self.jobs[no] = Job(no, job_id, event.terms[index])
            self.numbers.setdefault(job_id, []).append(no)

    def _CommandsRefused(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        self.refused.update(zip(event.job_ids, event.codes, strict=True))

    def _NodeRegistered(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        if event.incarnation <= self.highest.get(event.node, -1):
            raise Violation("incarnations only rise", f"{event.node} {event.incarnation}")
        self.highest[event.node] = event.incarnation
        if event.node in self.current:
            self._lose(self.current[event.node])
        self.current[event.node] = event.node_no
        self.nodes[event.node_no] = Node(
            (event.node, event.incarnation),
            event.cpu_milli,
            event.memory_mib,
            [1000] * len(event.gpus),
        )

    def _NodesLost(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        for node_no in event.node_nos:
            self._lose(node_no)

    def _lose(self, node_no: int) -> None:
        node = self.nodes.pop(node_no)
        del self.current[node.here[0]]
        self.truth.node_is_lost(node.here)
        for job in self.jobs.values():
            for task in job.tasks.values():
                if task.node_no == node_no and not task.is_dead:
                    task.is_dead, task.failure = True, FailureClass.NODE_LOST

    def _TasksPlaced(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        opened: dict[int, None] = {}
        columns = (event.job_nos, event.attempts, event.tasks, event.node_nos, event.devices)
        for no, attempt, index, node_no, devices in zip(*columns, strict=True):
            job = self.jobs[no]
            if job.end:
                raise Violation("an ended job is left alone", f"job {no} is placed")
            if attempt != job.attempt:
                self._open(job, attempt)
                opened[no] = None
            if index in job.tasks:
                raise Violation("a task is placed once an attempt", f"job {no} task {index}")
            if node_no not in self.nodes:
                raise Violation("only what is there is placed on", f"job {no} on {node_no}")
            job.tasks[index] = Place(node_no, devices)
            self._book(self.nodes[node_no], job.terms, devices, 1)
        for no in opened:
            job = self.jobs[no]
            if job.terms.is_gang:
                self.gangs += 1
                if len(job.tasks) != job.terms.tasks:
                    raise Violation("a gang is whole in every prefix", f"job {no}")

    def _open(self, job: Job, attempt: int) -> None:
        if attempt != job.attempt + 1:
            raise Violation("attempts are dense", f"job {job.no} attempt {attempt}")
        if job.living() or not job.is_waiting:
            raise Violation("an attempt begins when the last one is dead", f"job {job.no}")
        job.attempt, job.tasks, job.is_waiting = attempt, {}, False

    def _book(self, node: Node, terms: JobTerms, devices: bytes, sign: int) -> None:
        node.cpu -= sign * terms.cpu_milli
        node.memory -= sign * terms.memory_mib
        for device in devices:
            node.gpus[device] -= sign * min(terms.gpu_milli, 1000)
        if min([node.cpu, node.memory, *node.gpus]) < 0:
            raise Violation("no node is given more than it has", f"{node}")

    def _TasksReady(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        for no, index in zip(event.job_nos, event.tasks, strict=True):
            self.jobs[no].tasks[index].is_ready = True

    def _GangsReleased(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        for no in event.job_nos:
            job = self.jobs[no]
            ready = [task for task in job.tasks.values() if task.is_ready and not task.is_dead]
            if len(ready) != job.terms.tasks:
                raise Violation("a barrier opens when all are ready", f"job {no}")

    def _TasksEnded(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        columns = (event.job_nos, event.attempts, event.tasks, event.failures)
        for no, attempt, index, failure in zip(*columns, strict=True):
            job = self.jobs[no]
            task = job.tasks[index]
            if task.is_dead or attempt != job.attempt:
                raise Violation("a task ends once", f"job {no} attempt {attempt} task {index}")
            task.is_dead, task.failure = True, failure
            self._book(self.nodes[task.node_no], job.terms, task.devices, -1)
            name = (self.shard, no, attempt, index)
            self.truth.is_said_dead(name)
            if failure is FailureClass.NONE:
                self.truth.is_said_well(name)

    def _end(self, no: int, how: str) -> None:
        job = self.jobs[no]
        if job.end:
            raise Violation("each job ends once", f"job {no}: {job.end}, then {how}")
        if job.living():
            raise Violation("a job ends when all its tasks are dead", f"job {no}: {how}")
        job.end = how

    def _JobsSucceeded(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        for no in event.job_nos:
            job = self.jobs[no]
            well = [one for one in job.tasks.values() if one.failure is FailureClass.NONE]
            if len(well) != job.terms.tasks:
                raise Violation("a job succeeds by all its tasks", f"job {no}")
            self._end(no, "succeeded")

    def _JobsFailed(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        for no in event.job_nos:
            self._end(no, "failed")

    def _JobsDeadLettered(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        for no in event.job_nos:
            self._end(no, "dead letter")

    def _JobsCancelled(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        for no in event.job_nos:
            self._end(no, "cancelled")

    def _RetriesScheduled(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        for no, cost in zip(event.job_nos, event.costs, strict=True):
            job = self.jobs[no]
            if job.end or job.living():
                raise Violation("what is retried is dead", f"job {no}")
            job.retries += cost
            job.is_waiting = True
            if job.retries > job.terms.max_retries:
                raise Violation("limits are held", f"job {no}: {job.retries} retries")

    def _JobsForgotten(self, event: Any) -> None:  # noqa: N802 - called by the event's name
        for no in event.job_nos:
            if not self.jobs[no].end:
                raise Violation("only ended jobs are forgotten", f"job {no}")
