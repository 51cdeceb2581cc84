"""Questions to the audit view about dead letters: pages, single ones, groups, depth.

Reads the view `foldline.dead_letters`; the connections are those of `queries.py`, whose bounds and
errors hold here too. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from infra.http.letters import LetterFilters, parse_letter_cursor
from projections.queries import Queries, Row, Seen

GROUPS_MAX = 1_000
AFTER_ALL: tuple[datetime | str, int, str] = ("infinity", 0, "")

_WHERE: LiteralString = """
    (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
    AND (%(cluster)s::text IS NULL OR pool = %(cluster)s)
    AND (%(queue)s::text IS NULL OR queue = %(queue)s)
    AND (%(fingerprint)s::text IS NULL OR fingerprint = %(fingerprint)s)
    AND (%(failure)s::text[] IS NULL OR failure = ANY(%(failure)s))
    AND (%(kind)s::text IS NULL OR kind = %(kind)s)
    AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
    AND (%(state)s::text = 'any' OR state = %(state)s)
"""
_BEHIND: LiteralString = """
    (at, shard, letter_id) < (%(at)s::timestamptz, %(shard)s::integer, %(letter_id)s::text)
"""
_SHORT: LiteralString = """
    SELECT shard, letter_id, job_no, kind, state, at, attempts, failure, fingerprint, tenant, pool,
        queue, job_type, name, message, redriven_at, redriven_by, purged_at, purged_by,
        purge_reason, input
    FROM foldline.dead_letters WHERE
"""
_WHOLE: LiteralString = "SELECT * FROM foldline.dead_letters WHERE "
_HOW_MANY: LiteralString = "SELECT count(*) AS letters FROM foldline.dead_letters WHERE "
_AND: LiteralString = " AND "
_ORDER: LiteralString = " ORDER BY at DESC, shard DESC, letter_id DESC LIMIT %(limit)s"
_PAGE: LiteralString = _SHORT + _BEHIND + _AND + _WHERE + _ORDER
_WHOLE_PAGE: LiteralString = _WHOLE + _BEHIND + _AND + _WHERE + _ORDER
_COUNT: LiteralString = _HOW_MANY + _BEHIND + _AND + _WHERE
_GROUPED: LiteralString = """
    SELECT fingerprint, failure, count(*) AS letters, min(at) AS first_at, max(at) AS last_at,
        (array_agg(letter_id ORDER BY at DESC))[1] AS latest_id,
        (array_agg(message ORDER BY at DESC))[1] AS message
    FROM foldline.dead_letters WHERE
"""
_BY_SIZE: LiteralString = """
    GROUP BY fingerprint, failure ORDER BY letters DESC, fingerprint LIMIT %(limit)s
"""
_GROUPS: LiteralString = _GROUPED + _WHERE + _BY_SIZE
_ONES: LiteralString = """
    SELECT DISTINCT ON (letter_id) * FROM foldline.dead_letters WHERE letter_id = ANY(%(ids)s)
    ORDER BY letter_id, job_no DESC NULLS LAST
"""
_DEPTH: LiteralString = """
    SELECT fingerprint, count(*) AS letters, min(at) AS oldest_at
    FROM foldline.dead_letters WHERE state = 'open'
    GROUP BY fingerprint ORDER BY letters DESC, fingerprint
"""


@dataclass(frozen=True, slots=True)
class LetterPage:
    """Which letters, from where on: strictly older than the one that the cursor names."""

    filters: LetterFilters
    cursor: str | None
    limit: int


class LetterQueries:
    """Dead letters of the audit view."""

    def __init__(self, queries: Queries) -> None:
        """Asks through connections that others own."""
        self._queries = queries

    async def page(self, page: LetterPage) -> Seen[list[Row]]:
        """A page of letters in short, and one more where there is one."""
        return await self._queries.fetch(_PAGE, _values(page))

    async def whole_page(self, page: LetterPage) -> Seen[list[Row]]:
        """The same with all that is known of each."""
        return await self._queries.fetch(_WHOLE_PAGE, _values(page))

    async def count(self, page: LetterPage) -> int:
        """How many there are from where the page begins."""
        seen = await self._queries.fetch(_COUNT, _values(page))
        return int(seen.value[0]["letters"])

    async def groups(self, filters: LetterFilters) -> Seen[list[Row]]:
        """How many letters look alike, the most frequent first."""
        values = {**_wanted(filters), "limit": GROUPS_MAX}
        return await self._queries.fetch(_GROUPS, values)

    async def ones(self, ids: Sequence[str]) -> Seen[list[Row]]:
        """These letters whole; the latest where an id was given to two jobs one after the other."""
        return await self._queries.fetch(_ONES, {"ids": list(ids)})

    async def depth(self) -> list[Row]:
        """Open letters by fingerprint, the most frequent first."""
        return (await self._queries.fetch(_DEPTH, {})).value


def _values(page: LetterPage) -> dict[str, Any]:
    at, shard, letter_id = parse_letter_cursor(page.cursor) if page.cursor else AFTER_ALL
    place = {"at": at, "shard": shard, "letter_id": letter_id}
    return {**_wanted(page.filters), **place, "limit": page.limit + 1}


def _wanted(filters: LetterFilters) -> dict[str, Any]:
    named = ("tenant", "cluster", "queue", "fingerprint", "kind", "since", "until", "state")
    wanted = {name: getattr(filters, name) for name in named}
    return {**wanted, "failure": list(filters.failure) or None}
