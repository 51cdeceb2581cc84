"""Figures of the views that no view tells of itself: how far each is behind, how many letters wait.

The API asks every few seconds and shows them in its `/metrics`: a projector that hangs, or is gone,
would say nothing. Reads the views and the ends of the logs, writes nothing.
"""

from __future__ import annotations

import asyncio

import structlog

from infra.postgres import micros
from infra.telemetry import gauge, gauges
from projections.dlq.answers import DEPTH_GROUPS
from projections.dlq.queries import LetterQueries
from projections.health import StackHealth
from projections.pipeline import ViewUnavailable
from projections.queries import Row

EVERY_S = 5.0

log = structlog.get_logger(__name__)


async def watch_views(health: StackHealth, letters: LetterQueries) -> None:
    """Look again and again, until cancelled."""
    while True:
        for view, lag in (await health.lags()).items():
            gauge("foldline_view_lag_records", lag.records, view=view)
            gauge("foldline_view_lag_seconds", lag.seconds, view=view)
        try:
            show_depth(await letters.depth())
        except ViewUnavailable as error:
            log.warning("dead letters were not counted", reason=str(error))
        await asyncio.sleep(EVERY_S)


def show_depth(rows: list[Row]) -> None:
    """Open letters and the oldest one's time, in all and of the most frequent fingerprints."""
    oldest = min((micros(row["oldest_at"]) for row in rows), default=0)
    gauge("foldline_dead_letters_open", sum(row["letters"] for row in rows))
    gauge("foldline_dead_letters_oldest_timestamp_seconds", oldest / 1e6)
    most = rows[:DEPTH_GROUPS]
    gauges(
        "foldline_dead_letters_open_by_fingerprint",
        {row["fingerprint"]: float(row["letters"]) for row in most},
    )
    gauges(
        "foldline_dead_letters_oldest_by_fingerprint_timestamp_seconds",
        {row["fingerprint"]: micros(row["oldest_at"]) / 1e6 for row in most},
    )
