"""Batches of records that the broker took and no client can unpack: found whole, and given up.

A producer's compressed batch lies in the log as it was sent. One that unpacks to more than a client
takes, or not at all, would stop its reader for ever, so its records are told as broken, each with
its place and without a value, and reading goes on behind it. No I/O: `infra.kafka` asks the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, Self

from infra.kafka_port import Message, Place, Progress


class Asker(Protocol):
    """A reader, as far as it is asked for the end of a batch that it cannot unpack."""

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset that the partition's next record will have."""

    def assign(self, positions: Mapping[Place, int]) -> None:
        """Read from there."""

    def hits(self, place: Place) -> int | None:
        """Where the broken batch begins that comes first, or None where something else does."""

    def twin(self) -> Self:
        """Another one, which no answer to an earlier question can reach."""

    def close(self) -> None:
        """Let go of the broker."""

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Go on from there."""


def give_up(reader: Asker, progress: Progress, most: int) -> list[Message]:
    """The next records of one broken batch that was met, without values; then read on behind it."""
    place, batch = next(iter(progress.broken.items()))
    start = progress.positions[place]
    if batch.stop is None:
        is_inside = partial(_is_inside, reader, place, batch.base)
        batch.stop = find_stop(is_inside, start, reader.end_offset(*place))
    stop = progress.positions[place] = min(batch.stop, start + most)
    if stop == batch.stop:
        reader.seek(*place, stop)
    return [
        Message(*place, offset, None, None, [], 0, batch.reason) for offset in range(start, stop)
    ]


def _is_inside(reader: Asker, place: Place, base: int, offset: int) -> bool:
    """Whether who starts at `offset` is stopped by the batch that begins at `base`."""
    asked = reader.twin()
    try:
        asked.assign({place: offset})
        return asked.hits(place) == base
    finally:
        asked.close()


def find_stop(is_inside: Callable[[int], bool], position: int, end: int) -> int:
    """The first offset from `position` on, up to `end`, that does not lie in the batch.

    `is_inside` costs a question to the broker each: steps double, then the rest is halved.
    """
    inside, step = position - 1, 1
    while inside + step < end and is_inside(inside + step):
        inside += step
        step *= 2
    outside = min(inside + step, end)
    while outside - inside > 1:
        middle = (inside + outside) // 2
        if is_inside(middle):
            inside = middle
        else:
            outside = middle
    return outside
