"""What has happened: past participles, plural and columnar. Never removed from this file.

Written to `foldline.shard.log.v1` inside `envelope.Decision`, by the shard's owner only. Row i of
an event is the i-th entry of each of its columns. Jobs are named by their dense number in the
shard (`job_nos`), nodes by the dense number of their incarnation (`node_nos`). The moment of every
event is its record's `at`. State follows from these by `stream_processors.domain.evolve` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.terms import (
    NO_DEFAULTS,
    Extra,
    FailureClass,
    GpuDevice,
    JobTerms,
    Label,
    ParkedRecord,
    QueueDefaults,
    QueueState,
)


@dataclass(frozen=True, slots=True)
class JobsSubmitted:
    """Jobs were accepted and queued; row i is number `first_no + i`.

    `job_ids` and `spec_hashes` are 16 bytes a row, run together. `offsets` are the places of the
    commands in the commands topic, `submitted_ats` when the broker took them (UTC microseconds):
    a job's age counts from there. Dependencies are sparse: row `dep_rows[k]` waits for job
    `dep_nos[k]`, to succeed if `dep_succeeds[k]`, else to end. Causes are sparse too: row
    `cause_rows[k]` was caused by `causation_ids[k]`, and runs the dead letter of the job
    `redrives[k]` (16 bytes, or none) again.
    """

    first_no: int
    job_ids: bytes
    offsets: list[int]
    submitted_ats: list[int]
    terms: list[JobTerms]
    terms_of: list[int]
    priorities: list[int]
    dep_rows: list[int]
    dep_nos: list[int]
    dep_succeeds: list[bool]
    spec_hashes: bytes
    key_ids: list[int]
    actors: list[str]
    spec_schema_ids: list[int]
    specs: list[bytes]
    defaults_version: int
    cause_rows: list[int] = field(default_factory=list)
    causation_ids: list[str] = field(default_factory=list)
    redrives: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SubmissionsRepeated:
    """Submissions that are jobs already known, with the same content: nothing changed."""

    offsets: list[int]
    job_nos: list[int]


@dataclass(frozen=True, slots=True)
class CommandsRefused:
    """Commands turned down. `rows` is the row of a batch command, else 0; `job_ids` may be empty.

    `codes` are stable words for programs, `messages` say to people what to do.
    """

    offsets: list[int]
    rows: list[int]
    job_ids: list[bytes]
    codes: list[str]
    messages: list[str]


@dataclass(frozen=True, slots=True)
class InputsParked:
    """Inputs that cannot be read, with their bytes: they go to the dead letters.

    Each is refused, too, by `CommandsRefused` or `ReportsRefused`.
    """

    records: list[ParkedRecord]


@dataclass(frozen=True, slots=True)
class DeadLettersPurged:
    """Dead letters were dealt with: job ids, or `shard:input:offset` of parked inputs."""

    offset: int
    ids: list[str]
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class DeadlinesPassed:
    """Jobs with tasks are out of time for good: once these are dead, the jobs have failed."""

    job_nos: list[int]


@dataclass(frozen=True, slots=True)
class CancelsRequested:
    """Users asked for the end of jobs that run; each ends once its tasks are known dead."""

    offsets: list[int]
    job_nos: list[int]
    reasons: list[str]
    actors: list[str]


@dataclass(frozen=True, slots=True)
class QueueChanged:
    """A queue was created or changed. `retries_per_hour` 0 is no bound."""

    offset: int
    pool: str
    name: str
    state: QueueState
    description: str
    actor: str
    defaults: QueueDefaults = NO_DEFAULTS
    retries_per_hour: int = 0


@dataclass(frozen=True, slots=True)
class PoolChanged:
    """A pool was created or changed. `offset` is -1 for the pool that a shard starts with.

    While `retries_on` is False no retry is due. `tenant_retries_per_hour` 0 is no bound.
    """

    offset: int
    name: str
    description: str
    actor: str
    retries_on: bool = True
    tenant_retries_per_hour: int = 0


@dataclass(frozen=True, slots=True)
class NodeRegistered:
    """An incarnation of a node entered its pool as number `node_no`.

    An earlier incarnation of the same name is lost by this event too: its agent ended its tasks
    before it registered again.
    """

    node_no: int
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


@dataclass(frozen=True, slots=True)
class NodesDraining:
    """Incarnations that take nothing new."""

    node_nos: list[int]
    reasons: list[str]


@dataclass(frozen=True, slots=True)
class NodesLost:
    """Incarnations that are gone for ever; what they held has ended as `node_lost`."""

    node_nos: list[int]
    reasons: list[str]


@dataclass(frozen=True, slots=True)
class TasksPlaced:
    """Tasks were given to incarnations. `devices` has one byte per GPU device index.

    The first placed task of an attempt opens it: the job is `scheduled`. A gang is in one event
    whole.
    """

    job_nos: list[int]
    attempts: list[int]
    tasks: list[int]
    node_nos: list[int]
    devices: list[bytes]


@dataclass(frozen=True, slots=True)
class TasksReady:
    """Members of gangs that wait at their barrier; `endpoints` is host:port offered by rank 0."""

    job_nos: list[int]
    attempts: list[int]
    tasks: list[int]
    endpoints: list[str]


@dataclass(frozen=True, slots=True)
class GangsReleased:
    """All members were ready: the barrier opened. `endpoints` is rank 0's rendezvous."""

    job_nos: list[int]
    attempts: list[int]
    endpoints: list[str]


