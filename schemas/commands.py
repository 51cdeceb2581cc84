"""What may be asked: one frozen class per intent, imperative. Any of these can be refused.

Written to `foldline.jobs.commands.v1` by anyone allowed, keyed by pool (partition = murmur2(pool),
which is also the shard). Read by the shard's owner only, which answers every command with an event
that names the command's offset. `actor` is an identifier, never personal data.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.terms import Condition, JobSpec, JobTerms, QueueDefaults, QueueState, Switch


@dataclass(frozen=True, slots=True)
class Dependency:
    """Another job of the same pool that must succeed (or end) before this one may start."""

    job_id: str
    condition: Condition = Condition.SUCCEEDED


@dataclass(frozen=True, slots=True)
class SubmitJob:
    """Run this. The job's id follows from (tenant, pool, idempotency_key): see `schemas.ids`.

    A key has 1 to 256 characters, `actor` at most 100, `depends_on` names at most 1,000 jobs.

    The scheduling fields come first on the wire: the engine decodes them and carries the encoded
    `spec` on as bytes. `key_id` names the key that the spec is encrypted with; 0 is clear.
    `causation_id` names what caused the command, at most 256 characters; `redrives` is the id of
    the job whose dead letter this submission runs again, or "".
    """

    terms: JobTerms
    idempotency_key: str
    priority: int
    depends_on: tuple[Dependency, ...]
    key_id: int
    actor: str
    causation_id: str = field(default="", kw_only=True)
    redrives: str = field(default="", kw_only=True)
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class Submission:
    """A `SubmitJob` decoded up to its spec, which stays encoded (schema `spec_schema_id`)."""

    terms: JobTerms
    idempotency_key: str
    priority: int
    depends_on: tuple[Dependency, ...]
    key_id: int
    actor: str
    causation_id: str = field(default="", kw_only=True)
    redrives: str = field(default="", kw_only=True)
    spec_schema_id: int
    spec: bytes


@dataclass(frozen=True, slots=True)
class SubmitJobs:
    """Many submissions in one record, in columns: row i has `terms[terms_of[i]]` and `specs[i]`.

    `specs` are encoded `JobSpec` records (schema `spec_schema_id`). Rows have no dependencies.
    All rows must be of one pool, and there may be 10,000.
    """

    terms: list[JobTerms]
    terms_of: list[int]
    idempotency_keys: list[str]
    priorities: list[int]
    key_id: int
    actor: str
    spec_schema_id: int
    specs: list[bytes]


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Stop this job wherever it is. Refused when it is unknown or has ended."""

    job_id: str
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class PurgeDeadLetters:
    """These dead letters were dealt with: lists leave them out from now on.

    `ids` are job ids, or `shard:input:offset` of a parked input; at most 1,000, all of one shard.
    """

    ids: tuple[str, ...]
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class PutQueue:
    """Create a queue of a pool or change it.

    `defaults` replaces what its jobs get where they say nothing; empty keeps it. The queue's jobs
    may be retried `retries_per_hour` times, later retries are put off; 0 is no bound, -1 keeps it.
    """

    pool: str
    name: str
    state: QueueState
    description: str
    actor: str
    defaults: tuple[QueueDefaults, ...] = ()
    retries_per_hour: int = -1


@dataclass(frozen=True, slots=True)
class PutPool:
    """Create a pool (the API's cluster) or change it.

    `retries` is the kill switch: while it is off no failed attempt is followed by another, and
    what is due waits. Each tenant may have `tenant_retries_per_hour`; 0 is no bound, -1 keeps it.
    """

    name: str
    description: str
    actor: str
    retries: Switch = Switch.KEEP
    tenant_retries_per_hour: int = -1
