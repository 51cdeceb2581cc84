"""What a record of the log says to other systems: one public fact for each change of a job.

Pure. `JobFacts` folds what the facts need and the state does not keep (which attempt, on which
nodes), record by record, and answers the facts of each in the order of its events. Ids are
`shard:offset:index`, index counting the facts of the record: they, and every byte, depend on the
log alone, so a relay that starts again can only repeat what it said. Epochs, owners and claims
are not shown. The loop that publishes them: `relay.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from infra.follow import CountedRecord
from projections.hot_rows import title_of
from schemas import events
from schemas.codec import encode, schema_id_of
from schemas.headers import CloudEvent, Headers, to_headers
from schemas.ids import format_job_id
from schemas.public import DeadLetter, FailedAttempt, JobEvent, JobRetry, ParkedInput
from schemas.terms import ENDED_STATES, FailureClass, JobState, Micros, ParkedRecord
from schemas.topics import COMMANDS, DEAD_LETTERS, JOB_EVENTS, JOB_RETRIES, REPORTS
from stream_processors.domain.retries import retries_left
from stream_processors.domain.state import Failure, Job, State

RETRY_TYPE = "foldline.job.retry"
DEAD_LETTER_TYPE = "foldline.job.dlq"
PARKED_TYPE = "foldline.input.parked"
INPUT_TOPICS = {"commands": COMMANDS.name, "reports": REPORTS.name}
NAMES_SPARE = 1_000
"""Names of lost nodes that are kept, at least: they are named no more once their record was told."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Fact:
    """One public record before it is encoded. `at` is UTC microseconds.

    `key` is the job id, or a parked input's letter id.
    """

    topic: str
    key: str
    message: JobEvent | JobRetry | DeadLetter | ParkedInput
    id: str
    source: str
    type: str
    at: int
    causation: str


@dataclass(frozen=True, slots=True)
class PublicRecord:
    """One public record as it is sent."""

    topic: str
    key: str
    value: bytes
    headers: Headers


@dataclass(slots=True)
class _Known:
    """A job that has not ended; `nodes` are those of its current attempt, in order."""

    job: Job
    job_type: str
    attempt: int = 0
    nodes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Saying:
    """The facts of one record so far."""

    shard: int
    record: CountedRecord
    jobs: dict[int, Job]
    facts: list[Fact] = field(default_factory=list)


def is_tellable(state: State) -> bool:
    """Whether all that facts need can be had from this state: every node with tasks is there.

    The name of a lost node is in the log, but not in the state: where an attempt goes on without
    one of its nodes, the facts must be folded from an earlier state.
    """
    return all(
        task.node_no in state.nodes for job in state.jobs.values() for task in job.tasks.values()
    )


