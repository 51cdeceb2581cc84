"""Dead letters in the audit view: what a batch adds and changes, and how it is stored.

`letter_rows` is pure; `store_letters` writes within the batch's transaction. A letter is a row of
`dead_letters`, for a job's letter beside the job's own. What the rows mean: `letters.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import LiteralString

from infra.copy_rows import clean_text
from infra.postgres import Session, micros, moment
from projections.audit_rows import Row
from projections.audit_tables import DEAD_LETTERS
from projections.hot_rows import title_of
from projections.letters import Opened, Purged, Redriven, apply_act, letter_acts
from projections.pipeline import ViewBatch
from schemas.codec import to_plain
from schemas.digest import LetterRow
from schemas.terms import ParkedRecord
from stream_processors.domain.state import Job

_REDRIVE: LiteralString = """
    UPDATE dead_letters AS l SET state = 'redriven', redriven_by = %(by)s::uuid, redriven_at = %(at)s
    WHERE l.shard = %(shard)s AND l.letter_id = %(letter_id)s AND l.job_no = (
        SELECT max(job_no) FROM dead_letters
        WHERE shard = %(shard)s AND letter_id = %(letter_id)s)
"""
_PURGE: LiteralString = """
    UPDATE dead_letters AS l SET state = 'purged', purged_at = %(at)s, purged_by = %(actor)s,
        purge_reason = %(reason)s
    WHERE l.shard = %(shard)s AND l.letter_id = %(letter_id)s AND l.job_no = (
        SELECT max(job_no) FROM dead_letters
        WHERE shard = %(shard)s AND letter_id = %(letter_id)s)
"""
_ROWS: LiteralString = """
    SELECT letter_id, shard, job_no, state, at, attempts, failure, fingerprint,
        coalesce(redriven_by::text, ''), redriven_at, purged_at, purged_by, purge_reason
    FROM dead_letters WHERE shard = %s
"""


@dataclass(slots=True)
class LetterRows:
    """New letters, and acts upon letters that were there before the batch, in the log's order."""

    new: list[Row] = field(default_factory=list)
    acts: list[Redriven | Purged] = field(default_factory=list)


def letter_rows(batch: ViewBatch) -> LetterRows:
    """What a batch says of dead letters."""
    opened: dict[tuple[str, int], Opened] = {}
    latest: dict[str, int] = {}
    rows = LetterRows()
    for record in batch.records:
        for act in letter_acts(batch.shard, record, batch.changed):
            if isinstance(act, Opened):
                opened[act.row.letter_id, act.row.job_no] = act
                latest[act.row.letter_id] = act.row.job_no
            elif act.letter_id in latest:
                key = (act.letter_id, latest[act.letter_id])
                letter = opened[key]
                opened[key] = Opened(apply_act(letter.row, act), letter.what)
            else:
                rows.acts.append(act)
    rows.new = [_row(letter) for letter in opened.values()]
    return rows


def store_letters(session: Session, shard: int, rows: LetterRows) -> None:
    """Acts first: they are upon what was there before; what is new has had its own."""
    for act in rows.acts:
        values = {"shard": shard, "letter_id": clean_text(act.letter_id), "at": moment(act.at)}
        if isinstance(act, Redriven):
            session.execute(_REDRIVE, {**values, "by": act.by})
        else:
            words = {"actor": clean_text(act.actor), "reason": clean_text(act.reason)}
            session.execute(_PURGE, {**values, **words})
    session.copy_rows(DEAD_LETTERS, rows.new)


def stored_letters(session: Session, shard: int) -> Iterator[LetterRow]:
    """Every letter of a shard, as it is compared with the log."""
    for row in session.stream(_ROWS, (shard,)):
        times = (map(micros, row[4:5]), map(micros, row[9:11]))
        yield LetterRow(*row[:4], *times[0], *row[5:9], *times[1], *row[11:])


def _row(letter: Opened) -> Row:
    row = letter.row
    head = (row.shard, row.job_no, row.at, row.attempts)
    told = (row.letter_id, row.state, row.failure, row.fingerprint)
    redriven_by = bytes.fromhex(row.redriven_by.replace("-", ""))
    acts = (row.redriven_at, redriven_by, row.purged_at, row.purged_by, row.purge_reason)
    what = letter.what
    said = _of_input(what) if isinstance(what, ParkedRecord) else _of_job(what)
    return (*head, *told, *acts, *said)


def _of_job(job: Job) -> Row:
    terms = job.terms
    where = (terms.tenant, terms.pool, terms.queue)
    tail = job.history[-1].tail if job.history else ""
    history = [{**asdict(one), "nodes": list(one.nodes)} for one in job.history]
    said = (*title_of(job), job.message, tail, history, to_plain(terms))
    return (*where, *said, None, None, b"", b"", b"")


def _of_input(parked: ParkedRecord) -> Row:
    about = {
        "input": parked.input,
        "offset": parked.offset,
        "taken_at": parked.at,
        "code": parked.code,
        "size": parked.size,
    }
    headers = [[header.name, header.value.hex()] for header in parked.headers]
    said = ("", "", parked.message, "", None, None)
    return ("", "", "", *said, about, headers, parked.sha256, parked.key, parked.value)
