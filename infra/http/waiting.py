"""Waiting, bounded, until a view or follower has consumed a position that a caller asks for.

Asks again and again rather than being told: a view lags by milliseconds, and the one who asks may
be another process than the one who writes it. Raises the 503 that says how far the view is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic

from infra.http.errors import ApiError, invalid
from infra.http.tokens import POSITION_HEADER, CommandPlace, format_position, parse_position

FIRST_PAUSE_S = 0.005
LAST_PAUSE_S = 0.1
RETRY_AFTER_S = 1

Consumed = Mapping[int, int]
"""By shard: the offset of the first command that was not consumed yet."""


def wanted_places(text: str, shards: int) -> tuple[CommandPlace, ...]:
    """The places in a caller's `min_position`; a 422 if it is none of this installation."""
    places = parse_position(text)
    if places is None:
        raise invalid("min_position", "must be a position as a write or a read answered it")
    if any(place.shard >= shards for place in places):
        raise invalid("min_position", f"names a shard that is not there: there are {shards}")
    return places


def is_reached(consumed: Consumed, wanted: tuple[CommandPlace, ...]) -> bool:
    """Whether all these commands were consumed."""
    return all(consumed.get(place.shard, 0) > place.offset for place in wanted)


async def until_reached(
    look: Callable[[], Awaitable[Consumed]], wanted: tuple[CommandPlace, ...], timeout_s: float
) -> Consumed:
    """What `look` answers once it has reached `wanted`; a 503 after `timeout_s`."""
    deadline = monotonic() + timeout_s
    pause = FIRST_PAUSE_S
    while True:
        consumed = await look()
        if is_reached(consumed, wanted):
            return consumed
        if monotonic() + pause > deadline:
            raise behind(consumed, wanted)
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LAST_PAUSE_S)


def behind(consumed: Consumed, wanted: tuple[CommandPlace, ...]) -> ApiError:
    """The 503 of a view that has not come far enough."""
    here = format_position(consumed)
    missing = ",".join(map(str, wanted))
    return ApiError(
        503,
        "not_caught_up",
        f"position {missing} is not visible yet: what answers here stands at {here or 'nothing'}; "
        "try again, or leave min_position out",
        headers={"Retry-After": str(RETRY_AFTER_S), POSITION_HEADER: here},
    )
