"""What the routes that read hold on to while the API runs. Composed in `foldline/api.py`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from infra.http.app import problem, request_id
from infra.http.errors import ApiError
from projections.pipeline import ViewUnavailable
from projections.read_ports import Explainer, Health, JobLogs, LetterReads, Pending, Reads

RETRY_AFTER_S = "1"


@dataclass(frozen=True, slots=True)
class ReadSide:
    """The views of this many shards, and whoever else answers.

    `wait_s` bounds the wait for `min_position`.
    """

    reads: Reads
    letters: LetterReads
    pending: Pending
    logs: JobLogs
    explainer: Explainer
    health: Health
    shards: int
    wait_s: float
    page_limit_max: int


def hold(app: FastAPI, read_side: ReadSide) -> None:
    """Give the routes of this application what they need."""
    app.state.read_side = read_side
    app.add_exception_handler(ViewUnavailable, _view_unavailable)


def held(request: Request) -> ReadSide:
    """What `hold` gave to the application of this request."""
    read_side: ReadSide = request.app.state.read_side
    return read_side


async def _view_unavailable(request: Request, error: Exception) -> JSONResponse:
    text = f"{error}; try again"
    answer = ApiError(503, "view_unavailable", text, headers={"Retry-After": RETRY_AFTER_S})
    return problem(request_id(request), answer)
