"""The endpoints that read: jobs, logs, explanations, queues, clusters, commands, metrics, health.

Everything comes from the views (`reads.py`), the log topic (`job_logs.py`) or a follower, never from
a shard's owner. Every answer says in `Foldline-Position` how far its view had consumed commands;
`min_position` (or `Foldline-Min-Position`) waits, bounded, for a command to be visible. Writes are
in `ingest/routes.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sse_starlette import EventSourceResponse

from infra.http.app import request_id
from infra.http.errors import ApiError, documented
from infra.http.tokens import (
    MIN_POSITION_HEADER,
    POSITION_HEADER,
    TOKEN_PATTERN,
    CommandPlace,
    PositionText,
    format_position,
    parse_token,
)
from infra.http.waiting import Consumed, is_reached, until_reached, wanted_places
from projections.answers import (
    ClusterAnswer,
    ClusterList,
    CommandAnswer,
    ExplainAnswer,
    HealthAnswer,
    JobAnswer,
    JobList,
    MetricsAnswer,
    QueueAnswer,
    QueueList,
)
from projections.app import ReadSide, held
from projections.job_answers import micros
from projections.log_format import last_lines, sse_events, text_lines
from projections.queries import Seen
from projections.read_ports import (
    FollowerUnavailable,
    LogQuestion,
    LogsBusy,
    LogsUnavailable,
    ViewName,
)
from projections.read_requests import NAME_PATTERN, JobFilters, LogFilters, page_of
from schemas.ids import format_job_id, parse_job_id
from schemas.terms import ENDED_STATES, JobState

T = TypeVar("T")
PREFIX = "/api/v1"
_OVER = frozenset(state.value for state in ENDED_STATES | {JobState.REFUSED})
_RETRY = {"Retry-After": "1"}

router = APIRouter(prefix=PREFIX, responses=documented(500))
health_router = APIRouter(prefix="/health", tags=["health"], responses=documented(500))

Held = Annotated[ReadSide, Depends(held)]
Named = Annotated[str, Path(pattern=NAME_PATTERN, examples=["default"])]
AfterHeader = Annotated[PositionText, Header(alias=MIN_POSITION_HEADER)]
AfterQuery = Annotated[
    PositionText,
    Query(
        alias="min_position",
        description="Wait, bounded, until what answers has consumed this position",
    ),
]


def wanted_position(by_query: AfterQuery = None, by_header: AfterHeader = None) -> str | None:
    """The position that the caller wants to see, however said."""
    return by_query if by_query is not None else by_header


After = Annotated[str | None, Depends(wanted_position)]
POSITIONED: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            POSITION_HEADER: {
                "description": "How far this answer's view had consumed commands",
                "schema": {"type": "string"},
            }
        }
    }
}
LOG_TEXTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The lines, as they arrive",
        "content": {
            "text/plain": {"schema": {"type": "string"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}
READ_ERRORS = POSITIONED | documented(422, 503)
FIND_ERRORS = POSITIONED | documented(404, 422, 503)


@router.get(
    "/jobs/", response_model=JobList, responses=READ_ERRORS, tags=["jobs"], summary="List jobs"
)
async def list_jobs(
    filters: Annotated[JobFilters, Query()],
    response: Response,
    side: Held,
    after: AfterHeader = None,
) -> JobList:
    """The newest first. Follow `next_cursor`: pages stay true while jobs come and go."""
    await wait_until_visible(side, "audit", filters.min_position or after)
    return seen(response, await side.reads.jobs(page_of(filters, side.page_limit_max)))


@router.get(
    "/jobs/{job_id}",
    response_model=JobAnswer,
    responses=FIND_ERRORS,
    tags=["jobs"],
    summary="Show a job",
)
async def show_job(job_id: str, response: Response, side: Held, after: After = None) -> JobAnswer:
    """With its attempts, and its place in the order of service while it waits."""
    await wait_until_visible(side, "audit", after)
    return seen(response, await _job(side, job_id))


@router.get(
    "/jobs/{job_id}/explain",
    response_model=ExplainAnswer,
    responses=FIND_ERRORS,
    tags=["jobs"],
    summary="Say why a job waits",
)
async def explain_job(
    job_id: str, request: Request, side: Held, after: After = None
) -> JSONResponse:
    """Answered by a follower, from the same state that the scheduler decides on."""
    name = _job_id(job_id)
    pending = side.pending(name)
    wanted = after if after is not None or pending is None else str(pending[0])
    try:
        answer = await side.explainer.explain(name, wanted, request_id(request))
    except FollowerUnavailable as error:
        position = wanted or ""
        text = (
            f"no follower answers ({error}); start one with `foldline serve follower`. It would"
            f" have to stand at {position or 'any position'}"
        )
        headers = {**_RETRY, POSITION_HEADER: position}
        raise ApiError(503, "follower_unavailable", text, headers=headers) from error
    return JSONResponse(answer.body, answer.status, answer.headers)


@router.get(
    "/jobs/{job_id}/logs",
    response_class=StreamingResponse,
    responses=LOG_TEXTS | documented(404, 422, 503),
    tags=["jobs"],
    summary="Read what a job's tasks wrote",
)
async def read_logs(
    job_id: str, filters: Annotated[LogFilters, Query()], request: Request, side: Held
) -> Response:
    """Plain text, or server-sent events where `Accept` asks for `text/event-stream`."""
    job = (await _job(side, job_id)).value
    question = LogQuestion(
        job_id=job.id,
        since=micros(job.submitted_at),
        until=micros(job.ended_at),
        follow=filters.follow and job.status not in _OVER,
        attempt=filters.attempt,
        task=filters.task,
    )

    async def is_over() -> bool:
        return (await _job(side, job.id)).value.status in _OVER

    try:
        lines = await side.logs.open(question, is_over)
    except LogsBusy as error:
        raise ApiError(503, "busy", f"{error}; try again", headers=_RETRY) from error
    except LogsUnavailable as error:
        raise ApiError(503, "logs_unavailable", f"Kafka: {error}", headers=_RETRY) from error
    if filters.tail is not None:
        lines = last_lines(lines, filters.tail)
    if "text/event-stream" in request.headers.get("accept", ""):
        return EventSourceResponse(sse_events(lines))
    named = job.tasks > 1 and filters.task is None
    text = text_lines(lines, timestamps=filters.timestamps, named=named)
    return StreamingResponse(text, media_type="text/plain; charset=utf-8")


@router.get(
    "/queues/",
    response_model=QueueList,
    responses=READ_ERRORS,
    tags=["queues"],
    summary="List queues",
)
async def list_queues(response: Response, side: Held, after: After = None) -> QueueList:
    """Every queue of every cluster, as it is now."""
    await wait_until_visible(side, "hot", after)
    return seen(response, await side.reads.queues())


@router.get(
    "/queues/{name}",
    response_model=QueueAnswer,
    responses=FIND_ERRORS,
    tags=["queues"],
    summary="Show a queue",
)
async def show_queue(
    name: Named,
    response: Response,
    side: Held,
    cluster: Annotated[str, Query(pattern=NAME_PATTERN)] = "default",
    after: After = None,
) -> QueueAnswer:
    """As it is now, and what happened in its last hour."""
    await wait_until_visible(side, "hot", after)
    text = f"there is no queue {name!r} in cluster {cluster!r}; create it with PUT"
    return found(response, await side.reads.queue(cluster, name), ("queue_not_found", text))


@router.get(
    "/clusters/",
    response_model=ClusterList,
    responses=READ_ERRORS,
    tags=["clusters"],
    summary="List clusters",
)
async def list_clusters(response: Response, side: Held, after: After = None) -> ClusterList:
    """Every cluster with its nodes and what is free on them."""
    await wait_until_visible(side, "hot", after)
    return seen(response, await side.reads.clusters())


@router.get(
    "/clusters/{name}",
    response_model=ClusterAnswer,
    responses=FIND_ERRORS,
    tags=["clusters"],
    summary="Show a cluster",
)
async def show_cluster(
    name: Named, response: Response, side: Held, after: After = None
) -> ClusterAnswer:
    """With its nodes and what is free on them."""
    await wait_until_visible(side, "hot", after)
    text = f"there is no cluster {name!r}; create it with PUT"
    return found(response, await side.reads.cluster(name), ("cluster_not_found", text))


@router.get(
    "/metrics/",
    response_model=MetricsAnswer,
    responses=READ_ERRORS,
    tags=["metrics"],
    summary="Show figures",
)
async def show_metrics(response: Response, side: Held, after: After = None) -> MetricsAnswer:
    """Counts of a day, dispatch times and throughput. For Prometheus there is `/metrics`."""
    await wait_until_visible(side, "hot", after)
    return seen(response, await side.reads.metrics())


@router.get(
    "/commands/{token}",
    response_model=CommandAnswer,
    responses=FIND_ERRORS,
    tags=["commands"],
    summary="Tell what became of a command",
)
async def show_command(
    token: Annotated[str, Path(pattern=TOKEN_PATTERN, examples=["0-17"])],
    response: Response,
    side: Held,
    after: After = None,
) -> CommandAnswer:
    """By the position token that its write answered; a refusal says why."""
    place = parse_token(token)
    if place is None:
        raise ApiError(404, "command_not_found", f"{token!r} is no position of a write")
    await wait_until_visible(side, "audit", after)
    text = f"nothing is known of a command at {token}"
    return found(response, await side.reads.command(place), ("command_not_found", text))


@health_router.get("/live", summary="Whether the process answers")
async def live() -> dict[str, str]:
    """Says nothing of what it depends on."""
    return {"status": "ok"}


@health_router.get(
    "/ready",
    response_model=HealthAnswer,
    responses={503: {"model": HealthAnswer, "description": "Something is missing or behind"}},
    summary="Whether what it needs is there",
)
async def ready(response: Response, side: Held) -> HealthAnswer:
    """Kafka, PostgreSQL, Redis, and views that keep up; 503 where one does not."""
    health = await side.health.ready()
    if health.status != "ok":
        response.status_code = 503
        response.headers.update(_RETRY)
    return health


async def wait_until_visible(side: ReadSide, view: ViewName, position: str | None) -> None:
    """Wait, bounded, until a view has come to a position, where one is asked for."""
    if position is not None:
        wanted = wanted_places(position, side.shards)
        await until_reached(lambda: side.reads.consumed(view), wanted, side.wait_s)


async def _job(side: ReadSide, job_id: str) -> Seen[JobAnswer]:
    """The job as the views know it, else as this process has accepted it lately."""
    name = _job_id(job_id)
    seen = await side.reads.job(name)
    if seen.value is not None:
        return Seen(seen.value, seen.consumed)
    pending = side.pending(name)
    if pending is None:
        raise _no_job(job_id, seen.consumed)
    place, answer = pending
    if is_reached(seen.consumed, (place,)):
        answer = await _refused(side, place, answer)
    return Seen(answer, seen.consumed)


async def _refused(side: ReadSide, place: CommandPlace, answer: JobAnswer) -> JobAnswer:
    """A submission that was decided and is no job."""
    outcome = (await side.reads.command(place)).value
    if outcome is None or outcome.status != "refused":
        return answer
    said = {"status": JobState.REFUSED.value, "message": outcome.message or ""}
    return answer.model_copy(update=said)


def _job_id(text: str) -> str:
    raw = parse_job_id(text)
    if raw is None:
        raise _no_job(text, {})
    return format_job_id(raw)


def _no_job(job_id: str, consumed: Consumed) -> ApiError:
    text = f"there is no job {job_id!r}; if it was just submitted, ask with its min_position"
    headers = {POSITION_HEADER: format_position(consumed)}
    return ApiError(404, "job_not_found", text, headers=headers)


def seen(response: Response, answer: Seen[T]) -> T:
    """What was seen, with the position of its view in the header."""
    response.headers[POSITION_HEADER] = format_position(answer.consumed)
    return answer.value


def found(response: Response, answer: Seen[T | None], missing: tuple[str, str]) -> T:
    """The same of one thing; a 404 of this code and text where it is not there."""
    position = format_position(answer.consumed)
    if answer.value is None:
        code, text = missing
        raise ApiError(404, code, text, headers={POSITION_HEADER: position})
    response.headers[POSITION_HEADER] = position
    return answer.value
