"""The endpoints that write: submit and cancel jobs, create and change queues and clusters.

Each turns a checked body into one command and answers once Kafka has acknowledged it, with the
command's place as position token. Nothing is decided here: the shard's owner may still refuse, and
`GET /commands/{token}` tells. Reads are in `projections/routes.py`.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import Field, WithJsonSchema

from infra.http.app import request_id
from infra.http.errors import ApiError, documented
from infra.http.tokens import MIN_POSITION_HEADER, CommandPlace, PositionText
from infra.telemetry import count
from ingest.answers import CommandAccepted, JobAccepted
from ingest.app import Ingest, held
from ingest.fields import NAME_PATTERN
from ingest.ports import (
    KnowledgeUnavailable,
    KnownJob,
)
from ingest.recent import RecentJob
from ingest.requests import ClusterBody, JobBody, QueueBody
from ingest.sending import IDEMPOTENCY_KEY_HEADER, admit, encoded, put, submit
from ingest.submit import (
    ACTOR,
    Context,
    Prepared,
    TermsRefused,
    pool_command,
    prepare,
    queue_command,
)
from schemas.commands import CancelJob
from schemas.ids import parse_job_id, partition_of, shard_of
from schemas.terms import ENDED_STATES, JobState

PREFIX = "/api/v1"
KEY_PATTERN = r"^[!-~]{1,255}$"
_ENDED = frozenset(state.value for state in ENDED_STATES | {JobState.REFUSED})
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)

log = structlog.get_logger(__name__)
router = APIRouter(prefix=PREFIX, responses=documented(500))

Held = Annotated[Ingest, Depends(held)]
Key = Annotated[
    Annotated[str, Field(pattern=KEY_PATTERN)] | None,
    WithJsonSchema({"type": "string", "pattern": KEY_PATTERN}),
    Header(
        alias=IDEMPOTENCY_KEY_HEADER,
        description="The same key with the same body is the same job, however often it is sent",
    ),
]
Named = Annotated[str, Path(pattern=NAME_PATTERN, examples=["default"])]
WRITE_ERRORS = documented(400, 413, 415, 422, 429, 503)


@router.post(
    "/jobs/",
    status_code=201,
    response_model=JobAccepted,
    responses=WRITE_ERRORS,
    tags=["jobs"],
    summary="Submit a job",
)
async def submit_job(
    body: JobBody, request: Request, response: Response, ingest: Held, key: Key = None
) -> JobAccepted:
    """Accepted once Kafka has acknowledged it; `status` is then `pending` until it is folded.

    Send an `Idempotency-Key` to be able to repeat a submission whose answer was lost: the same key
    and body give the same job again, the same key with another body is refused with 422.
    """
    prepared = _prepared(body, key or uuid.uuid4().hex, ingest.sink.shards)
    command = prepared.command
    context = context_of(request)
    message = encoded(command, (prepared.shard, command.terms.pool), prepared.job_id, context)
    known = await _accepted_before(ingest, prepared) if key is not None else None
    outcome = "repeated"
    if known is None:
        await admit(ingest, prepared.shard, command.terms.tenant)
        outcome = "accepted"
        known = await submit(ingest, prepared, message)
    count("foldline_submissions_total", outcome=outcome)
    assert known.place is not None
    response.headers["Location"] = f"{PREFIX}/jobs/{prepared.job_id}"
    return JobAccepted(
        id=prepared.job_id,
        status=JobState.PENDING.value,
        position=str(known.place),
        cluster=command.terms.pool,
        queue=command.terms.queue,
        url=f"{PREFIX}/jobs/{prepared.job_id}",
        logs_url=f"{PREFIX}/jobs/{prepared.job_id}/logs",
        command_url=_command_url(known.place),
    )


@router.delete(
    "/jobs/{job_id}",
    status_code=202,
    response_model=CommandAccepted,
    responses=documented(404, 409, 413, 422, 503),
    tags=["jobs"],
    summary="Cancel a job",
)
async def cancel_job(
    job_id: str,
    request: Request,
    ingest: Held,
    reason: Annotated[str, Query(max_length=500, pattern=r"^[^\x00]*$")] = "",
    min_position: Annotated[PositionText, Header(alias=MIN_POSITION_HEADER)] = None,
) -> CommandAccepted:
    """Asks for its end wherever it is: a waiting job ends at once, a running one is stopped.

    404 where nobody knows the job, 409 where it has ended already.
    """
    raw = parse_job_id(job_id)
    if raw is None or shard_of(raw) >= ingest.sink.shards:
        raise _unknown(job_id)
    if min_position is not None:
        await ingest.known.wait_for(min_position)
    pool = await _cancellable(ingest, job_id.lower())
    command = CancelJob(job_id.lower(), reason, ACTOR)
    message = encoded(command, (shard_of(raw), pool), job_id.lower(), context_of(request))
    place = await put(ingest, message)
    return _accepted(place, job_id=job_id.lower())


@router.put(
    "/queues/{name}",
    status_code=202,
    response_model=CommandAccepted,
    responses=WRITE_ERRORS,
    tags=["queues"],
    summary="Create or change a queue",
)
async def put_queue(
    name: Named,
    request: Request,
    ingest: Held,
    body: QueueBody,
) -> CommandAccepted:
    """What the queue is from then on. The body names its cluster; what it leaves out of defaults
    and rates stays as it is.
    """
    pool = body.cluster
    command = queue_command(name, body)
    shard = partition_of(pool, ingest.sink.shards)
    message = encoded(command, (shard, pool), f"{pool}/{name}", context_of(request))
    place = await put(ingest, message)
    return _accepted(place, name=name, cluster=pool)


@router.put(
    "/clusters/{name}",
    status_code=202,
    response_model=CommandAccepted,
    responses=WRITE_ERRORS,
    tags=["clusters"],
    summary="Create or change a cluster",
)
async def put_cluster(
    name: Named, request: Request, ingest: Held, body: ClusterBody
) -> CommandAccepted:
    """A new cluster begins with one open queue, `default`; nodes join it by themselves."""
    command = pool_command(name, body)
    shard = partition_of(name, ingest.sink.shards)
    message = encoded(command, (shard, name), name, context_of(request))
    place = await put(ingest, message)
    return _accepted(place, name=name, cluster=name)


def _prepared(body: JobBody, key: str, shards: int) -> Prepared:
    try:
        return prepare(body, key, shards)
    except TermsRefused as error:
        raise ApiError(422, "invalid_terms", str(error)) from error


async def _accepted_before(ingest: Ingest, prepared: Prepared) -> RecentJob | None:
    """The earlier acceptance of this very submission, if this process gave it.

    Raises the 422 where the key belongs to another one. Where the views cannot be asked, the
    submission goes on: the fold knows every key, and refuses in the same words.
    """
    recent = ingest.recent.find(prepared.job_id)
    if recent is not None:
        if recent.prepared.content != prepared.content:
            raise _key_reused()
        return recent if recent.place is not None else None
    try:
        known = await ingest.known.find(prepared.job_id)
    except KnowledgeUnavailable as error:
        log.warning("key not checked before sending", reason=str(error))
        return None
    if known is not None and known.content not in (b"", prepared.content):
        raise _key_reused()
    return None


async def _cancellable(ingest: Ingest, job_id: str) -> str:
    """The job's pool. Raises 404 or 409; where the views cannot be asked, the fold will judge."""
    recent = ingest.recent.find(job_id)
    accepted = recent if recent is not None and recent.place is not None else None
    pool = accepted.prepared.command.terms.pool if accepted is not None else ""
    try:
        known: KnownJob | None = await ingest.known.find(job_id)
    except KnowledgeUnavailable as error:
        log.warning("job not checked before its cancel was sent", reason=str(error))
        return pool
    if known is None:
        if accepted is None:
            raise _unknown(job_id)
        return pool
    if known.status in _ENDED:
        text = f"the job has already ended as {known.status}; there is nothing to cancel"
        raise ApiError(409, "job_ended", text)
    return known.pool


def _accepted(
    place: CommandPlace,
    *,
    job_id: str | None = None,
    name: str | None = None,
    cluster: str | None = None,
) -> CommandAccepted:
    return CommandAccepted(
        position=str(place),
        command_url=_command_url(place),
        id=job_id,
        name=name,
        cluster=cluster,
    )


def _command_url(place: CommandPlace) -> str:
    return f"{PREFIX}/commands/{place}"


def context_of(request: Request) -> Context:
    """What accompanies the commands of a request."""
    traceparent = request.headers.get("traceparent", "")
    return Context(
        event_id=str(uuid.uuid4()),
        request_id=request_id(request),
        traceparent=traceparent if _TRACEPARENT.fullmatch(traceparent) else "",
        at=datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
    )


def _unknown(job_id: str) -> ApiError:
    return ApiError(404, "job_not_found", f"there is no job {job_id!r}")


def _key_reused() -> ApiError:
    count("foldline_submissions_total", outcome="key_reused")
    return ApiError(
        422,
        "idempotency_key_reused",
        "this idempotency key belongs to a job with another content; use a new key",
    )
