"""What a job asks of the scheduler: plain frozen values shared by commands, events and the fold.

Units are in the names: cpu_milli (thousandths of a core), memory_mib, gpu_milli (thousandths of a
device: 500 is half a device, 2000 is two whole ones), seconds as `_s`. Times are UTC microseconds.
Collections are tuples, so that terms are hashable and the fold can keep one object for many jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

Micros = NewType("Micros", int)
"""A moment: microseconds since 1970 in UTC (Avro `timestamp-micros`)."""


class Topology(StrEnum):
    """How the members of a gang should lie to each other; NONE for a job that is no gang."""

    UNKNOWN = "UNKNOWN"
    NONE = "none"
    PACK = "pack"
    RING = "ring"
    SPREAD = "spread"


class Condition(StrEnum):
    """When a dependency is met: its job succeeded, or ended in whatever way."""

    UNKNOWN = "UNKNOWN"
    SUCCEEDED = "succeeded"
    ENDED = "ended"


class QueueState(StrEnum):
    """OPEN serves; PAUSED accepts but starts nothing; DRAINING serves but accepts nothing."""

    UNKNOWN = "UNKNOWN"
    OPEN = "open"
    PAUSED = "paused"
    DRAINING = "draining"


class JobState(StrEnum):
    """The states a user sees, in API, events and metrics alike (docs/lifecycle.md)."""

    UNKNOWN = "UNKNOWN"
    PENDING = "pending"
    QUEUED = "queued"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRYING = "retrying"
    DEAD_LETTER = "dead_letter"
    CANCELLED = "cancelled"
    REFUSED = "refused"


ENDED_STATES = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.DEAD_LETTER, JobState.CANCELLED}
)
"""A job in one of these never leaves it."""


class FailureClass(StrEnum):
    """Why a task or an attempt ended without success; NONE with success."""

    UNKNOWN = "UNKNOWN"
    NONE = "none"
    USER_ERROR = "user_error"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    NODE_LOST = "node_lost"
    PREEMPTED = "preempted"
    START_TIMEOUT = "start_timeout"
    IMAGE_ERROR = "image_error"
    INFRASTRUCTURE = "infrastructure"
    POISON = "poison"
    CANCELLED = "cancelled"


class TaskState(StrEnum):
    """What an agent can say of a task: READY waits at its gang's barrier, ENDED is surely dead."""

    UNKNOWN = "UNKNOWN"
    READY = "ready"
    STARTED = "started"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Extra:
    """An amount of a named countable resource besides CPU, memory and GPU (a licence, a port)."""

    name: str
    amount: int


@dataclass(frozen=True, slots=True)
class Label:
    """A name and value on a node, or asked of one."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class RetryRule:
    """How attempts that end with one failure class are followed; -1 takes the job's own value.

    With `max_retries` the class has a budget of its own beside the job's; 0 never retries it.
    """

    failure: FailureClass
    max_retries: int = -1
    backoff_s: int = -1
    backoff_multiplier_milli: int = -1
    backoff_max_s: int = -1


@dataclass(frozen=True, slots=True)
class QueueDefaults:
    """What jobs of a queue get where they say nothing; -1 leaves it to `DEFAULT_TERMS`."""

    timeout_s: int = -1
    start_timeout_s: int = -1
    grace_s: int = -1
    max_retries: int = -1
    backoff_s: int = -1
    backoff_multiplier_milli: int = -1
    backoff_max_s: int = -1
    progress_timeout_s: int = -1
    deadline_s: int = -1
    memory_growth_milli: int = -1
    memory_max_mib: int = -1
    retry_rules: tuple[RetryRule, ...] = ()


NO_DEFAULTS = QueueDefaults()
"""A queue that leaves everything to `DEFAULT_TERMS`."""


class Switch(StrEnum):
    """A switch in a command: turn it, or leave it as it is."""

    UNKNOWN = "UNKNOWN"
    KEEP = "keep"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class JobTerms:
    """Everything the scheduler weighs about a job; resources are for each of its tasks.

    In a submission -1 (numbers) and "" (queue, tenant, pool) mean "take the default"; in events
    every value is filled in. `min_members` is 0 for a job that is no gang. `gpu_milli` below 1000
    shares one device, else it is a multiple of 1000.

    `progress_timeout_s` ends an attempt that reports no progress for so long, `deadline_s` ends
    the job so long after its submission; 0 is never. After `out_of_memory` the next attempt gets
    `memory_growth_milli` thousandths of the memory, at most `memory_max_mib`.
    """

    tenant: str = ""
    pool: str = ""
    queue: str = ""
    tasks: int = 1
    min_members: int = 0
    topology: Topology = Topology.NONE
    cpu_milli: int = -1
    memory_mib: int = -1
    gpu_milli: int = 0
    extras: tuple[Extra, ...] = ()
    gpu_models: tuple[str, ...] = ()
    node_selector: tuple[Label, ...] = ()
    timeout_s: int = -1
    start_timeout_s: int = -1
    grace_s: int = -1
    max_retries: int = -1
    backoff_s: int = -1
    backoff_multiplier_milli: int = -1
    backoff_max_s: int = -1
    progress_timeout_s: int = -1
    deadline_s: int = -1
    memory_growth_milli: int = -1
    memory_max_mib: int = -1
    retry_rules: tuple[RetryRule, ...] = ()

    @property
    def is_gang(self) -> bool:
        """Whether all tasks start together or not at all."""
        return self.min_members > 0


UNSAID = JobTerms()
"""Terms that leave everything to the defaults."""

DEFAULTS_VERSION = 2
"""Written beside the filled-in terms, so that a later default changes no old job."""

DEFAULT_TERMS = JobTerms(
    tenant="default",
    pool="default",
    queue="default",
    cpu_milli=1000,
    memory_mib=1024,
    timeout_s=86_400,
    start_timeout_s=300,
    grace_s=30,
    max_retries=3,
    backoff_s=5,
    backoff_multiplier_milli=2000,
    backoff_max_s=3_600,
    progress_timeout_s=0,
    deadline_s=0,
    memory_growth_milli=1500,
)
"""What a submission gets where neither it nor its queue says anything (version
`DEFAULTS_VERSION`); `memory_max_mib` follows from the memory: `MEMORY_MAX_FACTOR` times it."""

MEMORY_MAX_FACTOR = 4


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One GPU of a node: its model, memory, and the NVLink/PCIe island that it belongs to."""

    model: str
    memory_mib: int
    island: int = 0


@dataclass(frozen=True, slots=True)
class EnvVar:
    """One variable of a task's environment."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What only the worker and the reader need: carried through the engine as opaque bytes.

    `config` is a JSON document as the user sent it; tasks find it in FOLDLINE_CONFIG_JSON.
    """

    job_type: str
    name: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    config: str = "{}"
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """One Kafka header of a parked input."""

    name: str
    value: bytes


@dataclass(frozen=True, slots=True)
class ParkedRecord:
    """An input record that no release of ours could read, as it came.

    `input` is commands or reports, `at` when the broker took it. `size` is that of the value;
    `value` holds its first `PARKED_BYTES_MAX` bytes, and `sha256` is of all of it.
    """

    input: str
    offset: int
    at: Micros
    code: str
    message: str
    key: bytes
    headers: tuple[RecordHeader, ...]
    size: int
    sha256: bytes
    value: bytes
