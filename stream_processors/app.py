"""The follower's small HTTP service, for the API and on loopback only: why does this job wait?

Answers from the follower's own fold, never from a shard's owner. `foldline/api.py` forwards
`GET /jobs/{id}/explain` here. The fold itself is driven elsewhere (`follower.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from infra.http.app import finish, new_app
from infra.http.errors import ApiError, documented
from infra.http.tokens import POSITION_HEADER, PositionText, format_position
from infra.http.waiting import Consumed, until_reached, wanted_places

WAIT_S = 3.0
"""How long a question waits for the fold to come to the position that it names."""

Explain = Callable[[str], dict[str, Any] | None]
"""Job id -> explanation, None for an unknown job. Called on other threads than the fold's: one that
folds meanwhile must lock."""

router = APIRouter()


def follower_app(explain: Explain, position: Callable[[], Consumed]) -> FastAPI:
    """The service. `position` answers, by shard, the first command that was not folded yet."""
    app = new_app("Foldline follower", "Answers questions about the state of shards.")
    app.state.explain = explain
    app.state.position = position
    app.include_router(router)
    return finish(app)


@router.get("/explain/{job_id}", responses=documented(404, 503))
async def explain_job(
    job_id: str,
    request: Request,
    response: Response,
    min_position: Annotated[PositionText, Query()] = None,
) -> dict[str, Any]:
    """Why the job stands where it stands, as of the position in the header."""
    consumed: Consumed = request.app.state.position()
    if min_position is not None:
        consumed = await until_reached(
            lambda: _look(request), wanted_places(min_position, len(consumed)), WAIT_S
        )
    response.headers[POSITION_HEADER] = format_position(consumed)
    explanation: dict[str, Any] | None = await run_in_threadpool(request.app.state.explain, job_id)
    if explanation is None:
        headers = {POSITION_HEADER: format_position(consumed)}
        text = f"job {job_id!r} is not known at this position, or left the fold long ago"
        raise ApiError(404, "job_not_found", text, headers=headers)
    return explanation


@router.get("/position")
async def show_position(request: Request) -> dict[str, int]:
    """By shard: the first command that was not folded yet."""
    consumed: Consumed = request.app.state.position()
    return {str(shard): stop for shard, stop in sorted(consumed.items())}


async def _look(request: Request) -> Consumed:
    consumed: Consumed = request.app.state.position()
    return consumed
