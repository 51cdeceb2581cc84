"""What an operator says of automatic redrives, as it stands in settings: `[[edge.rules]]`.

A pydantic model only; `EdgeSettings` holds the rules, `stream_processors/edge` acts by them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from schemas.terms import FailureClass


class EdgeRule(BaseModel):
    """One rule of automatic redrives: which letters, when, how often, with what changes.

    What is left out matches anything. `memory_factor` gives so many times the memory each time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    failure: tuple[str, ...] = ()
    fingerprint: str = ""
    tenant: str = ""
    cluster: str = ""
    queue: str = ""
    delay_s: Annotated[float, Field(ge=0)] = 60.0
    max_times: Annotated[int, Field(ge=1, le=100)] = 1
    memory_factor: Annotated[float, Field(ge=0.1, le=100)] | None = None
    max_retries: Annotated[int, Field(ge=0, le=1000)] | None = None
    image: str = ""
    to_queue: str = ""

    @field_validator("failure")
    @classmethod
    def _failures_are_classes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = {failure.value for failure in FailureClass}
        if unknown := sorted(set(value) - known):
            raise ValueError(f"{', '.join(unknown)}: no failure class; there are {sorted(known)}")
        return value
