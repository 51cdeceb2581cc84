"""What the log says happened, read by a second reader that shares no code with the first but the codec.

Applies the counting rule by itself, and keeps for each job what the checks ask about: its attempts
with where each task was placed, started and known dead, and how it ended. Kinds of events that it
does not know are left out, for it judges no state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from time import monotonic
from typing import Any

from infra.kafka import Reader
from schemas.codec import MalformedRecord, UnknownSchema, decode, decode_event
from schemas.envelope import Claim, Decision
from schemas.ids import format_job_id
from schemas.topics import LOG

ID_BYTES = 16
QUIET_S = 60.0
BESIDE = frozenset({"infrastructure"})
"""Retries of these classes do not come out of a job's `max_retries`."""


@dataclass(slots=True)
class Attempt:
    """One attempt; the sets hold task indices. `records` are the offsets that placed tasks."""

    placed: dict[int, int] = field(default_factory=dict)
    records: set[int] = field(default_factory=set)
    ready: set[int] = field(default_factory=set)
    started: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    is_released: bool = False
    end: str = ""

    @property
    def is_dead(self) -> bool:
        return self.dead >= set(self.placed)


@dataclass(slots=True)
class JobHistory:
    """One job; `ends` are its terminal states in order, `breaches` what its log should not say."""

    job_id: str
    tasks: int
    min_members: int
    max_retries: int
    attempts: dict[int, Attempt] = field(default_factory=lambda: defaultdict(Attempt))
    retries: list[tuple[int, str]] = field(default_factory=list)
    cost: int = 0
    ends: list[str] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)


