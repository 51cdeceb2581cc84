"""Dead letters as the log tells them: opened, run again, purged. Pure.

A letter is a job whose retries are spent (`JobsDeadLettered`), or an input that nobody can read
(`InputsParked`). A submission that names it in `redrives` runs it again; `DeadLettersPurged` says
that it was dealt with. `letter_acts` reads that from a record; `LetterBook` applies the acts one
after the other, for whoever compares a view with the log. The audit view stores the same
(`audit_letters.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from infra.follow import CountedRecord
from schemas import events
from schemas.digest import LetterRow, digest
from schemas.ids import JOB_ID_BYTES, format_job_id
from schemas.terms import FailureClass, ParkedRecord
from stream_processors.domain.state import Job

OPEN, REDRIVEN, PURGED = "open", "redriven", "purged"


@dataclass(frozen=True, slots=True)
class Opened:
    """A letter begins: of a job, or of a parked input."""

    row: LetterRow
    what: Job | ParkedRecord


@dataclass(frozen=True, slots=True)
class Redriven:
    """A submission runs a letter again; `by` is the new job's id, `at` UTC microseconds."""

    letter_id: str
    at: int
    by: str


@dataclass(frozen=True, slots=True)
class Purged:
    """A letter was dealt with."""

    letter_id: str
    at: int
    actor: str
    reason: str


Act = Opened | Redriven | Purged


def letter_acts(shard: int, record: CountedRecord, jobs: Mapping[int, Job]) -> Iterator[Act]:
    """What a record does to dead letters; `jobs` holds those it touches, as it leaves them."""
    at = record.record.at
    for event in record.events:
        if isinstance(event, events.JobsDeadLettered):
            yield from _dead_lettered(shard, at, event, jobs)
        elif isinstance(event, events.InputsParked):
            for parked in event.records:
                yield Opened(_parked_row(shard, at, parked), parked)
        elif isinstance(event, events.JobsSubmitted):
            for row, redrives in zip(event.cause_rows, event.redrives, strict=True):
                if redrives:
                    start = row * JOB_ID_BYTES
                    by = event.job_ids[start : start + JOB_ID_BYTES]
                    yield Redriven(format_job_id(redrives), at, format_job_id(by))
        elif isinstance(event, events.DeadLettersPurged):
            for letter_id in event.ids:
                yield Purged(letter_id, at, event.actor, event.reason)


def apply_act(row: LetterRow, act: Redriven | Purged) -> LetterRow:
    """The letter after the act: the last one decides where it stands."""
    if isinstance(act, Redriven):
        return replace(row, state=REDRIVEN, redriven_by=act.by, redriven_at=act.at)
    return replace(
        row, state=PURGED, purged_at=act.at, purged_by=act.actor, purge_reason=act.reason
    )


@dataclass(slots=True)
class LetterBook:
    """Every letter of one shard, as the records so far have left it."""

    shard: int
    _rows: dict[tuple[str, int], LetterRow] = field(default_factory=dict)
    _latest: dict[str, int] = field(default_factory=dict)

    def take(self, record: CountedRecord, jobs: Mapping[int, Job]) -> None:
        """The next record that counts; `jobs` are those known after it, or forgotten in it."""
        for act in letter_acts(self.shard, record, jobs):
            if isinstance(act, Opened):
                self._rows[act.row.letter_id, act.row.job_no] = act.row
                self._latest[act.row.letter_id] = act.row.job_no
            elif act.letter_id in self._latest:
                key = (act.letter_id, self._latest[act.letter_id])
                self._rows[key] = apply_act(self._rows[key], act)

    def digest(self) -> int:
        """The digest that a view of these letters must have."""
        return digest(self._rows.values())

    def rows(self) -> Iterator[LetterRow]:
        """All of them, in the order in which they were opened."""
        return iter(self._rows.values())


def parked_id(shard: int, record: ParkedRecord) -> str:
    """How a parked input's letter is called."""
    return f"{shard}:{record.input}:{record.offset}"


def _dead_lettered(
    shard: int, at: int, event: events.JobsDeadLettered, jobs: Mapping[int, Job]
) -> Iterator[Opened]:
    columns = zip(event.job_nos, event.attempts, event.failures, strict=True)
    for place, (no, attempt, failure) in enumerate(columns):
        job = jobs[no]
        row = LetterRow(
            letter_id=format_job_id(job.job_id),
            shard=shard,
            job_no=no,
            state=OPEN,
            at=at,
            attempts=attempt,
            failure=failure.value,
            fingerprint=event.fingerprints[place] if event.fingerprints else "",
        )
        yield Opened(row, job)


def _parked_row(shard: int, at: int, parked: ParkedRecord) -> LetterRow:
    """A parked input groups with those that were unreadable in the same way."""
    return LetterRow(
        letter_id=parked_id(shard, parked),
        shard=shard,
        job_no=0,
        state=OPEN,
        at=at,
        attempts=0,
        failure=FailureClass.POISON.value,
        fingerprint=f"{parked.input}/{parked.code}",
    )
