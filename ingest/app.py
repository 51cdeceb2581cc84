"""What the routes that write hold on to while the API runs. Composed in `foldline/api.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import FastAPI, Request

from ingest.ports import Admission, CommandSink, KnownJobs, KnownLetters
from ingest.recent import RecentJobs


@dataclass(frozen=True, slots=True)
class Ingest:
    """Where commands go, what is known of jobs and letters, and what was accepted lately."""

    sink: CommandSink
    known: KnownJobs
    letters: KnownLetters
    admission: Admission
    recent: RecentJobs = field(default_factory=RecentJobs)


def hold(app: FastAPI, ingest: Ingest) -> None:
    """Give the routes of this application what they need."""
    app.state.ingest = ingest


def held(request: Request) -> Ingest:
    """What `hold` gave to the application of this request."""
    ingest: Ingest = request.app.state.ingest
    return ingest
