"""What the hot view holds of each job, node, queue and pool, and how it lies in Redis.

Pure. Values are JSON texts, never MessagePack: the script that stores them takes no binary strings
inside its one packed argument, and people can read them with a command line. Jobs are arrays, for
there are many; the rest are few. Written by `hot_net.py`, read by `hot_read.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

import msgspec

from schemas.codec import MalformedRecord, decode_title
from schemas.digest import JobRow
from schemas.terms import QueueDefaults
from stream_processors.domain.rows import job_row
from stream_processors.domain.state import Job, Load, Node, Pool, Queue, State

Title = tuple[str, str]
"""Job type and name, as the spec says them."""

NO_TITLE: Title = ("", "")
TITLE_MAX = 1_000
"""Characters of either that views hold and public events tell; the spec has the rest."""


@dataclass(frozen=True, slots=True)
class HotJob:
    """A job that has not ended. `since` is when it came into its state (UTC microseconds).

    `nodes` are those of the current attempt's tasks that are still there. `blocked` waits for
    other jobs; `ending` has been told to stop and has tasks that may live.
    """

    row: JobRow
    job_type: str
    name: str
    nodes: tuple[str, ...]
    since: int
    tasks: int
    blocked: bool
    ending: bool


@dataclass(frozen=True, slots=True)
class HotGpu:
    """One device of a node; `free_milli` of 1000 thousandths are free."""

    model: str
    memory_mib: int
    free_milli: int


@dataclass(frozen=True, slots=True)
class HotNode:
    """One registered incarnation of a node; `tasks` are those not known dead."""

    name: str
    pool: str
    incarnation: int
    address: str
    draining: bool
    registered_at: int
    cpu_milli: int
    cpu_free_milli: int
    memory_mib: int
    memory_free_mib: int
    gpus: tuple[HotGpu, ...]
    extras: dict[str, int]
    extras_free: dict[str, int]
    labels: dict[str, str]
    tasks: int


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue as it was last changed; its depths are counted by the view."""

    pool: str
    name: str
    state: str
    description: str
    defaults: QueueDefaults = field(default_factory=QueueDefaults)
    retries_per_hour: int = 0


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A pool as it was last changed. While `retries_on` is False no retry is due."""

    name: str
    description: str
    retries_on: bool = True
    tenant_retries_per_hour: int = 0


_ROW_FIELDS = tuple(field.name for field in fields(JobRow))
_ROW_VALUES = attrgetter(*_ROW_FIELDS)
_NODE = msgspec.json.Decoder(HotNode)
_QUEUE = msgspec.json.Decoder(QueueRow)
_encode = msgspec.json.Encoder().encode


def title_of(job: Job) -> Title:
    """Job type and name; empty where the spec is encrypted, or not what its sender said it is."""
    if job.key_id:
        return NO_TITLE
    try:
        job_type, name = decode_title(job.spec_schema_id, job.spec)
    except MalformedRecord:
        return NO_TITLE
    return job_type[:TITLE_MAX], name[:TITLE_MAX]


def nodes_of(state: State, job: Job) -> tuple[str, ...]:
    """Names of the nodes of the current attempt's tasks that are still there, in order."""
    if not job.tasks:
        return ()
    numbers = dict.fromkeys([task.node_no for task in job.tasks.values()])
    return tuple([state.nodes[number].name for number in numbers if number in state.nodes])


def encode_job(state: State, job: Job, title: Title) -> str:
    """A live job's JSON: the values of its `JobRow` in their order, then what the view adds."""
    values = (
        _ROW_VALUES(job_row(state.shard, job)),
        *title,
        nodes_of(state, job),
        job.changed_at,
        job.terms.tasks,
        bool(job.waits_for),
        job.is_ending,
    )
    return _encode(values).decode()


def decode_job(data: bytes) -> HotJob:
    """The job that `encode_job` wrote."""
    values: list[Any] = msgspec.json.decode(data)
    row, job_type, name, nodes, since, tasks, blocked, ending = values
    return HotJob(JobRow(*row), job_type, name, tuple(nodes), since, tasks, blocked, ending)


def encode_node(node: Node) -> str:
    """A node's JSON."""
    pairs = zip(node.gpus, node.gpu_free, strict=True)
    row = HotNode(
        name=node.name,
        pool=node.pool,
        incarnation=node.incarnation,
        address=node.address,
        draining=node.draining,
        registered_at=node.registered_at,
        cpu_milli=node.cpu_milli,
        cpu_free_milli=node.cpu_free,
        memory_mib=node.memory_mib,
        memory_free_mib=node.memory_free,
        gpus=tuple(HotGpu(gpu.model, gpu.memory_mib, free) for gpu, free in pairs),
        extras={extra.name: extra.amount for extra in node.extras},
        extras_free=node.extras_free,
        labels={label.name: label.value for label in node.labels},
        tasks=len(node.tasks),
    )
    return _encode(row).decode()


def decode_node(data: bytes) -> HotNode:
    """The node that `encode_node` wrote."""
    return _NODE.decode(data)


def encode_queue(queue: Queue) -> str:
    """A queue's JSON."""
    row = QueueRow(
        pool=queue.pool,
        name=queue.name,
        state=queue.state.value,
        description=queue.description,
        defaults=queue.defaults,
        retries_per_hour=queue.retries_per_hour,
    )
    return _encode(row).decode()


def decode_queue(data: bytes) -> QueueRow:
    """The queue that `encode_queue` wrote."""
    return _QUEUE.decode(data)


def encode_pool(pool: Pool) -> str:
    """A pool's JSON: the values of its `PoolRow`, its name first."""
    switch = (pool.retries_on, pool.tenant_retries_per_hour)
    return _encode((pool.name, pool.description, *switch)).decode()


def decode_pool(data: bytes) -> PoolRow:
    """The pool that `encode_pool` wrote, in this release or one before."""
    return PoolRow(*msgspec.json.decode(data))


def encode_load(load: Load) -> str:
    """What a tenant, or all of them, have that has not ended: jobs, and the bytes of specs."""
    return f"{load.jobs} {load.spec_bytes}"


def decode_load(data: bytes | None) -> Load:
    """The load that `encode_load` wrote; nothing where there is none."""
    return Load(*map(int, data.split())) if data else Load()


def queue_key(pool: str, name: str) -> str:
    """How a queue is called inside keys; names hold no slash."""
    return f"{pool}/{name}"


def count_key(kind: str, queue: str) -> str:
    """How a counter of one queue is called; `parse_count` reads it back."""
    return f"{kind}:{queue}"


def parse_count(name: str) -> tuple[str, str]:
    """Kind and queue key of a counter."""
    kind, _, queue = name.partition(":")
    return kind, queue
