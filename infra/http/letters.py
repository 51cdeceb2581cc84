"""Which dead letters: the filters that reading and writing of them share, and where a page ended.

Letters are ordered by when they were laid aside, the newest first. A letter is called by its job's
id, or by `shard:input:offset` where it is an input that nobody could read.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
FINGERPRINT_PATTERN = r"^[A-Za-z0-9._/-]{1,100}$"
LETTER_ID_PATTERN = r"^[0-9a-z:-]{1,80}$"
LETTER_CURSOR_PATTERN = r"^[0-9]{1,17}\.[0-9]{1,5}\.[0-9a-z:-]{1,80}$"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _text(pattern: str) -> WithJsonSchema:
    """A parameter may be left out, but is never sent as null."""
    return WithJsonSchema({"type": "string", "pattern": pattern})


def _not_null(value: object) -> object:
    """In a body, what is not asked for is left out too."""
    if value is None:
        raise ValueError("must not be null: leave it out")
    return value


def _moment(value: object) -> object:
    """Texts alone: numbers would be taken for seconds of an age that nobody meant."""
    if isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError as error:
        raise ValueError("must be a moment such as 2031-01-31T12:00:00Z") from error


_GIVEN = BeforeValidator(_not_null)
_WHEN = WithJsonSchema({"type": "string", "format": "date-time"})
Name = Annotated[Annotated[str, Field(pattern=NAME_PATTERN)] | None, _GIVEN, _text(NAME_PATTERN)]
Fingerprint = Annotated[
    Annotated[str, Field(pattern=FINGERPRINT_PATTERN)] | None, _GIVEN, _text(FINGERPRINT_PATTERN)
]
LetterId = Annotated[str, Field(pattern=LETTER_ID_PATTERN)]
LetterCursor = Annotated[
    Annotated[str, Field(pattern=LETTER_CURSOR_PATTERN)] | None,
    _GIVEN,
    _text(LETTER_CURSOR_PATTERN),
]
When = Annotated[AwareDatetime | None, BeforeValidator(_moment), _WHEN]
FailureFilter = Literal[
    "user_error",
    "out_of_memory",
    "timeout",
    "node_lost",
    "preempted",
    "start_timeout",
    "image_error",
    "infrastructure",
    "poison",
    "cancelled",
]


class LetterFilters(BaseModel):
    """Letters for which all of this holds; what is left out is any."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Name = None
    cluster: Name = None
    queue: Name = None
    fingerprint: Fingerprint = None
    failure: list[FailureFilter] = Field(
        default_factory=list, max_length=10, description="Any of these classes"
    )
    kind: Annotated[
        Literal["job", "input"] | None,
        _GIVEN,
        WithJsonSchema({"type": "string", "enum": ["job", "input"]}),
    ] = Field(default=None, description="Jobs, or inputs that nobody could read")
    since: When = Field(default=None, description="Laid aside at this moment or later")
    until: When = Field(default=None, description="Laid aside before this moment")
    state: Literal["open", "redriven", "purged", "any"] = Field(
        default="open", description="open has not been dealt with"
    )


def format_letter_cursor(at: datetime, shard: int, letter_id: str) -> str:
    """Where a page ended, for `next_cursor`."""
    return f"{(at - _EPOCH) // timedelta(microseconds=1)}.{shard}.{letter_id}"


def parse_letter_cursor(text: str) -> tuple[datetime, int, str]:
    """Where a page ended: when its last letter was laid aside, the letter's shard and id."""
    micros, shard, letter_id = text.split(".", 2)
    return _EPOCH + timedelta(microseconds=min(int(micros), 10**16)), int(shard), letter_id
