"""Brings the audit view's database to this release, forwards only, and keeps its generations.

Numbered SQL files in `migrations/foldline/` make the pointer, those in `migrations/audit/` a
generation's tables (both applied by yoyo, through `infra/postgres.py`); `migrations/readers.sql`
binds the readers' views to the live generation. Every step can be repeated after a crash at any
point. One lock of the database keeps two processes from doing this at once. Writes no data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.postgres import Database, Session, migrate_schema
from projections.pipeline import ViewBehind

HERE = Path(__file__).parent / "migrations"
POINTER = "foldline"
"""The schema of the pointer and of the readers' views."""
VIEW = "audit"
LOCK = 0x666F_6C64
"""Number of the advisory lock that is held while tables or generations change."""


def generation_schema(number: int) -> str:
    """The schema that holds the tables of a generation."""
    return f"{VIEW}_g{number}"


def migrate(url: str) -> list[str]:
    """Make the database ready for this release; the names of the files applied.

    Makes the first generation where there is none. Raises `DatabaseUnavailable`.
    """
    with _alone(url) as session:
        session.execute("CREATE SCHEMA IF NOT EXISTS foldline")
    with _alone(url):
        applied = migrate_schema(url, POINTER, HERE / "foldline")
    with _alone(url) as session:
        if find_live(session) is None:
            _add_generation(session, "live")
    with _alone(url) as session:
        number = find_live(session)
        assert number is not None, "the live generation is never taken away"
        schema = generation_schema(number)
        applied += migrate_schema(url, schema, HERE / "audit")
        session.look_in(schema)
        session.run_script((HERE / "readers.sql").read_text())
    return applied


def find_live(session: Session) -> int | None:
    """The number of the live generation; None where there is none, or nothing at all yet."""
    if session.fetch("SELECT to_regclass('foldline.generations')") == [(None,)]:
        return None
    found = session.fetch(
        "SELECT number FROM foldline.generations WHERE view = %s AND state = 'live'", (VIEW,)
    )
    return int(found[0][0]) if found else None


def create_generation(url: str) -> int:
    """A new generation with empty tables, to build beside the live one; its number.

    What an earlier build left behind goes first: a build that was stopped is never gone on with.
    """
    with _alone(url) as session:
        left = session.fetch(
            "DELETE FROM foldline.generations WHERE view = %s AND state = 'building'"
            " RETURNING number",
            (VIEW,),
        )
        for (number,) in left:
            session.drop_schema(generation_schema(number))
        number = _add_generation(session, "building")
    with _alone(url):
        migrate_schema(url, generation_schema(number), HERE / "audit")
    return number


def flip_generation(url: str, number: int) -> None:
    """Make a generation the live one, in one transaction; the one before is kept.

    Going back to the kept one is the same call. Raises `ViewBehind` if a generation just built
    does not stand as far as the live one on every shard: readers never go back in time.
    """
    with _alone(url):
        migrate_schema(url, generation_schema(number), HERE / "audit")
    with _alone(url) as session:
        states = _lock_states(session)
        assert number in states, f"there is no generation {number} of the {VIEW} view"
        live = next((other for other, state in states.items() if state == "live"), None)
        if live == number:
            return
        if live is not None and states[number] == "building":
            _check_not_behind(session, number, live)
        for other, state in states.items():
            if state == "old" and other != number:
                session.drop_schema(generation_schema(other))
                _set_state(session, other, None)
        if live is not None:
            _set_state(session, live, "old")
        _set_state(session, number, "live")
        session.look_in(generation_schema(number))
        session.run_script((HERE / "readers.sql").read_text())


@contextmanager
def _alone(url: str) -> Iterator[Session]:
    """A transaction that no other process which changes tables or generations runs beside."""
    database = Database(url, POINTER)
    try:
        with database.transaction() as session:
            session.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            yield session
    finally:
        database.close()


def _add_generation(session: Session, state: str) -> int:
    found = session.fetch(
        "INSERT INTO foldline.generations (view, number, state)"
        " VALUES (%s, nextval('foldline.generation_numbers'), %s) RETURNING number",
        (VIEW, state),
    )
    number = int(found[0][0])
    session.create_schema(generation_schema(number))
    return number


def _lock_states(session: Session) -> dict[int, str]:
    """State by number; until the transaction ends, no writer gets past its own look at them."""
    found = session.fetch(
        "SELECT number, state FROM foldline.generations WHERE view = %s ORDER BY number FOR UPDATE",
        (VIEW,),
    )
    return dict(found)


def _set_state(session: Session, number: int, state: str | None) -> None:
    """Change a generation's state, or forget it."""
    if state is None:
        session.execute(
            "DELETE FROM foldline.generations WHERE view = %s AND number = %s", (VIEW, number)
        )
        return
    session.execute(
        "UPDATE foldline.generations SET state = %s, changed_at = now()"
        " WHERE view = %s AND number = %s",
        (state, VIEW, number),
    )


def _check_not_behind(session: Session, number: int, live: int) -> None:
    offsets = {}
    for generation in (number, live):
        session.look_in(generation_schema(generation))
        offsets[generation] = dict(session.fetch("SELECT shard, next_offset FROM positions"))
    for shard, offset in offsets[live].items():
        stands = offsets[number].get(shard, 0)
        if stands < offset:
            raise ViewBehind(
                f"shard {shard}: generation {number} stands at offset {stands}, the live one"
                f" at {offset}"
            )
