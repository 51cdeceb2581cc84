"""What an agent is told about its node, its lease and its limits. Values only, read from nowhere.

Whoever starts an agent fills these in; options that would break a guarantee are refused on
construction with a `ValueError` that says why.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from schemas.terms import Extra, GpuDevice, Label

DRIFT_MILLI = 50
"""How far two hosts' boot clocks may drift apart, in thousandths: fifty times what NTP slews."""
MARGIN_DIVISOR = 5
"""An agent kills its tasks a fifth of the lease before its end: more than 2 * drift * lease, and
time enough to kill them."""

assert 2 * DRIFT_MILLI * MARGIN_DIVISOR < 1000


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much of what a task writes goes to the log topic; the rest is dropped and counted."""

    line_bytes: int = 16 * 1024
    lines_per_s: int = 2_000
    bytes_per_s: int = 1024 * 1024
    burst_s: int = 5
    total_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """One node's agent. `address` is where other nodes reach this one (a host or an IP address).

    `shared_dir` holds checkpoints and outputs and should be the same place on every node of the
    pool; None keeps them in `data_dir`. `cgroup_dir` is a delegated cgroup v2 directory whose
    children have the memory controller; None measures memory by reading /proc.
    `drain_s` is how long a draining agent waits for its tasks before it stops them.
    """

    node: str
    pool: str
    address: str
    data_dir: Path
    cpu_milli: int
    memory_mib: int
    gpus: tuple[GpuDevice, ...] = ()
    extras: tuple[Extra, ...] = ()
    labels: tuple[Label, ...] = ()
    lease_s: int = 10
    heartbeat_s: float = 2.0
    drain_s: float = 60.0
    shared_dir: Path | None = None
    cgroup_dir: Path | None = None
    log_limits: LogLimits = field(default_factory=LogLimits)

    def __post_init__(self) -> None:
        """Refuse what would break a guarantee."""
        if not self.node or not self.pool or not self.address:
            raise ValueError("an agent needs the names of its node and pool, and its address")
        if self.lease_s < 1:
            raise ValueError("lease_s must be at least 1 second")
        if not 0 < self.heartbeat_s <= self.lease_s / 3:
            raise ValueError(
                "heartbeat_s must be at most a third of lease_s: one lost heartbeat must not "
                f"end the lease (heartbeat_s={self.heartbeat_s}, lease_s={self.lease_s})"
            )
        if len(self.gpus) > 255:
            raise ValueError("a node has at most 255 GPUs: a device index is one byte")