@dataclass(slots=True)
class History:
    """One shard. `refused` are the ids of jobs that were turned down, with the code."""

    shard: int
    jobs: dict[int, JobHistory] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    claims: int = 0
    counted: int = 0
    skipped: int = 0
    nodes_lost: int = 0
    reports_refused: int = 0
    _nodes: dict[str, int] = field(default_factory=dict)
    _held: dict[int, set[tuple[int, int, int]]] = field(default_factory=lambda: defaultdict(set))

    def take(self, offset: int, event: Any) -> None:
        """Fold one event that counts."""
        handler = getattr(self, f"_{type(event).__name__}", None)
        if handler is not None:
            handler(offset, event)

    def _attempt(self, no: int, number: int) -> Attempt:
        return self.jobs[no].attempts[number]

    def _JobsSubmitted(self, _: int, event: Any) -> None:  # noqa: N802 - named for its event
        for row, which in enumerate(event.terms_of):
            raw = event.job_ids[row * ID_BYTES : (row + 1) * ID_BYTES]
            terms = event.terms[which]
            self.jobs[event.first_no + row] = JobHistory(
                format_job_id(raw), terms.tasks, terms.min_members, terms.max_retries
            )

    def _CommandsRefused(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        for raw, code in zip(event.job_ids, event.codes, strict=True):
            if raw:
                self.refused[format_job_id(raw)] = code

    def _NodeRegistered(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        if event.node in self._nodes:
            self._lose(self._nodes[event.node])
        self._nodes[event.node] = event.node_no

    def _NodesLost(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        self.nodes_lost += len(event.node_nos)
        for node_no in event.node_nos:
            self._lose(node_no)

    def _lose(self, node_no: int) -> None:
        for no, number, task in self._held.pop(node_no, ()):
            self._attempt(no, number).dead.add(task)

    def _ReportsRefused(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        self.reports_refused += sum(event.counts)

    def _TasksPlaced(self, offset: int, event: Any) -> None:  # noqa: N802 - the same
        for row in _rows(event.job_nos, event.attempts, event.tasks, event.node_nos):
            no, number, task, node_no = row
            job = self.jobs[no]
            for earlier, attempt in job.attempts.items():
                if earlier < number and not attempt.is_dead:
                    job.breaches.append(
                        f"attempt {number} was placed while {earlier} was not known dead"
                    )
            if job.ends:
                job.breaches.append(f"attempt {number} was placed after the job had ended")
            attempt = job.attempts[number]
            if task in attempt.placed:
                job.breaches.append(f"task {task} of attempt {number} was placed twice")
            attempt.placed[task] = node_no
            attempt.records.add(offset)
            self._held[node_no].add((no, number, task))

    def _TasksReady(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        for no, number, task in _rows(event.job_nos, event.attempts, event.tasks):
            self._attempt(no, number).ready.add(task)

    def _GangsReleased(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        for no, number in _rows(event.job_nos, event.attempts):
            attempt, job = self._attempt(no, number), self.jobs[no]
            attempt.is_released = True
            if len(attempt.ready | attempt.started) < job.min_members:
                job.breaches.append(f"attempt {number} was released before all were ready")

    def _TasksStarted(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        for no, number, task in _rows(event.job_nos, event.attempts, event.tasks):
            self._attempt(no, number).started.add(task)

    def _TasksEnded(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        for no, number, task in _rows(event.job_nos, event.attempts, event.tasks):
            attempt = self._attempt(no, number)
            attempt.dead.add(task)
            self._held[attempt.placed[task]].discard((no, number, task))

    def _RetriesScheduled(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        rows = _rows(event.job_nos, event.attempts, event.costs, event.failures)
        for no, number, cost, failure in rows:
            job = self.jobs[no]
            job.retries.append((number, str(failure)))
            if failure not in BESIDE:
                job.cost += cost
            self._conclude(job, number, str(failure))

    def _JobsSucceeded(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        self._end(event.job_nos, event.attempts, "succeeded")

    def _JobsFailed(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        self._end(event.job_nos, event.attempts, "failed")

    def _JobsDeadLettered(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        self._end(event.job_nos, event.attempts, "dead_letter")

    def _JobsCancelled(self, _: int, event: Any) -> None:  # noqa: N802 - the same
        last = [max(self.jobs[no].attempts, default=0) for no in event.job_nos]
        self._end(event.job_nos, last, "cancelled")

    def _end(self, nos: list[int], numbers: list[int], state: str) -> None:
        for no, number in zip(nos, numbers, strict=True):
            job = self.jobs[no]
            job.ends.append(state)
            if number:
                self._conclude(job, number, state)

    def _conclude(self, job: JobHistory, number: int, end: str) -> None:
        attempt = job.attempts[number]
        attempt.end = end
        if not attempt.is_dead:
            job.breaches.append(f"attempt {number} came to its end with tasks not known dead")


def _rows(*columns: list[Any]) -> Iterator[tuple[Any, ...]]:
    return zip(*columns, strict=True)


def read_topic(bootstrap: str, topic: str, partitions: int) -> Iterator[Any]:
    """Every record of a topic up to its end as it is now, in the order of each partition."""
    reader = Reader(bootstrap)
    try:
        places = {(topic, n): reader.begin_offset(topic, n) for n in range(partitions)}
        ends = {place: reader.end_offset(*place) for place in places}
        reader.assign(places)
        quiet_since = monotonic()
        while any(reader.position(*place) < end for place, end in ends.items()):
            if found := reader.poll(1.0):
                quiet_since = monotonic()
            assert monotonic() - quiet_since < QUIET_S, f"{topic} does not give what it has"
            yield from found
    finally:
        reader.close()


def read_histories(bootstrap: str, shards: int) -> list[History]:
    """The counted history of every shard."""
    histories = [History(shard) for shard in range(shards)]
    chains: list[tuple[int, bytes, int, bytes]] = [(0, b"", 0, bytes(32))] * shards
    for message in read_topic(bootstrap, LOG.name, shards):
        history = histories[message.partition]
        epoch, owner, seq, value = chains[message.partition]
        record = _record(message.value)
        after = sha256(value + message.value).digest()
        if isinstance(record, Claim) and record.epoch == epoch + 1:
            chains[message.partition] = (record.epoch, record.owner, seq, after)
            history.claims += 1
        elif isinstance(record, Decision) and _follows(record, epoch, owner, seq, value):
            chains[message.partition] = (epoch, owner, record.seq, after)
            history.counted += 1
            for event in record.events:
                history.take(message.offset, decode_event(event))
        else:
            history.skipped += 1
    return histories


def _record(value: bytes) -> Any:
    try:
        return decode(value)
    except (MalformedRecord, UnknownSchema):
        return None


def _follows(record: Decision, epoch: int, owner: bytes, seq: int, value: bytes) -> bool:
    same = (record.epoch, record.owner) == (epoch, owner)
    return same and (record.seq, record.prev) == (seq + 1, value)
