"""Which records of a shard's log count. Every reader judges alike, so all see one history.

Reads nothing and writes nothing: a `Chain` is where a reader stands, `judge` takes it one record
further. A record counts only by its epoch, owner, seq and prev; the rest of it is looked at when
it counts, and what must not be there then stops the reader (`LogStopped`), because skipping a
record that counts would fork history. What a decision's events mean is `evolve.py`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256

from schemas.envelope import LOG_FORMAT, Claim, Consumed, Decision, Input
from schemas.terms import Micros

GENESIS_VALUE = bytes(32)
"""The chain's value before any record has counted."""
GENESIS_AT = Micros(0)


CHANGED = (
    "the log was changed, or the release that wrote it folds otherwise than this one. Run `foldline"
    " verify`; restore the log's topic from a backup, or start the release that wrote the record"
)
"""What to do about a record that no release should have written as it stands."""


class LogStopped(Exception):
    """The log holds what this reader must not skip and cannot take: the shard stops loudly.

    Its message names the offset, what is wrong there, and the way out.
    """


class Verdict(StrEnum):
    """What became of one record; all but the first two are skipped by everyone, for ever."""

    CLAIM = "a claim that counts"
    DECISION = "a decision that counts"
    NO_RECORD = "bytes that are neither claim nor decision"
    LOST_CLAIM = "a claim of an epoch that is not the next"
    STALE_EPOCH = "a decision of an epoch that is not the current one"
    OTHER_OWNER = "a decision of one who lost the claim for this epoch"
    WRONG_SEQ = "a duplicate, or a decision whose predecessor did not count"
    WRONG_PREV = "a decision that follows another history"

    @property
    def counts(self) -> bool:
        """Whether the record is part of history."""
        return self in _COUNTING


_COUNTING = frozenset({Verdict.CLAIM, Verdict.DECISION})


@dataclass(frozen=True, slots=True)
class Positions:
    """For each input of the shard, the offset that the next decision must consume from."""

    commands: int = 0
    reports: int = 0


NOTHING_CONSUMED = Positions()


@dataclass(frozen=True, slots=True)
class Chain:
    """Where a reader stands: the current claim, the last decision, and what they add up to.

    `value` is the running SHA-256 over the bytes of all records that counted, claims included.
    `next_offset` follows the last record judged, whether it counted or not. `at` is that of the
    last decision: a claim's `at` is its owner's wall clock, not yet compared with anybody's.
    """

    epoch: int = 0
    owner: bytes = b""
    seq: int = 0
    value: bytes = GENESIS_VALUE
    at: Micros = GENESIS_AT
    next_offset: int = 0
    consumed: Positions = NOTHING_CONSUMED


GENESIS = Chain()
"""Before the first record: epoch 0 has no owner, and the first decision has seq 1."""


def judge(
    chain: Chain, record: Claim | Decision | None, raw: bytes, offset: int
) -> tuple[Chain, Verdict]:
    """The chain after the record at `offset`, and whether it counts.

    `raw` are the record's bytes as the log holds them, `record` what they decode to (None where
    they are neither claim nor decision). Offsets of a log are dense, so `offset` must be
    `chain.next_offset`. Raises `LogStopped`.
    """
    if offset != chain.next_offset:
        raise LogStopped(
            f"the log goes on at offset {offset} where {chain.next_offset} was due: records are"
            " missing. Restore the log's topic from a backup before reading on"
        )
    verdict = _weigh(chain, record)
    after = replace(chain, next_offset=offset + 1)
    if record is None or not verdict.counts:
        return after, verdict
    if record.format != LOG_FORMAT:
        raise LogStopped(
            f"the record at offset {offset} counts but has format {record.format}; this release"
            f" reads format {LOG_FORMAT}: start a newer release"
        )
    value = sha256(chain.value + raw).digest()
    if isinstance(record, Claim):
        return replace(after, epoch=record.epoch, owner=record.owner, value=value), verdict
    return replace(
        after,
        seq=record.seq,
        value=value,
        at=_later(chain.at, record.at, offset),
        consumed=_consume(chain.consumed, record.consumed, offset),
    ), verdict


def _weigh(chain: Chain, record: Claim | Decision | None) -> Verdict:
    if record is None:
        return Verdict.NO_RECORD
    if isinstance(record, Claim):
        return Verdict.CLAIM if record.epoch == chain.epoch + 1 else Verdict.LOST_CLAIM
    if record.epoch != chain.epoch or chain.epoch == GENESIS.epoch:
        return Verdict.STALE_EPOCH
    if record.owner != chain.owner:
        return Verdict.OTHER_OWNER
    if record.seq != chain.seq + 1:
        return Verdict.WRONG_SEQ
    return Verdict.DECISION if record.prev == chain.value else Verdict.WRONG_PREV


def _later(before: Micros, at: Micros, offset: int) -> Micros:
    if at < before:
        raise LogStopped(
            f"the decision at offset {offset} counts but its time goes back by {before - at} µs:"
            f" {CHANGED}"
        )
    return at


def _consume(positions: Positions, consumed: tuple[Consumed, ...], offset: int) -> Positions:
    """The positions after a decision; each part must start where the last one stopped."""
    for part in consumed:
        if part.input is Input.COMMANDS:
            stands = positions.commands
            moved = replace(positions, commands=part.stop)
        elif part.input is Input.REPORTS:
            stands = positions.reports
            moved = replace(positions, reports=part.stop)
        else:
            raise LogStopped(
                f"the decision at offset {offset} counts but consumed an input that this release"
                " does not know: start a newer release"
            )
        if part.start != stands or part.stop < part.start:
            raise LogStopped(
                f"the decision at offset {offset} counts but consumed {part.input} from"
                f" {part.start} to {part.stop}, where the fold stands at {stands}: {CHANGED}"
            )
        positions = moved
    return positions
