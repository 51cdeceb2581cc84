"""Options of the commands about dead letters, as records, and the bodies that they come to. Pure.

What is left out is not sent. `--since` and `--until` take a moment, or how long ago (`90m`, `2h`,
`3d`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from foldline.bodies import BadFile, Body, given, variable

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
FILTERS = (
    "tenant",
    "cluster",
    "queue",
    "fingerprint",
    "failure",
    "kind",
    "since",
    "until",
    "state",
)


@dataclass(frozen=True, slots=True)
class LetterFilterOptions:
    """Which letters; None is any."""

    tenant: Annotated[str | None, typer.Option(help="Of this tenant.")] = None
    cluster: Annotated[str | None, typer.Option(help="Of this cluster.")] = None
    queue: Annotated[str | None, typer.Option(help="Of this queue.")] = None
    fingerprint: Annotated[str | None, typer.Option(help="That look like this.")] = None
    failure: Annotated[
        list[str] | None, typer.Option(help="Of this class: out_of_memory, timeout, …")
    ] = None
    kind: Annotated[str | None, typer.Option(help="job, or input: unreadable ones.")] = None
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Since a moment, or 90m, 2h, 3d ago.")
    ] = None
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Before a moment.")] = None
    state: Annotated[str | None, typer.Option(help="open (default), redriven, purged, any.")] = None


@dataclass(frozen=True, slots=True)
class ListOptions(LetterFilterOptions):
    """Which letters `foldline dlq list` shows, and how."""

    group: Annotated[bool, typer.Option("--group", "-g", help="Count those that look alike.")] = (
        False
    )
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50
    cursor: Annotated[str | None, typer.Option(help="Where the last page ended.")] = None


@dataclass(frozen=True, slots=True)
class PurgeOptions(LetterFilterOptions):
    """Which letters `foldline dlq purge` says are dealt with."""

    every: Annotated[bool, typer.Option("--all", help="All open ones, without a filter.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False
    reason: Annotated[str, typer.Option(help="Kept with the letters.")] = ""


@dataclass(frozen=True, slots=True)
class RedriveOptions(LetterFilterOptions):
    """Which letters `foldline dlq redrive` runs again, how fast, and what is to be different."""

    every: Annotated[bool, typer.Option("--all", help="All open ones, without a filter.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False
    rate: Annotated[
        float | None, typer.Option(min=0.1, max=1000, metavar="PER_S", help="No faster.")
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None
    cpu: Annotated[str | None, typer.Option(help='Cores for each task: 2, "500m".')] = None
    memory: Annotated[str | None, typer.Option(help='Bytes for each task: "16Gi".')] = None
    memory_factor: Annotated[
        float | None, typer.Option(min=0.1, max=100, help="So many times the memory.")
    ] = None
    gpu: Annotated[str | None, typer.Option(help="GPUs for each task.")] = None
    image: Annotated[str | None, typer.Option(help="Another image.")] = None
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="NAME=VALUE", help="A variable.")
    ] = None
    to_queue: Annotated[str | None, typer.Option(help="Another queue of the cluster.")] = None
    priority: Annotated[int | None, typer.Option(min=0, max=100, help="Higher first.")] = None
    max_retries: Annotated[int | None, typer.Option(min=0, help="After the first attempt.")] = None
    timeout: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help="For one attempt.")
    ] = None


def filters_of(options: LetterFilterOptions, now: datetime) -> Body:
    """What the options say of which letters."""
    found = {name: getattr(options, name) for name in FILTERS}
    for name in ("since", "until"):
        if found[name] is not None:
            found[name] = _moment(name, found[name], now)
    return {name: value for name, value in found.items() if value not in (None, [])}


def choice_of(ids: list[str], options: PurgeOptions | RedriveOptions, now: datetime) -> Body:
    """Letters by their ids, or by a filter. Raises `BadFile` where neither or both are given."""
    filters = filters_of(options, now)
    if ids and (filters or options.every):
        raise BadFile("name letters by their ids, or choose them by options (one of the two)")
    if not (ids or filters or options.every):
        raise BadFile("name letters by their ids, or by options such as --fingerprint, or --all")
    return {"ids": ids} if ids else {"filter": filters}


def changes_of(options: RedriveOptions) -> Body:
    """What the options say is to be different."""
    resources = given({"cpu": options.cpu, "memory": options.memory, "gpu": options.gpu})
    return given(
        {
            "resources": resources or None,
            "memory_factor": options.memory_factor,
            "image": options.image,
            "env": dict(variable(pair) for pair in options.env or ()) or None,
            "queue": options.to_queue,
            "priority": options.priority,
            "max_retries": options.max_retries,
            "timeout_seconds": options.timeout,
        }
    )


def _moment(name: str, text: str, now: datetime) -> str:
    match = _AGO.fullmatch(text)
    if match is not None:
        ago = timedelta(**{_UNITS[match[2]]: int(match[1])})
        return (now - ago).isoformat()
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadFile(f"--{name} {text}: write 2h, 3d or 2031-01-31T12:00:00Z") from error
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).isoformat()
