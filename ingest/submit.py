"""Checked bodies become commands: pure, without network or clock.

A job's id follows from (tenant, pool, idempotency key); maps are sorted before they are encoded, so
that equal bodies make equal bytes and a repeated submission is recognised by its hash, which is the
one that the fold computes. Sent by `routes.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal

from ingest.ports import Outgoing
from ingest.requests import JobBody
from schemas import codec
from schemas.commands import CancelJob, Dependency, PutPool, PutQueue, Submission, SubmitJob
from schemas.headers import CloudEvent, to_headers
from schemas.ids import format_job_id, job_id, partition_of
from schemas.terms import Condition, EnvVar, Extra, JobSpec, JobTerms, Label, Topology
from schemas.topics import MAX_COMMAND_BYTES
from stream_processors.domain.admission import DEFAULT_PRIORITY
from stream_processors.domain.defaults import fill, spec_hash
from stream_processors.domain.limits import terms_problem

TENANT = "default"
ACTOR = "anonymous"
SOURCE = "/foldline/api"
UNSET = -1


class CommandTooLarge(Exception):
    """The encoded command is over the limit of what a decision can carry."""


class TermsRefused(Exception):
    """The fold would refuse these terms; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Context:
    """What accompanies a command: who asks it when, in which request and trace.

    `at` is RFC 3339, `event_id` unique to the command.
    """

    event_id: str
    request_id: str
    traceparent: str
    at: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submission ready to be sent.

    `content` is the fold's hash of all that it says; `stored_content` leaves out what a view of
    jobs cannot give back as it was said (its dependencies).
    """

    job_id: str
    shard: int
    command: SubmitJob
    content: bytes
    stored_content: bytes


def prepare(body: JobBody, idempotency_key: str, shards: int) -> Prepared:
    """The submission in a body. Raises `TermsRefused`."""
    terms = terms_of(body)
    if problem := terms_problem(fill(terms)):
        raise TermsRefused(problem)
    command = SubmitJob(
        terms=terms,
        idempotency_key=idempotency_key,
        priority=UNSET if body.priority is None else body.priority,
        depends_on=tuple(
            Dependency(item.job_id, Condition(item.condition)) for item in body.depends_on
        ),
        key_id=0,
        actor=ACTOR,
        spec=spec_of(body),
    )
    shard = partition_of(terms.pool, shards)
    name = format_job_id(job_id(shard, terms.tenant, terms.pool, idempotency_key))
    submission = submission_of(command)
    return Prepared(name, shard, command, spec_hash(submission), stored_content(submission))


def terms_of(body: JobBody) -> JobTerms:
    """What the body asks of the scheduler; what it leaves out stays open for the fold to fill."""
    gang = body.gang if body.gang is not None and body.gang.enabled else None
    tasks = body.tasks if body.tasks is not None else 1
    members = 0
    if gang is not None:
        members = tasks = gang.min_members if gang.min_members is not None else tasks
    retry = body.retry_policy
    return JobTerms(
        tenant=TENANT,
        pool=body.cluster,
        queue=body.queue,
        tasks=tasks,
        min_members=members,
        topology=Topology(gang.topology) if gang is not None else Topology.NONE,
        cpu_milli=body.resources.cpu,
        memory_mib=body.resources.memory,
        gpu_milli=body.resources.gpu,
        extras=tuple(Extra(*pair) for pair in sorted(body.resources.extras.items())),
        gpu_models=tuple(sorted(set(body.gpu_models))),
        node_selector=_labels(body.node_selector),
        timeout_s=_or_unset(body.timeout_seconds),
        start_timeout_s=_or_unset(body.start_timeout_seconds),
        grace_s=_or_unset(body.grace_seconds),
        max_retries=_or_unset(retry.max_retries),
        backoff_s=_or_unset(retry.backoff_seconds),
        backoff_multiplier_milli=_milli(retry.backoff_multiplier),
        backoff_max_s=_or_unset(retry.max_backoff_seconds),
    )


def spec_of(body: JobBody) -> JobSpec:
    """What only the worker and the reader need of the body."""
    return JobSpec(
        job_type=body.job_type,
        name=body.name,
        image=body.image,
        command=tuple(body.command),
        env=tuple(EnvVar(*pair) for pair in sorted(body.env.items())),
        config=body.config,
        labels=_labels(body.labels),
    )


def submission_of(command: SubmitJob) -> Submission:
    """The submission as the fold will judge it, defaults filled in."""
    spec_schema_id, spec = codec.encode_body(command.spec)
    return Submission(
        terms=fill(command.terms),
        idempotency_key=command.idempotency_key,
        priority=DEFAULT_PRIORITY if command.priority == UNSET else command.priority,
        depends_on=command.depends_on,
        key_id=command.key_id,
        actor=command.actor,
        spec_schema_id=spec_schema_id,
        spec=spec,
    )


def stored_content(submission: Submission) -> bytes:
    """The hash of all that a view of jobs can give back of a submission as it was said."""
    return spec_hash(replace(submission, depends_on=()))


def outgoing(
    command: SubmitJob | CancelJob | PutQueue | PutPool,
    address: tuple[int, str],
    subject: str,
    context: Context,
) -> Outgoing:
    """A command with its headers, for `address` (shard, pool). Raises `CommandTooLarge`."""
    shard, pool = address
    value = codec.encode(command)
    if len(value) > MAX_COMMAND_BYTES:
        raise CommandTooLarge(
            f"encoded it has {len(value)} bytes; at most {MAX_COMMAND_BYTES} are taken"
        )
    event = CloudEvent(
        id=context.event_id,
        source=SOURCE,
        type=f"foldline.{type(command).__name__}",
        schema_id=codec.schema_id_of(type(command)),
        time=context.at,
        subject=subject,
        partition_key=pool,
        correlation_id=context.request_id,
        traceparent=context.traceparent,
    )
    return Outgoing(shard, pool, value, to_headers(event))


def _labels(labels: dict[str, str]) -> tuple[Label, ...]:
    return tuple(Label(*pair) for pair in sorted(labels.items()))


def _or_unset(value: int | None) -> int:
    return UNSET if value is None else value


def _milli(value: float | None) -> int:
    """Thousandths of a JSON number, from its shortest decimal text, halves up."""
    if value is None:
        return UNSET
    return int((Decimal(repr(value)) * 1000).quantize(Decimal(1), rounding=ROUND_HALF_UP))
