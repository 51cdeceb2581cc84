"""How failed attempts are tried again, as callers say it: of a job, and as a queue's defaults.

Pydantic models only. What is left out is left to the queue, and by that to us. `submit.py` turns
them into terms.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ingest.fields import Body, MemoryMib, Seconds, SomeSeconds
from stream_processors.domain.limits import RETRIES_MAX

RULES_MAX = 16
Rate = Annotated[int, Field(ge=0, le=1_000_000_000)]
Retries = Annotated[int, Field(ge=0, le=RETRIES_MAX)]
Multiplier = Annotated[float, Field(ge=1, le=100)]
FailureName = Literal[
    "user_error",
    "out_of_memory",
    "timeout",
    "node_lost",
    "preempted",
    "start_timeout",
    "image_error",
    "infrastructure",
]


class RetryRuleBody(Body):
    """How attempts that end with one failure class are followed; left out: as the job's own."""

    failure: FailureName
    max_retries: Retries | None = Field(
        default=None, description="A budget of its own beside the job's; 0 never retries it"
    )
    backoff_seconds: Seconds | None = None
    backoff_multiplier: Multiplier | None = None
    max_backoff_seconds: Seconds | None = None


class RetryPolicy(Body):
    """How often, and how long after, a failed attempt is tried again."""

    max_retries: Retries | None = Field(default=None, description="Default 3")
    backoff_seconds: Seconds | None = Field(default=None, description="First wait; default 5")
    backoff_multiplier: Multiplier | None = Field(
        default=None, description="Growth from wait to wait, to 3 decimals; default 2"
    )
    max_backoff_seconds: Seconds | None = Field(default=None, description="Default 3600")
    memory_growth: float | None = Field(
        default=None,
        ge=1,
        le=10,
        description="So many times the memory after out_of_memory, to 3 decimals; default 1.5",
    )
    max_memory: MemoryMib | None = Field(
        default=None, description="No growth beyond this; default 4 times the memory asked for"
    )
    rules: list[RetryRuleBody] = Field(
        default_factory=list, max_length=RULES_MAX, description="What differs by failure class"
    )


class JobDefaults(Body):
    """What the jobs of a queue get where they say nothing."""

    timeout_seconds: SomeSeconds | None = None
    start_timeout_seconds: SomeSeconds | None = None
    grace_seconds: Seconds | None = None
    progress_timeout_seconds: Seconds | None = None
    deadline_seconds: Seconds | None = None
    retry_policy: RetryPolicy = Field(default_factory=RetryPolicy)
