"""What redrives and purges answer. Pydantic models only; requests are in `requests.py`."""

from __future__ import annotations

from pydantic import BaseModel, Field

from ingest.answers import POSITION


class RedriveOutcome(BaseModel):
    """What was done with one letter, or would be."""

    letter_id: str
    outcome: str = Field(description="sent, would_send (a dry run) or skipped")
    message: str = Field(default="", description="Why it was skipped, and what to do")
    job_id: str | None = Field(
        default=None, description="The job that runs it again; the same for the same changes"
    )
    position: str | None = Field(default=None, description=POSITION)
    cluster: str | None = None
    queue: str | None = None
    cpu_milli: int | None = None
    memory_mib: int | None = None
    gpu_milli: int | None = None
    max_retries: int | None = None
    image: str = ""


class RedriveAnswer(BaseModel):
    """What was done; go on with `next_cursor` where letters remain."""

    dry_run: bool
    redriven: int
    skipped: int
    outcomes: list[RedriveOutcome]
    remaining: int = Field(description="Letters that were chosen and not dealt with yet")
    next_cursor: str | None


class PurgeAnswer(BaseModel):
    """What was asked; lists leave the letters out once the commands are folded."""

    dry_run: bool
    purged: int
    ids: list[str]
    unknown: list[str] = Field(description="Ids of which no letter is known")
    positions: list[str] = Field(description="Places of the commands, one for each shard")
    remaining: int = Field(description="Letters that were chosen and not dealt with yet")
    next_cursor: str | None
