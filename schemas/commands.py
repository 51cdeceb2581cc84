"""What may be asked: one frozen class per intent, imperative. Any of these can be refused.

Written to `foldline.jobs.commands.v1` by anyone allowed, keyed by pool (partition = murmur2(pool),
which is also the shard). Read by the shard's owner only, which answers every command with an event
that names the command's offset. `actor` is an identifier, never personal data.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.terms import Condition, JobSpec, JobTerms, QueueState


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
    """

    terms: JobTerms
    idempotency_key: str
    priority: int
    depends_on: tuple[Dependency, ...]
    key_id: int
    actor: str
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
class PutQueue:
    """Create a queue of a pool or change its state."""

    pool: str
    name: str
    state: QueueState
    description: str
    actor: str


@dataclass(frozen=True, slots=True)
class PutPool:
    """Create a pool (the API's cluster) or change its description."""

    name: str
    description: str
    actor: str
