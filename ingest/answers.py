"""What the endpoints that write answer. Pydantic models only; requests are in `requests.py`."""

from __future__ import annotations

from pydantic import BaseModel, Field

POSITION = "Where the command lies; give it as `min_position` to a read to see its effect"


class JobAccepted(BaseModel):
    """A submission that Kafka has acknowledged."""

    id: str = Field(description="The job's id: the same for the same idempotency key")
    status: str = Field(examples=["pending"])
    position: str = Field(description=POSITION, examples=["0-17"])
    cluster: str
    queue: str
    url: str
    logs_url: str
    command_url: str = Field(description="Tells whether the scheduler took the submission")


class CommandAccepted(BaseModel):
    """A command that Kafka has acknowledged; what becomes of it is told by `command_url`."""

    position: str = Field(description=POSITION, examples=["0-18"])
    command_url: str
    id: str | None = Field(default=None, description="The job, where it is about one")
    name: str | None = Field(default=None, description="The queue or cluster, where about one")
    cluster: str | None = None
