"""The folded state of one shard: jobs, queues, pools, nodes and timers. Plain data, no rules.

Changed by `evolve` alone; read by `decide`, `explain` and every view. Holds integers only, never
floats, and is walked in insertion order only, so that equal logs make equal states. What the
rules are is in `evolve.py` (facts) and `decide.py` (choices).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import merge
from typing import NamedTuple

from schemas.terms import (
    NO_DEFAULTS,
    Extra,
    FailureClass,
    GpuDevice,
    JobState,
    JobTerms,
    Label,
    QueueDefaults,
    QueueState,
)

Shape = tuple[
    int, int, int, tuple[Extra, ...], tuple[str, ...], tuple[Label, ...], int, tuple[str, ...]
]
"""What placement asks: CPU, memory, GPU, extras, models, labels, how many at once, and which nodes
not."""

WHOLE_GPU_MILLI = 1000
"""One whole device, in thousandths."""


class TaskPhase(IntEnum):
    """How far a task of the current attempt has come; ENDED is surely dead."""

    PLACED = 0
    READY = 1
    STARTED = 2
    ENDED = 3


class TimerKind(IntEnum):
    """What is due: a retry, or the end of an attempt's time, of its start's time or of the job's."""

    RETRY = 0
    ATTEMPT_TIMEOUT = 1
    START_TIMEOUT = 2
    DEADLINE = 3


@dataclass(slots=True)
class Task:
    """One task of a job's current attempt. `seq` is the record that placed it.

    `node` is the name of the node, which the fold may have lost meanwhile. `reached` is
    how far an ended task had come; `tail` is what one that failed wrote last.
    """

    node_no: int
    node: str
    devices: bytes
    seq: int
    phase: TaskPhase = TaskPhase.PLACED
    reached: TaskPhase = TaskPhase.PLACED
    exit_code: int = 0
    failure: FailureClass = FailureClass.NONE
    message: str = ""
    endpoint: str = ""
    tail: str = ""


@dataclass(slots=True)
class Lane:
    """Waiting jobs of one priority and one set of terms, oldest first: they fit or fail alike.

    All of them keep off the nodes named in `avoid`, where there are others.

    `fresh` holds job numbers as they came; `returned` the ones that came back to their old place
    (after a retry, or when their dependencies were met), sorted.
    """

    priority: int
    terms: JobTerms
    avoid: tuple[str, ...] = ()
    fresh: dict[int, None] = field(default_factory=dict)
    returned: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        """How many jobs wait in this lane."""
        return len(self.fresh) + len(self.returned)

    def __iter__(self) -> Iterator[int]:
        """Job numbers in the order of service."""
        return merge(self.fresh, self.returned)

    def head(self) -> int:
        """The number of the next job; the lane must not be empty."""
        first = next(iter(self.fresh), None)
        if not self.returned:
            assert first is not None, "an empty lane has no head"
            return first
        return self.returned[0] if first is None else min(first, self.returned[0])

    def give_back(self, no: int) -> None:
        """Put a job back to its old place."""
        insort(self.returned, no)

    def remove(self, no: int) -> None:
        """Take a job out, wherever it stands."""
        if no in self.fresh:
            del self.fresh[no]
        else:
            self.returned.remove(no)


