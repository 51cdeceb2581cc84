"""Percentiles and tables of durations. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class Spread:
    """Durations in milliseconds; `missing` are those that never ended while we looked."""

    count: int
    missing: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float

    def plain(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that at least this share of all does not exceed."""
    return ordered[max(ceil(len(ordered) * share) - 1, 0)]


def spread(seconds: Sequence[float], missing: int) -> Spread:
    """The spread of these durations (seconds)."""
    if not seconds:
        return Spread(0, missing, *[float("nan")] * 4)
    ordered = sorted(1000 * one for one in seconds)
    marks = (round(percentile(ordered, share), 2) for share in (0.5, 0.9, 0.99, 1.0))
    return Spread(len(ordered), missing, *marks)


def table(rows: dict[str, Spread]) -> str:
    """One line a row, in milliseconds."""
    head = f"{'':<34}{'n':>7}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}   missing"
    body = [
        f"{name:<34}{one.count:>7}{one.p50_ms:>9.2f}{one.p90_ms:>9.2f}{one.p99_ms:>9.2f}"
        f"{one.max_ms:>9.2f}   {one.missing}"
        for name, one in rows.items()
    ]
    return "\n".join([head, *body])
