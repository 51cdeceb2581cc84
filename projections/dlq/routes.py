"""The endpoints that read dead letters: lists, groups, one in full.

As all reads they come from a view and say how far it was (`projections/routes.py`). Redrives and
purges are commands: `ingest/dlq/routes.py`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import Field

from infra.http.errors import documented
from infra.http.letters import LETTER_ID_PATTERN, LetterCursor, LetterFilters
from infra.http.tokens import PositionText
from projections.app import ReadSide, held
from projections.dlq.answers import LetterAnswer, LetterGroups, LetterList
from projections.dlq.queries import LetterPage
from projections.routes import (
    FIND_ERRORS,
    PREFIX,
    READ_ERRORS,
    After,
    AfterHeader,
    found,
    seen,
    wait_until_visible,
)

PAGE_LIMIT = 100

router = APIRouter(prefix=PREFIX, tags=["dead letters"], responses=documented(500))
Held = Annotated[ReadSide, Depends(held)]


class ListFilters(LetterFilters):
    """Which letters, and which page of them."""

    limit: int = Field(default=PAGE_LIMIT, ge=1, le=10_000, description="Capped by a setting")
    cursor: LetterCursor = Field(default=None, description="`next_cursor` of the page before")
    min_position: PositionText = None


class GroupFilters(LetterFilters):
    """Which letters to group."""

    min_position: PositionText = None


@router.get("/dlq/", response_model=LetterList, responses=READ_ERRORS, summary="List dead letters")
async def list_letters(
    filters: Annotated[ListFilters, Query()],
    response: Response,
    side: Held,
    after: AfterHeader = None,
) -> LetterList:
    """The newest first; open ones unless `state` asks for others. Follow `next_cursor`."""
    await wait_until_visible(side, "audit", filters.min_position or after)
    limit = min(filters.limit, side.page_limit_max)
    page = LetterPage(filters, filters.cursor, limit)
    return seen(response, await side.letters.page(page))


@router.get(
    "/dlq/groups",
    response_model=LetterGroups,
    responses=READ_ERRORS,
    summary="Count dead letters that look alike",
)
async def group_letters(
    filters: Annotated[GroupFilters, Query()],
    response: Response,
    side: Held,
    after: AfterHeader = None,
) -> LetterGroups:
    """By fingerprint and failure class, the most frequent first."""
    await wait_until_visible(side, "audit", filters.min_position or after)
    return seen(response, await side.letters.groups(filters))


@router.get(
    "/dlq/{letter_id}",
    response_model=LetterAnswer,
    responses=FIND_ERRORS,
    summary="Show a dead letter",
)
async def show_letter(
    letter_id: Annotated[str, Path(pattern=LETTER_ID_PATTERN)],
    response: Response,
    side: Held,
    after: After = None,
) -> LetterAnswer:
    """With its attempts and last lines; an input that nobody could read with its bytes."""
    await wait_until_visible(side, "audit", after)
    text = f"there is no dead letter {letter_id!r}; list them with GET {PREFIX}/dlq/"
    return found(response, await side.letters.letter(letter_id), ("letter_not_found", text))