@dataclass(frozen=True, slots=True)
class Cancel:
    """A user's wish to end a job that has tasks: where it was asked, why and by whom."""

    offset: int
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that ended without success: which tasks' nodes, and what the failed one said.

    `message` and `tail` (what it wrote last) are of the first task that failed.
    """

    attempt: int
    ended_at: int
    failure: FailureClass
    message: str
    exit_code: int
    nodes: tuple[str, ...]
    tail: str


@dataclass(slots=True)
class Job:
    """One job that the fold still knows. Times are UTC microseconds, 0 for not yet.

    `attempt` is the current or last one, 0 before the first placement. `ending` is set while the
    current attempt's remaining tasks are being stopped. `waits_for` are the jobs it depends on
    that have not ended well yet, with True where they must succeed. `history` holds its last
    failed attempts, `retried` how many of each class were followed by another; the next attempt
    keeps off `avoid`. `overdue` is set once its deadline has passed.
    """

    no: int
    job_id: bytes
    terms: JobTerms
    priority: int
    submitted_at: int
    spec_hash: bytes
    key_id: int
    actor: str
    spec_schema_id: int
    spec: bytes
    state: JobState = JobState.QUEUED
    changed_at: int = 0
    attempt: int = 0
    tasks: dict[int, Task] = field(default_factory=dict)
    released: bool = False
    ending: FailureClass = FailureClass.NONE
    ending_message: str = ""
    cancel: Cancel | None = None
    retries_used: int = 0
    due_at: int = 0
    started_at: int = 0
    ended_at: int = 0
    failure: FailureClass = FailureClass.NONE
    message: str = ""
    waits_for: dict[int, bool] = field(default_factory=dict)
    history: tuple[Failure, ...] = ()
    retried: tuple[tuple[FailureClass, int], ...] = ()
    avoid: tuple[str, ...] = ()
    overdue: bool = False
    fingerprint: str = ""
    causation_id: str = ""
    redrives: bytes = b""

    @property
    def is_ending(self) -> bool:
        """Whether the current attempt was told to stop and still has tasks that may live."""
        return self.ending is not FailureClass.NONE


@dataclass(slots=True)
class Queue:
    """Where jobs wait. Depths are counted here so that no view has to walk the jobs.

    `retry_until` is how far its retries are paced (`retries.pace`).
    """

    pool: str
    name: str
    state: QueueState = QueueState.OPEN
    description: str = ""
    waiting: int = 0
    active: int = 0
    defaults: QueueDefaults = NO_DEFAULTS
    retries_per_hour: int = 0
    retry_until: int = 0


@dataclass(slots=True)
class Node:
    """One incarnation of a node: what it has, what is free, what it was given.

    `gpu_free` is thousandths of each device by index; `tasks` are (job number, task) pairs in the
    order they were placed, that are not known dead.
    """

    no: int
    name: str
    pool: str
    incarnation: int
    address: str
    cpu_milli: int
    memory_mib: int
    gpus: tuple[GpuDevice, ...]
    extras: tuple[Extra, ...]
    labels: tuple[Label, ...]
    lease_s: int
    registered_at: int
    cpu_free: int
    memory_free: int
    gpu_free: list[int]
    extras_free: dict[str, int]
    draining: bool = False
    tasks: dict[tuple[int, int], None] = field(default_factory=dict)


@dataclass(slots=True)
class Pool:
    """A scheduling domain (the API's cluster). No retry is due while `retries_on` is False.

    Hints for `decide`, no part of the fold's facts: `freed` counts every time that capacity grew,
    `dirty` says that something may fit, `blocked` holds shapes that did not fit at `blocked_at`.
    """

    name: str
    description: str = ""
    nodes: dict[int, None] = field(default_factory=dict)
    lanes: dict[tuple[int, JobTerms, tuple[str, ...]], Lane] = field(default_factory=dict)
    retries_on: bool = True
    tenant_retries_per_hour: int = 0
    retry_until: dict[str, int] = field(default_factory=dict)
    freed: int = 0
    dirty: bool = False
    blocked: set[Shape] = field(default_factory=set)
    blocked_at: int = -1


class Timer(NamedTuple):
    """Something due at a moment. One whose job has moved on since is void.

    A tuple, because a heap of very many compares them all the time.
    """

    due_at: int
    kind: TimerKind
    job_no: int
    attempt: int


@dataclass(slots=True)
class Load:
    """Jobs that have not ended: how many, and the bytes of their specs."""

    jobs: int = 0
    spec_bytes: int = 0


@dataclass(slots=True)
class State:
    """Everything that one shard's log says. Start with `initial_state`.

    `incarnations` holds the highest one seen of each node name; `node_nos` the current one's
    number. `dependents` maps a job to those that wait for it; `ended` lists ended jobs
    in the order they ended, `doomed` those on whose success others wait in vain. The forgotten jobs' rows live on as
    a count and an order-free sum of hashes, so that a view of all jobs can still be compared.
    `load` is that of all tenants, `loads` of each that has any.
    """

    shard: int
    at: int = 0
    seq: int = 0
    next_no: int = 1
    next_node_no: int = 1
    jobs: dict[int, Job] = field(default_factory=dict)
    nos: dict[bytes, int] = field(default_factory=dict)
    queues: dict[tuple[str, str], Queue] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)
    node_nos: dict[str, int] = field(default_factory=dict)
    incarnations: dict[str, int] = field(default_factory=dict)
    dependents: dict[int, list[int]] = field(default_factory=dict)
    timers: list[Timer] = field(default_factory=list)
    ended: dict[int, None] = field(default_factory=dict)
    doomed: dict[int, None] = field(default_factory=dict)
    load: Load = field(default_factory=Load)
    loads: dict[str, Load] = field(default_factory=dict)
    forgotten: int = 0
    forgotten_digest: bytes = bytes(16)


def initial_state(shard: int) -> State:
    """The state before the first record of a shard."""
    return State(shard=shard)
