"""Checked bodies become commands: pure, without network or clock.

A job's id follows from (tenant, pool, idempotency key); maps are sorted before they are encoded, so
that equal bodies make equal bytes and a repeated submission is recognised by its hash, which is the
one that the fold computes. Sent by `routes.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from ingest.ports import Outgoing
from ingest.requests import ClusterBody, JobBody, QueueBody
from ingest.retry_requests import JobDefaults, RetryPolicy
from schemas import codec
from schemas.commands import (
    CancelJob,
    Dependency,
    PurgeDeadLetters,
    PutPool,
    PutQueue,
    Submission,
    SubmitJob,
)
from schemas.headers import CloudEvent, to_headers
from schemas.ids import format_job_id, job_id, partition_of
from schemas.terms import (
    Condition,
    EnvVar,
    Extra,
    FailureClass,
    JobSpec,
    JobTerms,
    Label,
    QueueDefaults,
    QueueState,
    RetryRule,
    Switch,
    Topology,
)
from schemas.topics import MAX_COMMAND_BYTES
from stream_processors.domain.defaults import fill, spec_hash
from stream_processors.domain.limits import terms_problem

TENANT = "default"
ACTOR = "anonymous"
SOURCE = "/foldline/api"
UNSET = -1

Command = SubmitJob | CancelJob | PurgeDeadLetters | PutQueue | PutPool


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

    `content` is the fold's hash of all that it says.
    """

    job_id: str
    shard: int
    command: SubmitJob
    content: bytes


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
    return Prepared(name, shard, command, spec_hash(submission_of(command)))


def terms_of(body: JobBody) -> JobTerms:
    """What the body asks of the scheduler; what it leaves out stays open for the fold to fill."""
    gang = body.gang if body.gang is not None and body.gang.enabled else None
    tasks = body.tasks if body.tasks is not None else 1
    members = 0
    if gang is not None:
        members = tasks = gang.min_members if gang.min_members is not None else tasks
    said = defaults_of(body)
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
        **{name: getattr(said, name) for name in QueueDefaults.__slots__},
    )


def rules_of(policy: RetryPolicy) -> tuple[RetryRule, ...]:
    """What a policy says of single failure classes, in their order."""
    return tuple(
        RetryRule(
            failure=FailureClass(rule.failure),
            max_retries=or_unset(rule.max_retries),
            backoff_s=or_unset(rule.backoff_seconds),
            backoff_multiplier_milli=milli(rule.backoff_multiplier),
            backoff_max_s=or_unset(rule.max_backoff_seconds),
        )
        for rule in sorted(policy.rules, key=lambda rule: rule.failure)
    )


def defaults_of(body: JobDefaults | JobBody) -> QueueDefaults:
    """What a body says of time, retries and memory: of one job, or for all that say nothing."""
    retry = body.retry_policy
    return QueueDefaults(
        timeout_s=or_unset(body.timeout_seconds),
        start_timeout_s=or_unset(body.start_timeout_seconds),
        grace_s=or_unset(body.grace_seconds),
        max_retries=or_unset(retry.max_retries),
        backoff_s=or_unset(retry.backoff_seconds),
        backoff_multiplier_milli=milli(retry.backoff_multiplier),
        backoff_max_s=or_unset(retry.max_backoff_seconds),
        progress_timeout_s=or_unset(body.progress_timeout_seconds),
        deadline_s=or_unset(body.deadline_seconds),
        memory_growth_milli=milli(retry.memory_growth),
        memory_max_mib=or_unset(retry.max_memory),
        retry_rules=rules_of(retry),
    )


def queue_command(name: str, body: QueueBody) -> PutQueue:
    """The command in a queue's body."""
    return PutQueue(
        pool=body.cluster,
        name=name,
        state=QueueState(body.state),
        description=body.description,
        actor=ACTOR,
        defaults=() if body.defaults is None else (defaults_of(body.defaults),),
        retries_per_hour=or_unset(body.retries_per_hour),
    )


def pool_command(name: str, body: ClusterBody) -> PutPool:
    """The command in a cluster's body."""
    return PutPool(
        name=name,
        description=body.description,
        actor=ACTOR,
        retries=Switch.KEEP if body.retries is None else Switch(body.retries),
        tenant_retries_per_hour=or_unset(body.tenant_retries_per_hour),
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
    """The submission as the fold will take it from the wire."""
    spec_schema_id, spec = codec.encode_body(command.spec)
    return Submission(
        terms=command.terms,
        idempotency_key=command.idempotency_key,
        priority=command.priority,
        depends_on=command.depends_on,
        key_id=command.key_id,
        actor=command.actor,
        causation_id=command.causation_id,
        redrives=command.redrives,
        spec_schema_id=spec_schema_id,
        spec=spec,
    )


def outgoing(
    command: Command,
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


def or_unset(value: int | None) -> int:
    """A number of a body; what it leaves out is -1 in terms."""
    return UNSET if value is None else value


def milli(value: float | None) -> int:
    """Thousandths of a JSON number, from its shortest decimal text, halves up."""
    if value is None:
        return UNSET
    return int((Decimal(repr(value)) * 1000).quantize(Decimal(1), rounding=ROUND_HALF_UP))
