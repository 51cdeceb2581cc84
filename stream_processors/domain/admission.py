"""Commands become events: submissions, cancels, queues and pools. Or a refusal that says why.

Reads commands in the order of their offsets. A refusal is an event like any other, so its sender
learns the reason and progress is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.commands import CancelJob, Dependency, PutPool, PutQueue, Submission, SubmitJobs
from schemas.events import (
    CancelsRequested,
    CommandsRefused,
    JobsCancelled,
    JobsSubmitted,
    PoolChanged,
    QueueChanged,
    SubmissionsRepeated,
)
from schemas.ids import job_id, parse_job_id, partition_of, shard_of
from schemas.terms import (
    DEFAULTS_VERSION,
    ENDED_STATES,
    Condition,
    JobState,
    JobTerms,
    QueueState,
)
from stream_processors.domain.defaults import fill, spec_hash
from stream_processors.domain.draft import CommandAt, Draft, Unreadable
from stream_processors.domain.limits import (
    ACTOR_MAX,
    DEPENDENCIES_MAX,
    KEY_MAX,
    ROWS_MAX,
    TEXT_MAX,
    name_problem,
    plain_text,
    terms_problem,
)

PRIORITY_MAX = 100
DEFAULT_PRIORITY = 0
DEFAULT_NAME = "default"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a command is turned down: a stable code, and what to do, for people."""

    code: str
    message: str


@dataclass(slots=True)
class _Batch:
    """Submissions accepted but not yet emitted, in columns, and what was turned down."""

    job_ids: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    ats: list[int] = field(default_factory=list)
    terms: dict[JobTerms, int] = field(default_factory=dict)
    terms_of: list[int] = field(default_factory=list)
    priorities: list[int] = field(default_factory=list)
    deps: list[tuple[int, int, bool]] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    rows: list[Submission] = field(default_factory=list)
    known: dict[bytes, int] = field(default_factory=dict)
    repeated: list[tuple[int, int]] = field(default_factory=list)
    refused: list[tuple[int, int, bytes, Refusal]] = field(default_factory=list)


def ensure_defaults(draft: Draft) -> None:
    """The first decision of the default pool's shard creates it and its default queue."""
    state = draft.state
    at_home = partition_of(DEFAULT_NAME, draft.policy.shards) == state.shard
    if not at_home or DEFAULT_NAME in state.pools:
        return
    draft.emit(PoolChanged(-1, DEFAULT_NAME, "the pool that exists from the start", ""))
    draft.emit(QueueChanged(-1, DEFAULT_NAME, DEFAULT_NAME, QueueState.OPEN, "", ""))


def admit(draft: Draft, commands: tuple[CommandAt, ...]) -> None:
    """Decide commands in their order."""
    batch = _Batch()
    for place in commands:
        offset, command = place.offset, place.command
        if isinstance(command, Submission):
            _submit(draft, batch, (place, 0), command)
        elif isinstance(command, SubmitJobs):
            _submit_rows(draft, batch, place, command)
        elif isinstance(command, Unreadable):
            refusal = Refusal(command.code, command.message)
            batch.refused.append((offset, 0, b"", refusal))
        else:
            batch = _flush(draft, batch)
            refused = _OTHERS[type(command)](draft, offset, command)
            if refused is not None:
                batch.refused.append((offset, 0, refused[0], refused[1]))
    _flush(draft, batch)


def _submit_rows(draft: Draft, batch: _Batch, place: CommandAt, command: SubmitJobs) -> None:
    offset = place.offset
    if len(command.terms_of) > ROWS_MAX:
        refusal = Refusal("too_many_rows", f"SubmitJobs may have {ROWS_MAX} rows: split it")
        batch.refused.append((offset, 0, b"", refusal))
        return
    columns = (command.terms_of, command.idempotency_keys, command.priorities, command.specs)
    if len({len(column) for column in columns}) != 1:
        refusal = Refusal("malformed", "the columns of SubmitJobs must have equal lengths")
        batch.refused.append((offset, 0, b"", refusal))
        return
    for row, index in enumerate(command.terms_of):
        if not 0 <= index < len(command.terms):
            refusal = Refusal("malformed", f"terms_of[{row}] names no entry of terms")
            batch.refused.append((offset, row, b"", refusal))
            continue
        submission = Submission(
            terms=command.terms[index],
            idempotency_key=command.idempotency_keys[row],
            priority=command.priorities[row],
            depends_on=(),
            key_id=command.key_id,
            actor=command.actor,
            spec_schema_id=command.spec_schema_id,
            spec=command.specs[row],
        )
        _submit(draft, batch, (place, row), submission)


