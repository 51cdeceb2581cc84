"""The audit view in PostgreSQL: every job, attempt, task, event and answer, for ever. Writes only.

`AuditView` is a view of `pipeline.py`. A batch is one transaction: the position moves by
compare-and-set, new rows go in by binary COPY, changed rows by one UPDATE a table, and a month's
partition of the events is made before its first row. What the rows are is `audit_rows.py`'s
matter, tables and generations `migrate.py`'s. Readers use the views of the schema `foldline`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

from infra.copy_rows import Table
from infra.postgres import Database, DatabaseUnavailable, Session, micros, moment
from projections import audit_tables as tables
from projections.audit_fleet import store_fleet
from projections.audit_letters import letter_rows, store_letters, stored_letters
from projections.audit_rows import AuditRows, Row, convert
from projections.migrate import (
    POINTER,
    VIEW,
    create_generation,
    find_live,
    flip_generation,
    generation_schema,
    migrate,
)
from projections.pipeline import (
    START,
    Position,
    StaleWriter,
    ViewBatch,
    ViewDiverged,
    ViewReplaced,
    ViewUnavailable,
)
from schemas.digest import JobRow, LetterRow, digest

WRITER_SQL = (Path(__file__).parent / "migrations" / "audit_writer.sql").read_text()
WRITER_SETTINGS = {
    # The few changed rows must be looked up one by one, however small the planner takes the
    # tables to be: its figures are always behind a table that grows this fast.
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "enable_memoize": "off",
    "jit": "off",
}

_CHANGE_JOBS: LiteralString = """
    UPDATE jobs AS j SET
        attempt = c.attempt, retries_used = c.retries_used, changed_at = c.changed_at,
        state = c.state, failure = c.failure, message = c.message,
        due_at = c.due_at, started_at = c.started_at, ended_at = c.ended_at
    FROM changed_jobs AS c
    WHERE j.shard = %s AND (j.shard, j.job_no) = (c.shard, c.job_no)
"""
_CHANGE_ATTEMPTS: LiteralString = """
    UPDATE attempts AS a SET
        started_at = coalesce(a.started_at, c.started_at),
        ended_at = coalesce(a.ended_at, c.ended_at),
        failure = CASE WHEN a.ended_at IS NULL THEN c.failure ELSE a.failure END,
        message = CASE WHEN a.ended_at IS NULL THEN c.message ELSE a.message END,
        fingerprint = CASE WHEN a.ended_at IS NULL THEN c.fingerprint ELSE a.fingerprint END
    FROM changed_attempts AS c
    WHERE a.shard = %s AND (a.shard, a.job_no, a.attempt) = (c.shard, c.job_no, c.attempt)
"""
_CHANGE_TASKS: LiteralString = """
    UPDATE tasks AS t SET
        ready_at = coalesce(t.ready_at, c.ready_at),
        started_at = coalesce(t.started_at, c.started_at),
        ended_at = coalesce(t.ended_at, c.ended_at),
        exit_code = c.exit_code, failure = c.failure, message = c.message, log_tail = c.log_tail
    FROM changed_tasks AS c
    WHERE t.shard = %s AND (t.shard, t.job_no, t.attempt, t.task) = (c.shard, c.job_no, c.attempt, c.task)
