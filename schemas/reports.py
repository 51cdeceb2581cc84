"""What workers say happened: inputs of the fold, not yet facts.

Written to `foldline.attempts.reports.v1` by node agents (and `Probe` by the shard's owner), keyed
by pool. Reports for another attempt or incarnation are refused by the fold, as events. `sent_at`
is the sender's own clock, for people; no rule compares it with another host's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.terms import Extra, FailureClass, GpuDevice, Label, Micros, TaskState


@dataclass(frozen=True, slots=True)
class RegisterNode:
    """A node offers itself. Accepted only if `incarnation` is higher than any seen of this name."""

    node: str
    pool: str
    incarnation: int
    address: str
    cpu_milli: int
    memory_mib: int
    gpus: tuple[GpuDevice, ...]
    extras: tuple[Extra, ...]
    labels: tuple[Label, ...]
    lease_s: int
    sent_at: Micros


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """This incarnation lives: its lease runs from the moment this was sent, once acknowledged."""

    node: str
    pool: str
    incarnation: int
    running: int
    sent_at: Micros


@dataclass(frozen=True, slots=True)
class DrainNode:
    """This incarnation takes nothing new and will leave when its tasks have ended."""

    node: str
    pool: str
    incarnation: int
    reason: str
    sent_at: Micros


@dataclass(frozen=True, slots=True)
class TasksReported:
    """What became of tasks on one incarnation, one column per field, one row per change.

    `endpoints` is host:port of a ready gang member's rendezvous, else "". `exit_codes` is the
    process's code, or minus the signal; 0 while it has not ended. `failures` is NONE unless the
    task ended without success. `messages` are at most 2,000 characters. Of tasks that failed,
    `tail_rows` are the rows and `tails` the last lines that they wrote, at most 4,000 characters.
    """

    node: str
    pool: str
    incarnation: int
    job_nos: list[int]
    attempts: list[int]
    tasks: list[int]
    states: list[TaskState]
    ats: list[int]
    exit_codes: list[int]
    failures: list[FailureClass]
    messages: list[str]
    endpoints: list[str]
    tail_rows: list[int] = field(default_factory=list)
    tails: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Probe:
    """The owner's mark in its own inputs: what comes before it has surely been read."""

    shard: int
    epoch: int
    owner: bytes
    nonce: int
