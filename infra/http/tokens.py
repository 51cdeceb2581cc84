"""Position tokens: the place of a command in the commands topic, as `shard-offset`.

A write answers one; a read answers, in `Foldline-Position`, how far the view that it came from has
consumed commands: one token a shard, joined by commas. Either can be handed back as
`min_position`, so a caller reads its own writes and never goes backwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, WithJsonSchema

POSITION_HEADER = "Foldline-Position"
MIN_POSITION_HEADER = "Foldline-Min-Position"
TOKEN_PATTERN = r"^[0-9]{1,5}-[0-9]{1,18}$"  # noqa: S105 - a place, not a secret
POSITION_PATTERN = r"^[0-9]{1,5}-[0-9]{1,18}(,[0-9]{1,5}-[0-9]{1,18}){0,63}$"
PositionText = Annotated[
    Annotated[str, Field(pattern=POSITION_PATTERN)] | None,
    WithJsonSchema({"type": "string", "pattern": POSITION_PATTERN}),
]
"""A position as a parameter: it may be left out, but is never sent as null."""
_TOKEN = re.compile(r"[0-9]{1,5}-[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CommandPlace:
    """Where a command lies: its shard (partition) and offset."""

    shard: int
    offset: int

    def __str__(self) -> str:
        """The token."""
        return f"{self.shard}-{self.offset}"


def parse_token(text: str) -> CommandPlace | None:
    """The place that a token names, or None if it is none."""
    if not _TOKEN.fullmatch(text):
        return None
    shard, offset = text.split("-")
    return CommandPlace(int(shard), int(offset))


def parse_position(text: str) -> tuple[CommandPlace, ...] | None:
    """The places in a comma-joined position, or None if it is none."""
    places = [parse_token(part) for part in text.split(",")]
    found = tuple(place for place in places if place is not None)
    return found if len(found) == len(places) else None


def format_position(consumed: Mapping[int, int]) -> str:
    """The position of a view: `consumed` is the next command offset of each shard.

    Shards of which nothing was consumed are left out, so the text can be empty.
    """
    places = (CommandPlace(shard, stop - 1) for shard, stop in sorted(consumed.items()) if stop)
    return ",".join(map(str, places))
