"""What the agent's state machine takes and what it answers with. Plain values.

The driver turns the world into inputs and effects into I/O; the simulator does the same with a
world of its own. Executor news (`workers.executor`) are inputs too.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.dispatch import Dispatch
from schemas.reports import DrainNode, Heartbeat, RegisterNode, TasksReported
from workers.executor import Ended, Prepared, Rendezvous, Started, TaskKey, TaskOrder


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: nanoseconds of the boot clock, which rules go by, and UTC microseconds for people."""

    boot_ns: int
    wall_us: int


@dataclass(frozen=True, slots=True)
class Began:
    """The agent starts; leftovers of earlier incarnations are dead.

    `last_incarnation` is 0 and `wait` true where no journal tells of them: then one lease passes
    before anything else.
    """

    last_incarnation: int
    wait: bool


@dataclass(frozen=True, slots=True)
class Positioned:
    """The dispatch reader stands at the end of its partition."""


@dataclass(frozen=True, slots=True)
class DispatchRead:
    """A record of the dispatch partition with this node's key."""

    dispatch: Dispatch


@dataclass(frozen=True, slots=True)
class DispatchLost:
    """The dispatch reader's offset is out of range: records may have been missed."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The broker acknowledged the send numbered `ref`."""

    ref: int


@dataclass(frozen=True, slots=True)
class Undelivered:
    """The send numbered `ref` failed, or nobody knows what became of it."""

    ref: int
    error: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened but time."""


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """SIGTERM: take nothing new, let what runs end within a bound, leave."""


@dataclass(frozen=True, slots=True)
class HaltAsked:
    """A second signal: stop everything without grace and leave."""


Input = (
    Began
    | Positioned
    | DispatchRead
    | DispatchLost
    | Delivered
    | Undelivered
    | Tick
    | DrainAsked
    | HaltAsked
    | Prepared
    | Started
    | Ended
)


@dataclass(frozen=True, slots=True)
class PersistIncarnation:
    """Write this down durably before the effects after it."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class SeekDispatchEnd:
    """Put the dispatch reader at the end of its partition, then say `Positioned`."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send to the reports topic; answer with `Delivered(ref)` or `Undelivered(ref)`."""

    ref: int
    message: RegisterNode | Heartbeat | DrainNode | TasksReported


@dataclass(frozen=True, slots=True)
class Prepare:
    """`Executor.prepare`."""

    order: TaskOrder


@dataclass(frozen=True, slots=True)
class Start:
    """`Executor.start`."""

    order: TaskOrder
    rendezvous: Rendezvous | None


@dataclass(frozen=True, slots=True)
class Stop:
    """`Executor.stop`."""

    key: TaskKey
    grace_s: float


@dataclass(frozen=True, slots=True)
class KillAll:
    """`Executor.kill_all`."""


@dataclass(frozen=True, slots=True)
class SetLeaseDeadline:
    """`Executor.set_deadline`."""

    boot_ns: int


@dataclass(frozen=True, slots=True)
class Note:
    """For the operator's log: what the agent did and why."""

    text: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The agent is done; `code` is the process's."""

    code: int


Effect = (
    PersistIncarnation
    | SeekDispatchEnd
    | Send
    | Prepare
    | Start
    | Stop
    | KillAll
    | SetLeaseDeadline
    | Note
    | Exit
)
