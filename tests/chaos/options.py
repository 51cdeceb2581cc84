"""What one chaos run is told, and the figures that all of it goes by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LEASE_S = 5
HEARTBEAT_S = 1
RERUN_WITHIN_S = LEASE_S + 5.0
"""A job whose node was killed runs again elsewhere within this."""
SETTLE_WITHIN_S = 240.0
"""After the last fault every job must end within this."""

STANDSTILL_MAX_S = 150.0
"""No faults of a run, not even some in a row, excuse a longer time without the start of a task."""

HERE_POOL = "default"
OTHER_POOL = "other"
NODES = {
    "node-1": HERE_POOL,
    "node-2": HERE_POOL,
    "node-3": HERE_POOL,
    "node-4": OTHER_POOL,
    "node-5": OTHER_POOL,
}
SKEWED = ("node-3", "node-5")
"""Nodes whose clocks can be made to jump."""
PARTS = ("engine", "engine-2", "audit", "hot", "relay", "follower", "api")
DEVS = ("dev-parts", "dev-servers")
"""The two `foldline dev`: one runs the parts, the other the servers."""
SERVERS = ("kafka", "postgres", "valkey")
MARK = "CHAOS_RUN"
"""The variable that every task of a run has, by which it is found wherever it went."""


@dataclass(frozen=True, slots=True)
class Options:
    """`rate` is in jobs a second, `outstanding_max` how many may wait or run before load pauses.

    `only` names the faults to choose from; all when empty.
    """

    minutes: float
    seed: int
    rate: float
    outstanding_max: int
    data_dir: Path
    only: tuple[str, ...] = ()
    gap_s: tuple[float, float] = (4.0, 12.0)