class JobFacts:
    """The facts of one shard. Feed it every record that counts from where `state` stands on."""

    def __init__(self, state: State) -> None:
        """`state` may be folded further by its owner; it must be `is_tellable` now."""
        assert is_tellable(state), "a node was lost whose name the state does not tell"
        self._handlers: dict[type, Callable[[_Saying, Any], None]] = {
            events.JobsSubmitted: self._submitted,
            events.JobsRequeued: self._requeued,
            events.NodeRegistered: self._registered,
            events.TasksPlaced: self._placed,
            events.JobsStarted: self._started,
            events.JobsSucceeded: self._succeeded,
            events.JobsFailed: self._failed,
            events.RetriesScheduled: self._retried,
            events.JobsDeadLettered: self._dead_lettered,
            events.JobsCancelled: self._cancelled,
            events.InputsParked: self._parked,
        }
        self._state = state
        self._names = {node.no: node.name for node in state.nodes.values()}
        self._known: dict[int, _Known] = {}
        for job in state.jobs.values():
            if job.state not in ENDED_STATES:
                numbers = dict.fromkeys(task.node_no for task in job.tasks.values())
                nodes = [self._names[number] for number in numbers]
                known = _Known(job, title_of(job)[0], job.attempt, nodes)
                self._known[job.no] = known

    def take(self, record: CountedRecord) -> list[Fact]:
        """The facts of the next record; call it right after the state has folded it."""
        gone = {job.no: job for job in record.forgotten}
        saying = _Saying(self._state.shard, record, gone)
        for event in record.events:
            handler = self._handlers.get(type(event))
            if handler is not None:
                handler(saying, event)
        if len(self._names) > 2 * len(self._state.nodes) + NAMES_SPARE:
            self._names = {node.no: node.name for node in self._state.nodes.values()}
        return saying.facts

    def _submitted(self, saying: _Saying, event: events.JobsSubmitted) -> None:
        for row, offset in enumerate(event.offsets):
            no = event.first_no + row
            job = self._job(saying, no)
            known = self._known[no] = _Known(job, title_of(job)[0])
            _say(saying, known, JobState.QUEUED, causation=_command(saying.shard, offset))

    def _job(self, saying: _Saying, no: int) -> Job:
        """The job as the record leaves it."""
        return saying.jobs.get(no) or self._state.jobs[no]

    def _requeued(self, saying: _Saying, event: events.JobsRequeued) -> None:
        for no in event.job_nos:
            _say(saying, self._known[no], JobState.QUEUED)

    def _registered(self, _saying: _Saying, event: events.NodeRegistered) -> None:
        self._names[event.node_no] = event.node

    def _placed(self, saying: _Saying, event: events.TasksPlaced) -> None:
        opened: dict[int, None] = {}
        for no, attempt, node_no in zip(event.job_nos, event.attempts, event.node_nos, strict=True):
            known = self._known[no]
            if attempt != known.attempt:
                known.attempt = attempt
                known.nodes = []
                opened[no] = None
            name = self._names[node_no]
            if name not in known.nodes:
                known.nodes.append(name)
        for no in opened:
            known = self._known[no]
            _say(saying, known, JobState.SCHEDULED, nodes=tuple(known.nodes))

    def _started(self, saying: _Saying, event: events.JobsStarted) -> None:
        for no in event.job_nos:
            _say(saying, self._known[no], JobState.RUNNING)

    def _succeeded(self, saying: _Saying, event: events.JobsSucceeded) -> None:
        for no in event.job_nos:
            _say(saying, self._known.pop(no), JobState.SUCCEEDED)

    def _failed(self, saying: _Saying, event: events.JobsFailed) -> None:
        rows = zip(event.job_nos, event.failures, event.messages, strict=True)
        for no, failure, message in rows:
            _say(saying, self._known.pop(no), JobState.FAILED, (failure, message))

    def _retried(self, saying: _Saying, event: events.RetriesScheduled) -> None:
        rows = zip(event.job_nos, event.due_ats, event.failures, event.messages, strict=True)
        for row, (no, due_at, failure, message) in enumerate(rows):
            known, job = self._known[no], self._job(saying, no)
            cause = _say(saying, known, JobState.RETRYING, (failure, message))
            terms = job.terms
            retry = JobRetry(
                job_id=format_job_id(job.job_id),
                tenant=terms.tenant,
                cluster=terms.pool,
                queue=terms.queue,
                failed_attempt=known.attempt,
                at=_at(saying),
                due_at=Micros(due_at),
                retries_left=retries_left(job),
                failure=failure,
                message=message,
                nodes=tuple(known.nodes),
                log_tail=_tail(job, known.attempt),
                fingerprint=_nth(event.fingerprints, row),
                job_type=known.job_type,
            )
            _add(saying, (JOB_RETRIES.name, retry.job_id), retry, RETRY_TYPE, cause)

    def _dead_lettered(self, saying: _Saying, event: events.JobsDeadLettered) -> None:
        rows = zip(event.job_nos, event.failures, event.messages, strict=True)
        for row, (no, failure, message) in enumerate(rows):
            known = self._known.pop(no)
            cause = _say(saying, known, JobState.DEAD_LETTER, (failure, message))
            job = self._job(saying, no)
            terms = job.terms
            letter = DeadLetter(
                job_id=format_job_id(job.job_id),
                tenant=terms.tenant,
                cluster=terms.pool,
                queue=terms.queue,
                attempts=known.attempt,
                at=_at(saying),
                failure=failure,
                message=message,
                nodes=tuple(known.nodes),
                key_id=job.key_id,
                spec_schema_id=job.spec_schema_id,
                spec=job.spec,
                fingerprint=_nth(event.fingerprints, row),
                log_tail=_tail(job, known.attempt),
                history=tuple(map(_failed_attempt, job.history)),
                job_type=known.job_type,
                priority=job.priority,
                terms=terms,
                causation_id=job.causation_id,
                redrives=format_job_id(job.redrives) if job.redrives else "",
            )
            _add(saying, (DEAD_LETTERS.name, letter.job_id), letter, DEAD_LETTER_TYPE, cause)

    def _parked(self, saying: _Saying, event: events.InputsParked) -> None:
        for record in event.records:
            letter = _parked_input(saying.shard, record)
            cause = f"{letter.topic}:{letter.partition}:{letter.offset}"
            _add(saying, (DEAD_LETTERS.name, letter.letter_id), letter, PARKED_TYPE, cause)

    def _cancelled(self, saying: _Saying, event: events.JobsCancelled) -> None:
        rows = zip(event.job_nos, event.offsets, event.reasons, strict=True)
        for no, offset, reason in rows:
            known = self._known.pop(no)
            causation = _command(saying.shard, offset) if offset >= 0 else ""
            _say(
                saying,
                known,
                JobState.CANCELLED,
                (FailureClass.CANCELLED, reason),
                causation=causation,
            )