def _submit(
    draft: Draft, batch: _Batch, where: tuple[CommandAt, int], submission: Submission
) -> None:
    place, row = where
    offset = place.offset
    content = spec_hash(submission)
    terms = fill(submission.terms)
    priority = DEFAULT_PRIORITY if submission.priority == -1 else submission.priority
    submission = replace(submission, terms=terms, priority=priority)
    key = submission.idempotency_key
    uid = job_id(draft.state.shard, terms.tenant, terms.pool, key)
    known = _known(draft, batch, uid)
    if known is not None and known[1] == content:
        batch.repeated.append((offset, known[0]))
        return
    refusal = _KEY_REUSED if known is not None else None
    deps = _dependencies(draft, batch, submission)
    refusal = refusal or _submission_problem(draft, submission)
    if refusal is None and isinstance(deps, Refusal):
        refusal = deps
    if refusal is not None:
        batch.refused.append((offset, row, uid, refusal))
        return
    assert not isinstance(deps, Refusal)
    _accept(batch, (place, uid, content), submission, deps)


_KEY_REUSED = Refusal(
    "idempotency_key_reused",
    "this idempotency key belongs to a job with another content; use a new key",
)


def _known(draft: Draft, batch: _Batch, uid: bytes) -> tuple[int, bytes] | None:
    """Number and content hash of the job with this id, if the fold or this batch has it."""
    row = batch.known.get(uid)
    if row is not None:
        return draft.state.next_no + row, batch.hashes[row]
    no = draft.state.nos.get(uid)
    return None if no is None else (no, draft.state.jobs[no].spec_hash)


def _accept(
    batch: _Batch,
    what: tuple[CommandAt, bytes, bytes],
    submission: Submission,
    deps: list[tuple[int, bool]],
) -> None:
    place, uid, content = what
    row = len(batch.job_ids)
    batch.known[uid] = row
    batch.job_ids.append(uid)
    batch.offsets.append(place.offset)
    batch.ats.append(place.at)
    batch.terms_of.append(batch.terms.setdefault(submission.terms, len(batch.terms)))
    batch.priorities.append(submission.priority)
    batch.deps.extend((row, no, succeeds) for no, succeeds in deps)
    batch.hashes.append(content)
    batch.rows.append(submission)


def _submission_problem(draft: Draft, submission: Submission) -> Refusal | None:
    terms = submission.terms
    if not 1 <= len(submission.idempotency_key) <= KEY_MAX:
        return Refusal("malformed", f"idempotency_key must have 1 to {KEY_MAX} characters")
    if len(submission.actor) > ACTOR_MAX:
        return Refusal("malformed", f"actor must have at most {ACTOR_MAX} characters")
    if len(submission.depends_on) > DEPENDENCIES_MAX:
        return Refusal("malformed", f"depends_on may name {DEPENDENCIES_MAX} jobs")
    if not 0 <= submission.priority <= PRIORITY_MAX:
        return Refusal("invalid_priority", f"priority must be 0 to {PRIORITY_MAX}")
    if problem := terms_problem(terms):
        return Refusal("invalid_terms", problem)
    if terms.pool not in draft.state.pools:
        return Refusal(
            "cluster_not_found",
            f"cluster {terms.pool!r} does not exist; create it with PUT /clusters/{terms.pool}",
        )
    queue = draft.state.queues.get((terms.pool, terms.queue))
    if queue is None:
        return Refusal(
            "queue_not_found",
            f"queue {terms.queue!r} does not exist in cluster {terms.pool!r}; "
            f"create it with PUT /queues/{terms.queue}",
        )
    if queue.state is QueueState.DRAINING:
        return Refusal("queue_draining", f"queue {terms.queue!r} is draining: it accepts no jobs")
    return None


def _dependencies(
    draft: Draft, batch: _Batch, submission: Submission
) -> list[tuple[int, bool]] | Refusal:
    found: dict[int, bool] = {}
    for dependency in submission.depends_on:
        no = _find(draft, batch, dependency, submission.terms.pool)
        if isinstance(no, Refusal):
            return no
        succeeds = dependency.condition is not Condition.ENDED
        job = draft.state.jobs.get(no)
        if job is None or job.state not in ENDED_STATES:
            found[no] = found.get(no, False) or succeeds
        elif succeeds and job.state is not JobState.SUCCEEDED:
            return Refusal(
                "dependency_failed",
                f"job {dependency.job_id} has already ended as {job.state.value}; "
                "submit it again, or depend on its end with condition 'ended'",
            )
    return list(found.items())


def _find(draft: Draft, batch: _Batch, dependency: Dependency, pool: str) -> int | Refusal:
    uid = parse_job_id(dependency.job_id)
    missing = Refusal(
        "dependency_not_found",
        f"depends_on names {dependency.job_id[:64]!r}, which is no job of this cluster that is "
        "still known; submit it first",
    )
    if uid is None:
        return missing
    if uid in batch.known:
        row = batch.known[uid]
        its_pool = batch.rows[row].terms.pool
        no = draft.state.next_no + row
    else:
        no = draft.state.nos.get(uid, 0)
        if not no:
            return missing
        its_pool = draft.state.jobs[no].terms.pool
    return no if its_pool == pool else missing


