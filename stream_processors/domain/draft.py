"""A decision in the making: events are emitted one by one and folded at once.

Rules write here; the state they read already holds what they emitted before. That keeps `evolve`
the only way state changes while one batch is decided in several steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.commands import (
    CancelJob,
    PurgeDeadLetters,
    PutPool,
    PutQueue,
    Submission,
    SubmitJobs,
)
from schemas.events import Event
from schemas.reports import DrainNode, Heartbeat, Probe, RegisterNode, TasksReported
from schemas.terms import ParkedRecord
from stream_processors.domain.evolve import evolve
from stream_processors.domain.state import State


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An input that could not be decoded, with a stable code and what to do about it.

    `record` is the input as it came, to be parked in the dead letters.
    """

    code: str
    message: str
    record: ParkedRecord | None = None


Command = Submission | SubmitJobs | CancelJob | PurgeDeadLetters | PutQueue | PutPool | Unreadable
Report = RegisterNode | Heartbeat | DrainNode | TasksReported | Probe | Unreadable


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator set for this shard's decisions. `shards` is the installation's count.

    Jobs that have not ended, and the bytes of their specs, are bounded in all and for each tenant;
    0 is no bound.
    """

    shards: int
    retain_finished_s: int = 86_400
    placements_max: int = 2_000
    pending_jobs_max: int = 0
    pending_bytes_max: int = 0
    tenant_pending_jobs_max: int = 0
    tenant_pending_bytes_max: int = 0


@dataclass(frozen=True, slots=True)
class CommandAt:
    """A command with its offset, and when the broker took it (UTC microseconds)."""

    offset: int
    at: int
    command: Command


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one decision is made from: commands, and reports with their offsets, in order.

    `expired` are numbers of node incarnations whose lease has surely run out. `fires_timers` is
    False while reports that came in time may still wait to be decided. `unsettled` are jobs that
    an earlier decision had no room to move on. Where the inputs fill a record by themselves
    (`fill_record`), what follows from them is left to the next decision.
    """

    commands: tuple[CommandAt, ...] = ()
    reports: tuple[tuple[int, Report], ...] = ()
    expired: tuple[int, ...] = ()
    fires_timers: bool = True
    unsettled: tuple[int, ...] = ()
    fill_record: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a command is turned down: a stable code, and what to do, for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Something to tell an agent that no event says: registered (again), or register again."""

    node: str
    incarnation: int
    registered: bool


@dataclass(slots=True)
class Draft:
    """The decision so far. `touched` are jobs whose attempts may have to move on.

    `settled_bytes` is about how much of the record their moving on has taken.
    """

    state: State
    policy: Policy
    events: list[Event] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    touched: dict[int, None] = field(default_factory=dict)
    settled_bytes: int = 0

    def emit(self, event: Event) -> None:
        """Decide this: it is part of the record, and true from here on."""
        self.events.append(event)
        evolve(self.state, event)
