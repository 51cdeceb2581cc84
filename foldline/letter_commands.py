"""Commands about dead letters: list, show, run again, purge; and the switch for all retries.

They only speak to the API through `client.py`; a long redrive or purge is many bounded requests, one
after the other. `letter_render.py` makes what people see of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from foldline.bodies import BadFile, Body
from foldline.client import ApiError, Client
from foldline.cluster_commands import decided
from foldline.letter_options import (
    ListOptions,
    PurgeOptions,
    RedriveOptions,
    changes_of,
    choice_of,
    filters_of,
)
from foldline.letter_render import groups_table, letter_text, letters_table, outcome_text
from foldline.options import with_options
from foldline.session import Exit, JsonFlag, client_of, complain, show, show_json
from ingest.dlq.answers import PurgeAnswer, RedriveAnswer
from ingest.dlq.requests import PURGES_MAX, REDRIVES_MAX

dlq = typer.Typer(no_args_is_help=True, help="Dead letters: jobs that failed for good, and inputs.")
LetterIds = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Letters by id; else by options.")
]


class Turn(StrEnum):
    """Which way to turn a switch."""

    ON = "on"
    OFF = "off"


@dlq.command("list")
@with_options(ListOptions)
def list_letters(ctx: typer.Context, options: ListOptions, json_output: JsonFlag = False) -> None:
    """List dead letters, the newest first; or count those that look alike (--group)."""
    now = datetime.now(UTC)
    asked = filters_of(options, now)
    with client_of(ctx) as client:
        if options.group:
            groups = client.letter_groups(**asked)
            show(json_output, groups, groups_table(groups, now))
            return
        cursor = {"cursor": options.cursor} if options.cursor else {}
        page = client.letters(**asked, limit=options.limit, **cursor)
    show(json_output, page, letters_table(page, now))


@dlq.command("show")
def show_letter(
    ctx: typer.Context,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="The letter's id.")],
    json_output: JsonFlag = False,
) -> None:
    """Show a dead letter with its attempts and last lines, or the bytes of an input."""
    with client_of(ctx) as client:
        answer = client.letter(letter_id)
    show(json_output, answer, letter_text(answer))


@dlq.command("redrive")
@with_options(RedriveOptions)
def redrive(
    ctx: typer.Context,
    *,
    options: RedriveOptions,
    ids: LetterIds = None,
    json_output: JsonFlag = False,
) -> None:
    """Run dead letters again, perhaps with changes; repeating it is the same jobs.

    foldline dlq redrive --failure out_of_memory --memory 16Gi --dry-run
    foldline dlq redrive --fingerprint 41df57445f5477a9 --image train:1.5 --rate 2
    """
    chosen = choice_of(list(dict.fromkeys(ids or [])), options, datetime.now(UTC))
    body = {**chosen, "dry_run": options.dry_run}
    body["changes"] = changes_of(options)
    if options.rate is not None:
        body["rate_per_s"] = options.rate
    done = skipped = 0
    with client_of(ctx) as client:
        for answer in _redrives(ctx, client, body, options.limit):
            done += answer.redriven
            skipped += answer.skipped
            for outcome in answer.outcomes:
                _tell(json_output, outcome.model_dump(mode="json"), outcome_text(outcome))
    verb = "would be redriven" if options.dry_run else "redriven"
    _sum_up(json_output, f"{done} {verb}, {skipped} skipped")
    if skipped and not done:
        raise typer.Exit(Exit.REFUSED)


@dlq.command("purge")
@with_options(PurgeOptions)
def purge(
    ctx: typer.Context,
    *,
    options: PurgeOptions,
    ids: LetterIds = None,
    json_output: JsonFlag = False,
) -> None:
    """Say that dead letters were dealt with: lists leave them out, history keeps them."""
    body = {**choice_of(ids or [], options, datetime.now(UTC)), "dry_run": options.dry_run}
    body["reason"] = options.reason
    done, unknown = 0, list[str]()
    with client_of(ctx) as client:
        for answer in _purges(client, body):
            done += answer.purged
            unknown += answer.unknown
            for letter_id in answer.ids:
                _tell(json_output, {"letter_id": letter_id}, letter_id)
    verb = "would be purged" if options.dry_run else "purged"
    _sum_up(json_output, f"{done} {verb}")
    if unknown:
        complain(ctx, "letter_not_found", f"there is no dead letter {', '.join(unknown)}")
        raise typer.Exit(Exit.NOT_FOUND)


def retries(
    ctx: typer.Context,
    turn: Annotated[Turn, typer.Argument(help="on, or off: nothing is tried again.")],
    cluster: Annotated[str | None, typer.Option(help="Of this cluster.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Of all clusters.")] = False,
    json_output: JsonFlag = False,
) -> None:
    """Turn retries of failed attempts off or on; what is due while they are off waits."""
    if (cluster is None) != every:
        raise BadFile("say --cluster NAME, or --all (one of the two)")
    refused = False
    with client_of(ctx) as client:
        clusters = client.clusters().clusters if cluster is None else [client.cluster(cluster)]
        for one in clusters:
            body = {"description": one.description, "retries": turn.value}
            outcome = decided(client, client.put_cluster(one.name, body).position)
            refused |= outcome.status == "refused"
            said = outcome.message or outcome.status
            told = outcome.model_dump(mode="json")
            _tell(json_output, told, f"{one.name}: retries {turn.value}: {said}")
    if refused:
        raise typer.Exit(Exit.REFUSED)


def _redrives(
    ctx: typer.Context, client: Client, body: Body, most: int | None
) -> Iterator[RedriveAnswer]:
    """One answer after the other, until nothing remains or so many were dealt with."""
    left, ids = most, body.get("ids", [])
    while left is None or left > 0:
        body["limit"] = REDRIVES_MAX if left is None else min(left, REDRIVES_MAX)
        try:
            answer = client.redrive({**body, "ids": ids[: body["limit"]]} if ids else body)
        except ApiError:
            if body.get("cursor"):
                text = f"stopped before cursor {body['cursor']}; repeating it is safe:"
                complain(ctx, "partly_done", text)
            raise
        yield answer
        if left is not None:
            left -= len(answer.outcomes)
        ids = ids[len(answer.outcomes) :]
        if not ids and answer.next_cursor is None:
            return
        if answer.next_cursor is not None:
            body["cursor"] = answer.next_cursor


def _purges(client: Client, body: Body) -> Iterator[PurgeAnswer]:
    ids = body.get("ids", [])
    while True:
        answer = client.purge({**body, "ids": ids[:PURGES_MAX]} if ids else body)
        yield answer
        ids = ids[PURGES_MAX:]
        if not ids and answer.next_cursor is None:
            return
        if answer.next_cursor is not None:
            body["cursor"] = answer.next_cursor


def _tell(json_output: bool, document: object, line: str) -> None:
    if json_output:
        show_json(document)
    else:
        print(line, flush=True)


def _sum_up(json_output: bool, text: str) -> None:
    if not json_output:
        Console(stderr=True, highlight=False).print(text, markup=False)
