"""The port that runs tasks: what an executor is told and what it says. No I/O in this file.

Implemented by `process_executor.py` (one supervised process group a task) and, for tests and the
simulator, by `memory_executor.py`; both pass one contract suite. An executor says `Ended` only
of what is surely dead; a process that cannot be killed is never said to have ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol


class TaskKey(NamedTuple):
    """A task of an attempt, by the job's dense number."""

    job_no: int
    attempt: int
    task: int


@dataclass(frozen=True, slots=True)
class TaskOrder:
    """Everything to run one task. `devices` are GPU indices of the node; `env` is the spec's own.

    `tasks` is the number of the job's tasks; a gang member is first prepared, then started.
    A task that reports no progress for `progress_timeout_s` is ended; 0 is never.
    """

    key: TaskKey
    job_id: str
    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    config: str
    devices: tuple[int, ...]
    gang: bool
    tasks: int
    cpu_milli: int
    memory_mib: int
    grace_s: int
    progress_timeout_s: int = 0


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where a gang meets: rank 0's host:port, and this member's place on its node."""

    endpoint: str
    local_rank: int


class Cause(StrEnum):
    """Why a task ended, by the executor's evidence.

    NOT_FOUND is what this node cannot run and another may; UNRUNNABLE what no node can.
    """

    EXITED = "exited"
    NOT_FOUND = "not_found"
    UNRUNNABLE = "unrunnable"
    NO_PROGRESS = "no_progress"
    OUT_OF_MEMORY = "out_of_memory"
    STOPPED = "stopped"
    LEASE = "lease"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A gang member has its place; `endpoint` is host:port that task 0 offers, else ""."""

    key: TaskKey
    endpoint: str


@dataclass(frozen=True, slots=True)
class Started:
    """The task's program runs."""

    key: TaskKey


@dataclass(frozen=True, slots=True)
class Ended:
    """The task and everything that it started are dead.

    `exit_code` is the program's code or minus the signal; `detail` says for people what happened
    and `tail` holds the last lines that the task wrote.
    """

    key: TaskKey
    cause: Cause
    exit_code: int = 0
    detail: str = ""
    tail: str = ""


@dataclass(frozen=True, slots=True)
class Wrote:
    """Lines that a task wrote to `stream` (stdout, stderr), after `dropped` that were left out."""

    key: TaskKey
    job_id: str
    stream: str
    dropped: int
    lines: list[str]


TaskNews = Prepared | Started | Ended | Wrote


class Executor(Protocol):
    """Runs tasks. Calls return at once; what came of them is told by `poll`."""

    def prepare(self, order: TaskOrder) -> None:
        """Make a gang member's place: `Prepared` follows, or `Ended`."""

    def start(self, order: TaskOrder, rendezvous: Rendezvous | None) -> None:
        """Run a task: `Started` and later `Ended` follow, or only `Ended`."""

    def stop(self, key: TaskKey, grace_s: float) -> None:
        """SIGTERM, `grace_s` seconds, SIGKILL. A sooner end wins; unknown and ended: no effect."""

    def kill_all(self) -> None:
        """SIGKILL everything, prepared members included: `Ended` follows for each."""

    def set_deadline(self, boot_ns: int) -> None:
        """Tasks must be dead after this moment of the boot clock unless it is moved again."""

    def poll(self, timeout_s: float) -> list[TaskNews]:
        """What happened since; waits up to `timeout_s` for the first news or a `wake`."""

    def wake(self) -> None:
        """End a `poll` that waits; may be called from any thread."""

    def close(self) -> None:
        """Kill what is left and free what was held; `poll` is not called again."""
