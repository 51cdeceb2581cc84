"""Dead letters from the audit view, as the API answers them. Writes nothing."""

from __future__ import annotations

from infra.http.letters import LetterFilters, format_letter_cursor
from projections.dlq.answers import (
    LetterAnswer,
    LetterGroups,
    LetterList,
    letter_answer,
    letter_group,
    letter_summary,
)
from projections.dlq.queries import LetterPage, LetterQueries
from projections.queries import Row, Seen


class ViewLetters:
    """The `LetterReads` on the audit view."""

    def __init__(self, queries: LetterQueries) -> None:
        """Owns no connection."""
        self._queries = queries

    async def page(self, page: LetterPage) -> Seen[LetterList]:
        """A page of letters."""
        seen = await self._queries.page(page)
        shown = [letter_summary(row) for row in seen.value[: page.limit]]
        cursor = next_letter_cursor(seen.value, page.limit)
        return Seen(LetterList(letters=shown, next_cursor=cursor), seen.consumed)

    async def groups(self, filters: LetterFilters) -> Seen[LetterGroups]:
        """Letters by what they look like."""
        seen = await self._queries.groups(filters)
        return Seen(LetterGroups(groups=[letter_group(row) for row in seen.value]), seen.consumed)

    async def letter(self, letter_id: str) -> Seen[LetterAnswer | None]:
        """One letter in full."""
        seen = await self._queries.ones([letter_id])
        return Seen(letter_answer(seen.value[0]) if seen.value else None, seen.consumed)


def next_letter_cursor(rows: list[Row], limit: int) -> str | None:
    """Where the page of `limit` letters ended; None where nothing is behind it."""
    if len(rows) <= limit:
        return None
    last = rows[limit - 1]
    return format_letter_cursor(last["at"], last["shard"], last["letter_id"])
