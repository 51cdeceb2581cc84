"""The endpoints that deal with dead letters: run them again, purge them.

Each is commands on Kafka, as every write (`ingest/routes.py`); a request deals with a bounded number
of letters and says how many remain. Lists and single letters are read in `projections/dlq/routes.py`.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from infra.http.errors import ApiError, documented
from ingest.app import Ingest, held
from ingest.dlq.answers import PurgeAnswer, RedriveAnswer, RedriveOutcome
from ingest.dlq.redrive import paced_limit, redrive_all
from ingest.dlq.requests import LetterChoice, PurgeBody, RedriveBody
from ingest.ports import JobLetter, KnowledgeUnavailable, KnownLetter, LetterBatch
from ingest.routes import PREFIX, context_of
from ingest.sending import RETRY_AFTER_S, encoded, put
from ingest.submit import ACTOR, Context
from schemas.commands import PurgeDeadLetters

WRITE_ERRORS = documented(400, 413, 415, 422, 429, 503)

router = APIRouter(prefix=PREFIX, tags=["dead letters"], responses=documented(500))
Held = Annotated[Ingest, Depends(held)]


@router.post(
    "/dlq/redrive",
    status_code=202,
    response_model=RedriveAnswer,
    responses=WRITE_ERRORS,
    summary="Run dead letters again",
)
async def redrive_letters(body: RedriveBody, request: Request, ingest: Held) -> RedriveAnswer:
    """Each as a new job, with the changes; the same letter with the same changes is the same job.

    Deals with the newest letters first and at most with `limit`, with `rate_per_s` with as many as
    fit into five seconds: follow `next_cursor` while letters remain. An input that nobody could
    read is sent again byte for byte.
    """
    limit = paced_limit(body)
    batch = await _chosen(ingest, body, limit)
    missing = _unknown(body, batch, limit)
    outcomes = await redrive_all(ingest, batch.letters, body, context_of(request))
    outcomes += [
        RedriveOutcome(letter_id=one, outcome="skipped", message="there is no such dead letter")
        for one in missing
    ]
    return RedriveAnswer(
        dry_run=body.dry_run,
        redriven=sum(one.outcome != "skipped" for one in outcomes),
        skipped=sum(one.outcome == "skipped" for one in outcomes),
        outcomes=outcomes,
        remaining=batch.remaining,
        next_cursor=batch.next_cursor,
    )


@router.post(
    "/dlq/purge",
    status_code=202,
    response_model=PurgeAnswer,
    responses=WRITE_ERRORS,
    summary="Purge dead letters",
)
async def purge_letters(body: PurgeBody, request: Request, ingest: Held) -> PurgeAnswer:
    """They were dealt with: lists leave them out, history keeps who said so and why."""
    batch = await _chosen(ingest, body, body.limit)
    positions: list[str] = []
    if not body.dry_run:
        positions = await _purge(ingest, batch.letters, body.reason, context_of(request))
    ids = [letter.letter_id for letter in batch.letters]
    return PurgeAnswer(
        dry_run=body.dry_run,
        purged=len(ids),
        ids=ids,
        unknown=_unknown(body, batch, body.limit),
        positions=positions,
        remaining=batch.remaining,
        next_cursor=batch.next_cursor,
    )


async def _chosen(ingest: Ingest, body: LetterChoice, limit: int) -> LetterBatch:
    try:
        if body.filter is not None:
            return await ingest.letters.choose(body.filter, body.cursor, limit)
        ids = list(dict.fromkeys(body.ids))
        letters = await ingest.letters.find(ids[:limit])
        return LetterBatch(letters, max(len(ids) - limit, 0))
    except KnowledgeUnavailable as error:
        text = f"{error}; nothing was done, try again"
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        raise ApiError(503, "view_unavailable", text, headers=headers) from error


def _unknown(body: LetterChoice, batch: LetterBatch, limit: int) -> list[str]:
    """Of the ids that were looked for, those of no letter."""
    known = {letter.letter_id for letter in batch.letters}
    return [one for one in list(dict.fromkeys(body.ids))[:limit] if one not in known]


async def _purge(
    ingest: Ingest, letters: Sequence[KnownLetter], reason: str, context: Context
) -> list[str]:
    """One command for each shard."""
    by_shard: dict[int, list[KnownLetter]] = defaultdict(list)
    for letter in letters:
        by_shard[letter.shard].append(letter)
    positions = []
    for shard, some in sorted(by_shard.items()):
        ids = tuple(letter.letter_id for letter in some)
        pools = [one.what.terms.pool for one in some if isinstance(one.what, JobLetter)]
        command = PurgeDeadLetters(ids, reason, ACTOR)
        own = replace(context, event_id=str(uuid.uuid4()))
        address = (shard, pools[0] if pools else "")
        positions.append(str(await put(ingest, encoded(command, address, ids[0], own))))
    return positions
