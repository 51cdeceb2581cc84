"""Commands about where jobs wait and run: queues, nodes, and files that say what they should be."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console

from foldline.bodies import BadFile, Body, read_bodies
from foldline.client import Client
from foldline.render import nodes_table, queues_table
from foldline.session import Exit, JsonFlag, client_of, complain, show, show_json
from projections.answers import CommandAnswer

KINDS = ("Cluster", "Queue")
DECIDED_WITHIN_S = 15.0
POLL_S = 0.1


def queues(ctx: typer.Context, json_output: JsonFlag = False) -> None:
    """List queues with how much waits and runs in each."""
    with client_of(ctx) as client:
        answer = client.queues()
    show(json_output, answer, queues_table(answer))


def nodes(ctx: typer.Context, json_output: JsonFlag = False) -> None:
    """List nodes with what is free of what they have."""
    with client_of(ctx) as client:
        answer = client.clusters()
    show(json_output, answer, nodes_table(answer))


def apply(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Option("--file", "-f", help="YAML or JSON: kind Queue or Cluster; - is stdin.")
    ],
    json_output: JsonFlag = False,
) -> None:
    """Create or change queues and clusters, and say what became of each."""
    refused = False
    wanted = [(_kind(file, body), body) for body in read_bodies(file)]
    with client_of(ctx) as client:
        for kind, body in wanted:
            outcome = _put(client, kind, body)
            refused |= outcome.status == "refused"
            _tell(ctx, json_output, f"{kind.lower()} {body['name']}", outcome)
    if refused:
        raise typer.Exit(Exit.REFUSED)


def _kind(file: str, body: Body) -> str:
    kind = body.get("kind")
    if kind not in KINDS:
        raise BadFile(f"{file}: kind is {kind!r}; write one of {', '.join(KINDS)}")
    if not isinstance(body.get("name"), str):
        raise BadFile(f"{file}: a {kind} needs a name")
    return str(kind)


def _put(client: Client, kind: str, body: Body) -> CommandAnswer:
    rest = {key: value for key, value in body.items() if key not in ("kind", "name")}
    put = client.put_cluster if kind == "Cluster" else client.put_queue
    return decided(client, put(body["name"], rest).position)


def decided(client: Client, position: str) -> CommandAnswer:
    """What became of a command, waiting a while for the shard's owner to come to it."""
    deadline = time.monotonic() + DECIDED_WITHIN_S
    while True:
        outcome = client.command(position)
        if outcome.status != "pending" or time.monotonic() > deadline:
            return outcome
        time.sleep(POLL_S)


def _tell(ctx: typer.Context, json_output: bool, what: str, outcome: CommandAnswer) -> None:
    if json_output:
        show_json(outcome.model_dump(mode="json"))
    elif outcome.status == "refused":
        complain(ctx, outcome.code or "refused", f"{what}: {outcome.message}")
    else:
        Console(highlight=False).print(f"{what}: {outcome.status}", markup=False)
