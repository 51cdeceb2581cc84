"""Commands about what is there already: cancels, purges, queues and pools. Called by `admission.py`.

Each answers the job that it names (or none) and why it is turned down; None where it was obeyed.
"""

from __future__ import annotations

from schemas.commands import CancelJob, PurgeDeadLetters, PutPool, PutQueue
from schemas.events import (
    CancelsRequested,
    DeadLettersPurged,
    JobsCancelled,
    PoolChanged,
    QueueChanged,
)
from schemas.ids import parse_job_id, partition_of, shard_of
from schemas.terms import DEFAULT_TERMS, ENDED_STATES, JobState, JobTerms, QueueState, Switch
from stream_processors.domain.defaults import fill
from stream_processors.domain.draft import Draft, Refusal
from stream_processors.domain.limits import (
    ACTOR_MAX,
    TEXT_MAX,
    name_problem,
    plain_text,
    terms_problem,
)
from stream_processors.domain.state import Pool, Queue

DEFAULT_NAME = DEFAULT_TERMS.pool
PURGED_MAX = 1_000
PER_HOUR_MAX = 1_000_000
POOLS_MAX = 1_000
QUEUES_MAX = 10_000
"""Of one shard: both are kept for ever, and every decision walks the pools."""

_Refused = tuple[bytes, Refusal]


def steer(
    draft: Draft, offset: int, command: CancelJob | PurgeDeadLetters | PutQueue | PutPool
) -> _Refused | None:
    """Decide one command that is no submission."""
    if isinstance(command, CancelJob):
        return _cancel(draft, offset, command)
    if isinstance(command, PurgeDeadLetters):
        return _purge(draft, offset, command)
    if isinstance(command, PutQueue):
        return _put_queue(draft, offset, command)
    return _put_pool(draft, offset, command)


def ensure_defaults(draft: Draft) -> None:
    """The first decision of the default pool's shard creates it and its default queue."""
    state = draft.state
    at_home = partition_of(DEFAULT_NAME, draft.policy.shards) == state.shard
    if not at_home or DEFAULT_NAME in state.pools:
        return
    draft.emit(PoolChanged(-1, DEFAULT_NAME, "the pool that exists from the start", ""))
    draft.emit(QueueChanged(-1, DEFAULT_NAME, DEFAULT_NAME, QueueState.OPEN, "", ""))


def _cancel(draft: Draft, offset: int, command: CancelJob) -> _Refused | None:
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
    actor = plain_text(command.actor, ACTOR_MAX)
    if job.tasks:
        draft.emit(CancelsRequested([offset], [job.no], [reason], [actor]))
    else:
        draft.emit(JobsCancelled([job.no], [offset], [reason], [actor]))
    draft.touched[job.no] = None
    return None


def _put_queue(draft: Draft, offset: int, command: PutQueue) -> _Refused | None:
    if command.pool not in draft.state.pools:
        message = f"cluster {command.pool[:64]!r} does not exist; create it first"
        return b"", Refusal("cluster_not_found", message)
    if problem := name_problem(command.name):
        return b"", Refusal("invalid_name", f"queue name {problem}")
    if command.state is QueueState.UNKNOWN:
        return b"", Refusal("invalid_state", "state must be open, paused or draining")
    is_new = (command.pool, command.name) not in draft.state.queues
    if is_new and len(draft.state.queues) >= QUEUES_MAX:
        return b"", Refusal("too_many_queues", f"a shard has {QUEUES_MAX} queues at most")
    queue = draft.state.queues.get((command.pool, command.name)) or Queue("", "")
    defaults = command.defaults[0] if command.defaults else queue.defaults
    if problem := terms_problem(fill(JobTerms(), defaults)):
        return b"", Refusal("invalid_terms", f"the queue's defaults: {problem}")
    per_hour = _kept(command.retries_per_hour, queue.retries_per_hour)
    if not 0 <= per_hour <= PER_HOUR_MAX:
        return b"", Refusal("malformed", f"retries_per_hour must be 0 to {PER_HOUR_MAX}")
    draft.emit(
        QueueChanged(
            offset,
            command.pool,
            command.name,
            command.state,
            plain_text(command.description, TEXT_MAX),
            plain_text(command.actor, ACTOR_MAX),
            defaults,
            per_hour,
        )
    )
    return None


def _put_pool(draft: Draft, offset: int, command: PutPool) -> _Refused | None:
    state = draft.state
    if problem := name_problem(command.name):
        return b"", Refusal("invalid_name", f"cluster name {problem}")
    if partition_of(command.name, draft.policy.shards) != state.shard:
        message = "commands are keyed by their cluster with Kafka's murmur2 partitioner"
        return b"", Refusal("wrong_partition", message)
    if command.name not in state.pools and len(state.pools) >= POOLS_MAX:
        return b"", Refusal("too_many_clusters", f"a shard has {POOLS_MAX} clusters at most")
    pool = state.pools.get(command.name) or Pool("")
    per_hour = _kept(command.tenant_retries_per_hour, pool.tenant_retries_per_hour)
    if not 0 <= per_hour <= PER_HOUR_MAX or command.retries is Switch.UNKNOWN:
        message = f"retries must be keep, on or off; tenant_retries_per_hour 0 to {PER_HOUR_MAX}"
        return b"", Refusal("malformed", message)
    retries_on = pool.retries_on if command.retries is Switch.KEEP else command.retries is Switch.ON
    description = plain_text(command.description, TEXT_MAX)
    actor = plain_text(command.actor, ACTOR_MAX)
    draft.emit(PoolChanged(offset, command.name, description, actor, retries_on, per_hour))
    if (command.name, DEFAULT_NAME) not in state.queues:
        draft.emit(QueueChanged(-1, command.name, DEFAULT_NAME, QueueState.OPEN, "", ""))
    return None


def _purge(draft: Draft, offset: int, command: PurgeDeadLetters) -> _Refused | None:
    """Dead letters outlive their jobs in the fold: what it does not know it takes as asked."""
    if not 1 <= len(command.ids) <= PURGED_MAX:
        return b"", Refusal("malformed", f"name 1 to {PURGED_MAX} dead letters")
    state = draft.state
    for letter in command.ids:
        uid = parse_job_id(letter)
        if uid is None and not _is_parked(letter, state.shard):
            text = f"{letter[:64]!r} is neither a job's id nor shard:input:offset of this shard"
            return b"", Refusal("malformed", text)
        if uid is None:
            continue
        no = state.nos.get(uid)
        if shard_of(uid) != state.shard:
            return uid, Refusal("wrong_partition", "the job's shard is another: see its id")
        if no is not None and state.jobs[no].state is not JobState.DEAD_LETTER:
            text = f"job {letter} is {state.jobs[no].state.value}, not in the dead letters"
            return uid, Refusal("not_a_dead_letter", text)
    reason, actor = plain_text(command.reason, TEXT_MAX), plain_text(command.actor, ACTOR_MAX)
    letters = [letter.lower() for letter in command.ids]
    draft.emit(DeadLettersPurged(offset, list(dict.fromkeys(letters)), reason, actor))
    return None


def _is_parked(letter: str, shard: int) -> bool:
    parts = letter.split(":")
    if len(parts) != 3 or parts[0] != str(shard) or parts[1] not in {"commands", "reports"}:
        return False
    return parts[2].isascii() and parts[2].isdigit() and len(parts[2]) < 20


def _kept(value: int, present: int) -> int:
    return present if value == -1 else value
