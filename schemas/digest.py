"""How two views of the same jobs are compared: an order-free sum of row hashes.

Every view that claims to hold jobs can make `JobRow`s, and `LetterRow`s of those that were laid
aside; the sum of their hashes (modulo 2**128) is equal exactly when the views hold equal rows, in whatever order and however partitioned.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from hashlib import blake2b

MODULUS = 1 << 128


@dataclass(frozen=True, slots=True)
class JobRow:
    """What every view says alike of a job. Times are UTC microseconds, 0 for not yet."""

    job_id: str
    shard: int
    job_no: int
    tenant: str
    pool: str
    queue: str
    state: str
    priority: int
    attempt: int
    retries_used: int
    submitted_at: int
    due_at: int
    started_at: int
    ended_at: int
    failure: str
    message: str


@dataclass(frozen=True, slots=True)
class LetterRow:
    """What the log and every view say alike of a dead letter. Times as in `JobRow`.

    `letter_id` is a job id, or `shard:input:offset` of a parked input, whose `job_no` is 0.
    `state` is open, redriven or purged, as the last act upon it left it.
    """

    letter_id: str
    shard: int
    job_no: int
    state: str
    at: int
    attempts: int
    failure: str
    fingerprint: str
    redriven_by: str = ""
    redriven_at: int = 0
    purged_at: int = 0
    purged_by: str = ""
    purge_reason: str = ""


def row_hash(row: JobRow | LetterRow) -> int:
    """128 bits that stand for this row."""
    text = "\x1f".join(map(str, astuple(row)))
    return int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "big")


def digest(rows: Iterable[JobRow | LetterRow], start: int = 0) -> int:
    """The sum of the rows' hashes, on top of `start`."""
    return (start + sum(map(row_hash, rows))) % MODULUS


def add_row(total: bytes, row: JobRow) -> bytes:
    """A digest of 16 bytes with one more row in it."""
    value = (int.from_bytes(total, "big") + row_hash(row)) % MODULUS
    return value.to_bytes(16, "big")


def format_digest(value: int) -> str:
    """A digest as 32 hex digits."""
    return f"{value:032x}"
