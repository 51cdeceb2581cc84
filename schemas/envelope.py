"""The frozen frame of the shard log: `Claim` and `Decision`. Judged before anything in it is read.

The layout of these two never changes; what may grow is the list of events, each encoded apart
under its own schema id. Whether a record counts is judged by `stream_processors.domain.counting`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from schemas.terms import Micros

LOG_FORMAT = 1
"""The format this release writes; a record that counts with another one stops the reader."""


class Input(StrEnum):
    """The input topics of a shard, as named in `Consumed`."""

    UNKNOWN = "UNKNOWN"
    COMMANDS = "commands"
    REPORTS = "reports"


@dataclass(frozen=True, slots=True)
class Consumed:
    """A decision used the records `start <= offset < stop` of this input's partition."""

    input: Input
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class EncodedEvent:
    """One event: its schema's id in the lock file, and its Avro bytes without framing."""

    schema_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """`owner` (16 bytes, fresh for every start of a process) asks to be the writer of `epoch`."""

    format: int
    epoch: int
    owner: bytes
    at: Micros


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of the owner: `seq` is dense over the shard's life, `prev` the running SHA-256.

    `at` never goes backwards along the decisions that count (a claim carries its owner's wall clock).
    """

    format: int
    epoch: int
    owner: bytes
    seq: int
    prev: bytes
    at: Micros
    consumed: tuple[Consumed, ...]
    events: tuple[EncodedEvent, ...]