"""


class AuditView:
    """The live generation, or one that is being built beside it.

    Every method raises `ViewUnavailable` where the server does not answer or cannot write.
    The tables are made by `migrate`, which must have been run on the database.
    """

    def __init__(self, url: str, generation: int | None = None) -> None:
        """`generation` names one that is being built; without it, the live one is written."""
        self.generation = generation
        self._url = url
        self._number: int | None = None
        self._database = Database(url, POINTER)
        self._months: set[tuple[str, str, str]] = set()

    def position(self, shard: int) -> Position | None:
        """Where the view stands, asked anew; None while it has nothing of this shard."""
        with self._transaction(snapshot=True) as session:
            return _position(session, shard)

    def store(self, batch: ViewBatch) -> None:
        """Take in a batch, all of it with its position, or nothing.

        Raises `StaleWriter` where the view stands elsewhere, `ViewReplaced` where the generation
        is not what it was, `ViewDiverged` where rows are missing that must be there.
        """
        rows, letters = convert(batch), letter_rows(batch)
        months = {month_of(record.chain.at) for record in batch.records if record.events}
        with self._transaction() as session:
            self._hold_generation(session)
            _move(session, batch)
            for month in sorted(months - self._months):
                session.create_partition("events", *month)
            _store_rows(session, batch.shard, rows)
            store_letters(session, batch.shard, letters)
        self._months |= months

    def rows(self, shard: int) -> tuple[Position, list[JobRow]]:
        """Every job, and the position at which that is so: for tests and for finding a fault."""
        with self._transaction(snapshot=True) as session:
            return _position(session, shard) or START, list(_job_rows(session, shard))

    def digest(self, shard: int) -> tuple[Position, int, int]:
        """The position, the digest of all job rows there, and how many they are."""
        with self._transaction(snapshot=True) as session:
            position = _position(session, shard) or START
            [(count,)] = session.fetch("SELECT count(*) FROM jobs WHERE shard = %s", (shard,))
            return position, digest(_job_rows(session, shard)), count

    def letters(self, shard: int) -> tuple[Position, list[LetterRow]]:
        """Every dead letter, and the position at which that is so."""
        with self._transaction(snapshot=True) as session:
            return _position(session, shard) or START, list(stored_letters(session, shard))

    def new_generation(self) -> AuditView:
        """A view to build beside the live one; `flip` its `generation` when it has caught up."""
        with _reachable():
            migrate(self._url)
            return AuditView(self._url, create_generation(self._url))

    def flip(self, generation: int) -> None:
        """Make a generation the live one; the one before is kept for going back.

        Raises `ViewBehind` where readers would go back in time.
        """
        with _reachable():
            flip_generation(self._url, generation)

    def close(self) -> None:
        """Give the connection back."""
        self._database.close()

    @contextmanager
    def _transaction(self, *, snapshot: bool = False) -> Iterator[Session]:
        with _reachable():
            if snapshot or self._number is None:
                self._find()
            with self._database.transaction(snapshot=snapshot) as session:
                yield session

    def _find(self) -> None:
        """Be connected to the generation that is to be written."""
        number = self.generation
        if number is None:
            with self._database.transaction() as session:
                number = find_live(session)
            if number is None:
                raise ViewUnavailable(
                    "the audit view has no tables yet: start `foldline serve audit`"
                )
        if number != self._number:
            self._database.close()
            schema = generation_schema(number)
            self._database = Database(self._url, schema, WRITER_SETTINGS, WRITER_SQL)
            self._number = number
            self._months = set()

    def _hold_generation(self, session: Session) -> None:
        """See that the generation is what we take it for, and keep it so until the commit."""
        found = session.fetch(
            "SELECT state FROM foldline.generations WHERE view = %s AND number = %s FOR SHARE",
            (VIEW, self._number),
        )
        expected = "live" if self.generation is None else "building"
        if found != [(expected,)]:
            number, self._number = self._number, None
            state = found[0][0] if found else "gone"
            raise ViewReplaced(f"generation {number} of the audit view is {state}, not {expected}")


def month_of(at: int) -> tuple[str, str, str]:
    """The events' partition for a moment (UTC microseconds): its name, first moment, and end."""
    time = moment(at)
    start = f"{time.year:04}-{time.month:02}"
    stop = f"{time.year + time.month // 12:04}-{time.month % 12 + 1:02}"
    name = f"events_{time.year:04}_{time.month:02}"
    return name, f"{start}-01 00:00:00+00", f"{stop}-01 00:00:00+00"


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except DatabaseUnavailable as error:
        raise ViewUnavailable(f"PostgreSQL: {error}") from error


def _position(session: Session, shard: int) -> Position | None:
    found = session.fetch(
        "SELECT next_offset, epoch, owner, seq, value, at, commands, reports"
        " FROM positions WHERE shard = %s",
        (shard,),
    )
    if not found:
        return None
    next_offset, epoch, owner, seq, value, at, commands, reports = found[0]
    return Position(next_offset, epoch, owner, seq, value, micros(at), commands, reports)