def to_record(fact: Fact) -> PublicRecord:
    """The bytes and headers of a fact."""
    event = CloudEvent(
        id=fact.id,
        source=fact.source,
        type=fact.type,
        schema_id=schema_id_of(type(fact.message)),
        time=_rfc3339(fact.at),
        subject=fact.key,
        partition_key=fact.key,
        causation_id=fact.causation,
    )
    return PublicRecord(fact.topic, fact.key, encode(fact.message), to_headers(event))


def _say(
    saying: _Saying,
    known: _Known,
    state: JobState,
    cause: tuple[FailureClass, str] = (FailureClass.NONE, ""),
    *,
    nodes: tuple[str, ...] = (),
    causation: str = "",
) -> str:
    """Add a job's change of state; answers the fact's id."""
    terms = known.job.terms
    event = JobEvent(
        job_id=format_job_id(known.job.job_id),
        tenant=terms.tenant,
        cluster=terms.pool,
        queue=terms.queue,
        job_type=known.job_type,
        state=state,
        attempt=known.attempt,
        at=_at(saying),
        failure=cause[0],
        message=cause[1],
        nodes=nodes,
        causation_id=known.job.causation_id,
    )
    kind = f"foldline.job.{state.value}"
    return _add(saying, (JOB_EVENTS.name, event.job_id), event, kind, causation)


def _parked_input(shard: int, record: ParkedRecord) -> ParkedInput:
    return ParkedInput(
        letter_id=f"{shard}:{record.input}:{record.offset}",
        topic=INPUT_TOPICS[record.input],
        partition=shard,
        offset=record.offset,
        at=record.at,
        code=record.code,
        message=record.message,
        key=record.key,
        headers=record.headers,
        size=record.size,
        sha256=record.sha256,
        value=record.value,
    )


def _failed_attempt(one: Failure) -> FailedAttempt:
    return FailedAttempt(
        attempt=one.attempt,
        ended_at=Micros(one.ended_at),
        failure=one.failure,
        message=one.message,
        exit_code=one.exit_code,
        nodes=one.nodes,
    )


def _tail(job: Job, attempt: int) -> str:
    """What the failed task of this attempt wrote last.

    A record ends at most one attempt of a job, so the last of its history is the one spoken of.
    """
    last = job.history[-1] if job.history else None
    return last.tail if last is not None and last.attempt == attempt else ""


def _nth(column: list[str], row: int) -> str:
    """A row's value; "" in an event of before there was the column."""
    return column[row] if column else ""


def _add(
    saying: _Saying,
    where: tuple[str, str],
    message: JobEvent | JobRetry | DeadLetter | ParkedInput,
    kind: str,
    causation: str,
) -> str:
    """Add a fact for a topic and key; answers its id."""
    topic, key = where
    fact = Fact(
        topic=topic,
        key=key,
        message=message,
        id=f"{saying.shard}:{saying.record.offset}:{len(saying.facts)}",
        source=f"/foldline/shards/{saying.shard}",
        type=kind,
        at=message.at,
        causation=causation,
    )
    saying.facts.append(fact)
    return fact.id


def _at(saying: _Saying) -> Micros:
    return saying.record.record.at


def _command(shard: int, offset: int) -> str:
    """How a command is named that caused a fact: its place in the commands topic."""
    return f"{COMMANDS.name}:{shard}:{offset}"


@lru_cache(maxsize=1024)
def _rfc3339(micros: int) -> str:
    moment = EPOCH + timedelta(microseconds=micros)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