@dataclass(frozen=True, slots=True)
class TasksStarted:
    """Processes that began to run."""

    job_nos: list[int]
    attempts: list[int]
    tasks: list[int]


@dataclass(frozen=True, slots=True)
class JobsStarted:
    """Jobs whose every task has started: `running`."""

    job_nos: list[int]
    attempts: list[int]


@dataclass(frozen=True, slots=True)
class TasksEnded:
    """Tasks that are surely dead: reported by their agent (lost nodes speak by `NodesLost`).

    Row `tail_rows[k]` wrote `tails[k]` last; only of tasks that failed.
    """

    job_nos: list[int]
    attempts: list[int]
    tasks: list[int]
    exit_codes: list[int]
    failures: list[FailureClass]
    messages: list[str]
    tail_rows: list[int] = field(default_factory=list)
    tails: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AttemptsEnding:
    """Attempts whose remaining tasks were told to stop; `failures` is why."""

    job_nos: list[int]
    attempts: list[int]
    failures: list[FailureClass]
    messages: list[str]


@dataclass(frozen=True, slots=True)
class ReportsRefused:
    """Reports about another attempt or incarnation, or about nothing known.

    `offsets` is the report's place in the reports topic. `codes` are stable words.
    """

    offsets: list[int]
    nodes: list[str]
    incarnations: list[int]
    codes: list[str]
    counts: list[int]


@dataclass(frozen=True, slots=True)
class JobsSucceeded:
    """Every task of the attempt ended with success. Terminal."""

    job_nos: list[int]
    attempts: list[int]


@dataclass(frozen=True, slots=True)
class JobsFailed:
    """The attempt failed with a class that is not retried. Terminal."""

    job_nos: list[int]
    attempts: list[int]
    failures: list[FailureClass]
    messages: list[str]


@dataclass(frozen=True, slots=True)
class RetriesScheduled:
    """The attempt failed and another follows at `due_ats` (UTC microseconds): `retrying`.

    `costs` is 1 where the attempt counts against the retry budgets, 0 where it is free.
    `fingerprints` groups failures that look alike. Sparse: row `avoid_rows[k]` keeps off the node
    `avoid_nodes[k]` from now on, row `memory_rows[k]` asks for `memories_mib[k]`.
    """

    job_nos: list[int]
    attempts: list[int]
    due_ats: list[int]
    costs: list[int]
    failures: list[FailureClass]
    messages: list[str]
    fingerprints: list[str] = field(default_factory=list)
    avoid_rows: list[int] = field(default_factory=list)
    avoid_nodes: list[str] = field(default_factory=list)
    memory_rows: list[int] = field(default_factory=list)
    memories_mib: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class JobsRequeued:
    """The backoff is over: `queued` again, at the old place in the queue."""

    job_nos: list[int]


@dataclass(frozen=True, slots=True)
class JobsDeadLettered:
    """The retry budget is spent, or the job is poison. Terminal.

    `fingerprints` groups failures that look alike.
    """

    job_nos: list[int]
    attempts: list[int]
    failures: list[FailureClass]
    messages: list[str]
    fingerprints: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class JobsCancelled:
    """Ended by request, or because a dependency can no longer be met. Terminal."""

    job_nos: list[int]
    offsets: list[int]
    reasons: list[str]
    actors: list[str]


@dataclass(frozen=True, slots=True)
class JobsForgotten:
    """Ended jobs left the fold; they live on in the audit view under the same number."""

    job_nos: list[int]


Event = (
    JobsSubmitted
    | SubmissionsRepeated
    | CommandsRefused
    | CancelsRequested
    | QueueChanged
    | PoolChanged
    | NodeRegistered
    | NodesDraining
    | NodesLost
    | TasksPlaced
    | TasksReady
    | GangsReleased
    | TasksStarted
    | JobsStarted
    | TasksEnded
    | AttemptsEnding
    | ReportsRefused
    | JobsSucceeded
    | JobsFailed
    | RetriesScheduled
    | JobsRequeued
    | JobsDeadLettered
    | JobsCancelled
    | JobsForgotten
    | InputsParked
    | DeadLettersPurged
    | DeadlinesPassed
)
"""Anything that can stand in a decision."""