def _move(session: Session, batch: ViewBatch) -> None:
    """The compare-and-set that lets only one writer through."""
    old, new = batch.start, batch.stop
    chain = (new.next_offset, new.epoch, new.owner, new.seq, new.value, moment(new.at))
    values = (*chain, new.commands, new.reports, batch.shard)
    if old == START:
        moved = session.execute(
            "INSERT INTO positions"
            " (next_offset, epoch, owner, seq, value, at, commands, reports, shard)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            values,
        )
    else:
        moved = session.execute(
            "UPDATE positions SET next_offset = %s, epoch = %s, owner = %s, seq = %s, value = %s,"
            " at = %s, commands = %s, reports = %s WHERE shard = %s"
            " AND next_offset = %s AND epoch = %s AND seq = %s AND value = %s",
            (*values, old.next_offset, old.epoch, old.seq, old.value),
        )
    if moved != 1:
        stands = _position(session, batch.shard)
        raise StaleWriter(f"shard {batch.shard}: the audit view stands at {stands}, not at {old}")


def _store_rows(session: Session, shard: int, rows: AuditRows) -> None:
    session.copy_rows(tables.JOBS, rows.jobs)
    session.copy_rows(tables.DEPENDENCIES, rows.dependencies)
    session.copy_rows(tables.ATTEMPTS, rows.attempts)
    session.copy_rows(tables.TASKS, rows.tasks)
    session.copy_rows(tables.EVENTS, rows.events)
    session.copy_rows(tables.ANSWERS, rows.answers)
    if rows.opened_attempts:
        session.execute_many(
            "INSERT INTO attempts (shard, job_no, attempt, placed_at, failure, message)"
            " VALUES (%s, %s, %s, %s, 'none', '') ON CONFLICT DO NOTHING",
            [(*key, moment(at)) for *key, at in rows.opened_attempts],
        )
    _change(session, shard, (tables.CHANGED_JOBS, rows.changed_jobs), _CHANGE_JOBS)
    _change(session, shard, (tables.CHANGED_ATTEMPTS, rows.changed_attempts), _CHANGE_ATTEMPTS)
    _change(session, shard, (tables.CHANGED_TASKS, rows.changed_tasks), _CHANGE_TASKS)
    _answer_cancels(session, rows.cancelled)
    store_fleet(session, shard, rows.fleet)


def _change(
    session: Session, shard: int, what: tuple[Table, list[Row]], query: LiteralString
) -> None:
    table, rows = what
    if not rows:
        return
    session.copy_rows(table, rows)
    touched = session.execute(query, (shard,))
    if touched != len(rows):
        raise ViewDiverged(
            f"shard {shard}: {len(rows) - touched} rows that should change are not in the audit"
            " view: it was changed by hand; run `foldline rebuild audit`"
        )


def _answer_cancels(session: Session, rows: list[Row]) -> None:
    if rows:
        session.execute_many(
            "INSERT INTO answers (shard, command_offset, row_no, at, outcome, code, job_no, message)"
            " SELECT %(shard)s, %(offset)s, -1, %(at)s, 'accepted', '', %(no)s, ''"
            " WHERE NOT EXISTS (SELECT FROM answers"
            " WHERE shard = %(shard)s AND command_offset = %(offset)s)",
            [
                {"shard": shard, "offset": offset, "at": moment(at), "no": no}
                for shard, offset, _, at, _, _, no, _, _ in rows
            ],
        )


def _job_rows(session: Session, shard: int) -> Iterator[JobRow]:
    rows = session.stream(
        "SELECT job_id::text, shard, job_no, tenant, pool, queue, state, priority, attempt,"
        " retries_used, submitted_at, due_at, started_at, ended_at, failure, message"
        " FROM jobs WHERE shard = %s",
        (shard,),
    )
    for row in rows:
        yield JobRow(*row[:10], *map(micros, row[10:14]), *row[14:])
