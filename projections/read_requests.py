"""What callers can ask of the endpoints that read, checked. Pydantic models and pure functions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from infra.http.tokens import PositionText
from projections.job_answers import moment
from projections.queries import Page

PAGE_LIMIT = 100
OFFSET_MAX = 100_000
LINES_MAX = 100_000
CURSOR_PATTERN = r"^[0-9]{1,17}\.[0-9]{1,5}\.[0-9]{1,18}$"
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
WORD_PATTERN = r"^[^\x00]{0,1000}$"
AFTER_ALL = "infinity"
INT_MAX, BIGINT_MAX = (1 << 31) - 1, (1 << 63) - 1

Status = Literal[
    "pending",
    "queued",
    "scheduled",
    "running",
    "retrying",
    "succeeded",
    "failed",
    "dead_letter",
    "cancelled",
    "refused",
]


def _text(pattern: str) -> WithJsonSchema:
    """A parameter may be left out, but is never sent as null."""
    return WithJsonSchema({"type": "string", "pattern": pattern})


def _whole(least: int, most: int) -> WithJsonSchema:
    """The same of a number."""
    return WithJsonSchema({"type": "integer", "minimum": least, "maximum": most})


Name = Annotated[Annotated[str, Field(pattern=NAME_PATTERN)] | None, _text(NAME_PATTERN)]
Word = Annotated[Annotated[str, Field(pattern=WORD_PATTERN)] | None, _text(WORD_PATTERN)]
Cursor = Annotated[Annotated[str, Field(pattern=CURSOR_PATTERN)] | None, _text(CURSOR_PATTERN)]
Priority = Annotated[Annotated[int, Field(ge=0, le=100)] | None, _whole(0, 100)]
Lines = Annotated[Annotated[int, Field(ge=0, le=LINES_MAX)] | None, _whole(0, LINES_MAX)]
Number = Annotated[Annotated[int, Field(ge=0, le=INT_MAX)] | None, _whole(0, INT_MAX)]


class JobFilters(BaseModel):
    """Which jobs, and which page of them."""

    model_config = ConfigDict(extra="forbid")

    status: list[Status] = Field(default_factory=list, max_length=10, description="Any of these")
    job_type: Word = None
    queue: Name = None
    cluster: Name = None
    priority_min: Priority = None
    limit: int = Field(default=PAGE_LIMIT, ge=1, le=10_000, description="Capped by a setting")
    offset: int = Field(default=0, ge=0, le=OFFSET_MAX, description="Better: `cursor`")
    cursor: Cursor = Field(default=None, description="`next_cursor` of the page before")
    min_position: PositionText = None


def page_of(filters: JobFilters, limit_max: int) -> Page:
    """The page that is asked for."""
    at, shard, job_no = parse_cursor(filters.cursor) if filters.cursor else _NEWEST
    return Page(
        at=at,
        shard=shard,
        job_no=job_no,
        limit=min(filters.limit, limit_max),
        offset=filters.offset,
        status=list(filters.status) or None,
        job_type=filters.job_type,
        queue=filters.queue,
        cluster=filters.cluster,
        priority_min=filters.priority_min,
    )


_NEWEST: tuple[datetime | str, int, int] = (AFTER_ALL, INT_MAX, BIGINT_MAX)


def parse_cursor(text: str) -> tuple[datetime, int, int]:
    """Where a page ended: submission time, shard, number."""
    micros, shard, job_no = map(int, text.split("."))
    at = moment(micros)
    return at if at is not None else datetime(1970, 1, 1, tzinfo=UTC), shard, job_no


class LogFilters(BaseModel):
    """Which lines of a job."""

    model_config = ConfigDict(extra="forbid")

    follow: bool = Field(default=False, description="Wait for more until the job is over")
    tail: Lines = Field(default=None, description="Only the last lines")
    timestamps: bool = False
    attempt: Number = None
    task: Number = None
