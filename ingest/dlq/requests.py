"""What callers ask to be done with dead letters, checked. Pydantic models only.

Letters are named one by one, or chosen by a filter. A request deals with a bounded number and says
how many remain, so that nobody waits on one answer for minutes.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from infra.http.letters import LetterCursor, LetterFilters, LetterId
from ingest.fields import (
    ONLY_MATCHING,
    PRIORITY_MAX,
    Argument,
    Body,
    CpuMilli,
    EnvName,
    GpuMilli,
    MemoryMib,
    Name,
    ShortText,
    SomeSeconds,
    Value,
)
from ingest.retry_requests import Retries

REDRIVES_MAX = 100
PURGES_MAX = 1_000
RATE_MIN, RATE_MAX = 0.1, 1_000
"""The slowest holds a request for ten seconds."""


class ResourceChanges(Body):
    """What each task shall have instead, as Kubernetes quantities."""

    cpu: CpuMilli = Field(default=-1, description='Cores: 2, "500m"')
    memory: MemoryMib = Field(default=-1, description='Bytes: "16Gi"')
    gpu: GpuMilli = Field(default=-1, description="Devices")


class LetterChanges(Body):
    """What is to be different; what is left out stays as the last attempt had it."""

    resources: ResourceChanges = Field(default_factory=ResourceChanges)
    memory_factor: Annotated[float, Field(ge=0.1, le=100)] | None = Field(
        default=None, description="So many times the memory; of no effect beside resources.memory"
    )
    image: ShortText = ""
    command: list[Argument] = Field(default_factory=list, max_length=4096)
    env: dict[EnvName, Value] = Field(
        default_factory=dict,
        description="Variables to set, over those that are there",
        json_schema_extra=ONLY_MATCHING,
    )
    queue: Name | None = Field(default=None, description="Another queue of its cluster")
    priority: int | None = Field(default=None, ge=0, le=PRIORITY_MAX)
    timeout_seconds: SomeSeconds | None = None
    max_retries: Retries | None = None


class LetterChoice(Body):
    """Which letters: by id, or by a filter page by page."""

    ids: list[LetterId] = Field(default_factory=list, max_length=PURGES_MAX)
    filter: LetterFilters | None = Field(default=None, description="Instead of ids")
    cursor: LetterCursor = Field(default=None, description="`next_cursor` of the answer before")
    dry_run: bool = Field(default=False, description="Only say what would be done")

    @model_validator(mode="after")
    def _ids_or_filter(self) -> Self:
        if bool(self.ids) == (self.filter is not None):
            raise ValueError("name letters by ids, or choose them by filter (one of the two)")
        return self


class RedriveBody(LetterChoice):
    """Letters to run again."""

    ids: list[LetterId] = Field(default_factory=list, max_length=REDRIVES_MAX)
    limit: int = Field(default=REDRIVES_MAX, ge=1, le=REDRIVES_MAX, description="At most so many")
    rate_per_s: float | None = Field(
        default=None,
        ge=RATE_MIN,
        le=RATE_MAX,
        description="No faster than this; the request then deals with what fits into seconds",
    )
    changes: LetterChanges = Field(default_factory=LetterChanges)


class PurgeBody(LetterChoice):
    """Letters that were dealt with."""

    limit: int = Field(default=PURGES_MAX, ge=1, le=PURGES_MAX, description="At most so many")
    reason: ShortText = ""
