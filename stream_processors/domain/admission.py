"""Submissions become jobs, or refusals that say why. Other commands: `steering.py`.

Reads commands in the order of their offsets. A refusal is an event like any other, so its sender
learns the reason and progress is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from schemas.commands import Dependency, Submission, SubmitJobs
from schemas.events import CommandsRefused, JobsSubmitted, SubmissionsRepeated
from schemas.ids import job_id, parse_job_id
from schemas.terms import (
    DEFAULT_TERMS,
    DEFAULTS_VERSION,
    ENDED_STATES,
    NO_DEFAULTS,
    Condition,
    JobState,
    JobTerms,
    QueueDefaults,
    QueueState,
)
from stream_processors.domain.defaults import fill, spec_hash
from stream_processors.domain.draft import CommandAt, Draft, Refusal, Unreadable
from stream_processors.domain.limits import (
    ACTOR_MAX,
    DEPENDENCIES_MAX,
    KEY_MAX,
    ROWS_MAX,
    TASK_SPECS_MAX,
    TEXT_MAX,
    plain_text,
    terms_problem,
    text_problem,
)
from stream_processors.domain.state import Load
from stream_processors.domain.steering import steer

PRIORITY_MAX = 100
DEFAULT_PRIORITY = 0


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
    load: Load = field(default_factory=Load)
    loads: dict[str, Load] = field(default_factory=dict)


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
            refused = steer(draft, offset, command)
            if refused is not None:
                batch.refused.append((offset, 0, refused[0], refused[1]))
    _flush(draft, batch)


def _submit_rows(draft: Draft, batch: _Batch, place: CommandAt, command: SubmitJobs) -> None:
    offset = place.offset
    if len(command.terms_of) > ROWS_MAX:
        refusal = Refusal("too_many_rows", f"SubmitJobs may have {ROWS_MAX} rows: split it")
        batch.refused.append((offset, 0, b"", refusal))
        return
    if not command.terms_of:
        batch.refused.append((offset, 0, b"", Refusal("malformed", "SubmitJobs has no rows")))
        return
    if not command.terms_of:
        batch.refused.append((offset, 0, b"", Refusal("malformed", "SubmitJobs has no rows")))
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
    terms = fill(submission.terms, _queue_defaults(draft, submission.terms))
    priority = DEFAULT_PRIORITY if submission.priority == -1 else submission.priority
    submission = replace(submission, terms=terms, priority=priority)
    key = submission.idempotency_key
    uid = job_id(draft.state.shard, terms.tenant, terms.pool, key)
    known = _known(draft, batch, uid)
    if known is not None and known[1] == content:
        batch.repeated.append((offset, known[0]))
        return
    refusal = _KEY_REUSED if known is not None else _submission_problem(draft, submission)
    deps = refusal or _dependencies(draft, batch, submission)
    refusal = deps if isinstance(deps, Refusal) else _overload(draft, batch, submission)
    if refusal is not None:
        batch.refused.append((offset, row, uid, refusal))
        return
    assert not isinstance(deps, Refusal)
    _accept(batch, (place, uid, content), submission, deps)


def _queue_defaults(draft: Draft, terms: JobTerms) -> QueueDefaults:
    key = (terms.pool or DEFAULT_TERMS.pool, terms.queue or DEFAULT_TERMS.queue)
    queue = draft.state.queues.get(key)
    return queue.defaults if queue is not None else NO_DEFAULTS


def _overload(draft: Draft, batch: _Batch, submission: Submission) -> Refusal | None:
    """Whether the job would go beyond what may wait and run at a time, in all or of its tenant."""
    policy, tenant, size = draft.policy, submission.terms.tenant, len(submission.spec)
    state, none = draft.state, Load()
    jobs = batch.load.jobs + state.load.jobs + 1
    spec_bytes = batch.load.spec_bytes + state.load.spec_bytes + size
    if _over(jobs, policy.pending_jobs_max) or _over(spec_bytes, policy.pending_bytes_max):
        return Refusal("shard_over_limit", "too many jobs have not ended; submit it again later")
    mine, counted = batch.loads.get(tenant, none), state.loads.get(tenant, none)
    jobs = mine.jobs + counted.jobs + 1
    spec_bytes = mine.spec_bytes + counted.spec_bytes + size
    if _over(jobs, policy.tenant_pending_jobs_max) or _over(
        spec_bytes, policy.tenant_pending_bytes_max
    ):
        text = f"too many jobs of tenant {tenant!r} have not ended; submit it again later"
        return Refusal("tenant_over_limit", text)
    return None


def _over(amount: int, bound: int) -> bool:
    return 0 < bound < amount


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
    for load in (batch.load, batch.loads.setdefault(submission.terms.tenant, Load())):
        load.jobs += 1
        load.spec_bytes += len(submission.spec)


def _submission_problem(draft: Draft, submission: Submission) -> Refusal | None:
    terms = submission.terms
    if not 1 <= len(submission.idempotency_key) <= KEY_MAX:
        return Refusal("malformed", f"idempotency_key must have 1 to {KEY_MAX} characters")
    for name, text, most in (
        ("actor", submission.actor, ACTOR_MAX),
        ("causation_id", submission.causation_id, KEY_MAX),
    ):
        if problem := text_problem(text, most):
            return Refusal("malformed", f"{name} {problem}")
    if submission.redrives and parse_job_id(submission.redrives) is None:
        return Refusal("malformed", "redrives must be the id of a job, or empty")
    if len(submission.depends_on) > DEPENDENCIES_MAX:
        return Refusal("malformed", f"depends_on may name {DEPENDENCIES_MAX} jobs")
    if not 0 <= submission.priority <= PRIORITY_MAX:
        return Refusal("invalid_priority", f"priority must be 0 to {PRIORITY_MAX}")
    if problem := terms_problem(terms):
        return Refusal("invalid_terms", problem)
    if terms.tasks * len(submission.spec) > TASK_SPECS_MAX:
        text = f"every task gets the spec: tasks times its bytes may be {TASK_SPECS_MAX}"
        return Refusal("spec_too_large", f"{text}; put big inputs into a file")
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
                messages=[plain_text(refusal.message, TEXT_MAX) for *_, refusal in batch.refused],
            )
        )
    return _Batch()


def _submitted(first_no: int, batch: _Batch) -> JobsSubmitted:
    caused = [
        (row, submission)
        for row, submission in enumerate(batch.rows)
        if submission.causation_id or submission.redrives
    ]
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
        cause_rows=[row for row, _ in caused],
        causation_ids=[submission.causation_id for _, submission in caused],
        redrives=[parse_job_id(submission.redrives) or b"" for _, submission in caused],
    )