def _flush(draft: Draft, batch: _Batch) -> _Batch:
    """Emit what was gathered; answers an empty batch to go on with."""
    if batch.job_ids:
        draft.emit(_submitted(draft.state.next_no, batch))
    if batch.repeated:
        offsets, nos = zip(*batch.repeated, strict=True)
        draft.emit(SubmissionsRepeated(list(offsets), list(nos)))
    if batch.refused:
        draft.emit(
            CommandsRefused(
                offsets=[offset for offset, _, _, _ in batch.refused],
                rows=[row for _, row, _, _ in batch.refused],
                job_ids=[uid for _, _, uid, _ in batch.refused],
                codes=[refusal.code for _, _, _, refusal in batch.refused],
                messages=[refusal.message for _, _, _, refusal in batch.refused],
            )
        )
    return _Batch()


def _submitted(first_no: int, batch: _Batch) -> JobsSubmitted:
    return JobsSubmitted(
        first_no=first_no,
        job_ids=b"".join(batch.job_ids),
        offsets=batch.offsets,
        submitted_ats=batch.ats,
        terms=list(batch.terms),
        terms_of=batch.terms_of,
        priorities=batch.priorities,
        dep_rows=[row for row, _, _ in batch.deps],
        dep_nos=[no for _, no, _ in batch.deps],
        dep_succeeds=[succeeds for _, _, succeeds in batch.deps],
        spec_hashes=b"".join(batch.hashes),
        key_ids=[row.key_id for row in batch.rows],
        actors=[row.actor for row in batch.rows],
        spec_schema_ids=[row.spec_schema_id for row in batch.rows],
        specs=[row.spec for row in batch.rows],
        defaults_version=DEFAULTS_VERSION,
    )


def _cancel(draft: Draft, offset: int, command: CancelJob) -> tuple[bytes, Refusal] | None:
    uid = parse_job_id(command.job_id)
    if uid is None or shard_of(uid) != draft.state.shard or uid not in draft.state.nos:
        message = f"there is no job {command.job_id[:64]!r} that could be cancelled"
        return uid or b"", Refusal("job_not_found", message)
    job = draft.state.jobs[draft.state.nos[uid]]
    if job.state in ENDED_STATES:
        return uid, Refusal("job_ended", f"the job has already ended as {job.state.value}")
    if job.cancel is not None:
        return uid, Refusal("already_cancelling", "the job is already being cancelled")
    reason = plain_text(command.reason, TEXT_MAX)
    if job.tasks:
        draft.emit(CancelsRequested([offset], [job.no], [reason], [command.actor[:ACTOR_MAX]]))
    else:
        draft.emit(JobsCancelled([job.no], [offset], [reason], [command.actor[:ACTOR_MAX]]))
    draft.touched[job.no] = None
    return None


def _put_queue(draft: Draft, offset: int, command: PutQueue) -> tuple[bytes, Refusal] | None:
    if command.pool not in draft.state.pools:
        message = f"cluster {command.pool!r} does not exist; create it first"
        return b"", Refusal("cluster_not_found", message)
    if problem := name_problem(command.name):
        return b"", Refusal("invalid_name", f"queue name {problem}")
    if command.state is QueueState.UNKNOWN:
        return b"", Refusal("invalid_state", "state must be open, paused or draining")
    draft.emit(
        QueueChanged(
            offset,
            command.pool,
            command.name,
            command.state,
            plain_text(command.description, TEXT_MAX),
            command.actor[:ACTOR_MAX],
        )
    )
    return None


def _put_pool(draft: Draft, offset: int, command: PutPool) -> tuple[bytes, Refusal] | None:
    state = draft.state
    if problem := name_problem(command.name):
        return b"", Refusal("invalid_name", f"cluster name {problem}")
    if partition_of(command.name, draft.policy.shards) != state.shard:
        message = "commands are keyed by their cluster with Kafka's murmur2 partitioner"
        return b"", Refusal("wrong_partition", message)
    description = plain_text(command.description, TEXT_MAX)
    draft.emit(PoolChanged(offset, command.name, description, command.actor[:ACTOR_MAX]))
    if (command.name, DEFAULT_NAME) not in state.queues:
        draft.emit(QueueChanged(-1, command.name, DEFAULT_NAME, QueueState.OPEN, "", ""))
    return None


_OTHERS: dict[type, Callable[[Draft, int, Any], tuple[bytes, Refusal] | None]] = {
    CancelJob: _cancel,
    PutQueue: _put_queue,
    PutPool: _put_pool,
}
