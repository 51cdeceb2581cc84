"""Every topic: name, key, partitions, retention, its writers and its messages. The one catalogue.

A topic, message type or header that is not here fails the build. Partition counts are fixed at
creation; `SHARDS` stands for the number of shards of the installation.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas import commands, dispatch, envelope, public, reports, snapshots

SHARDS = 0
"""In `Topic.partitions`: as many as the installation has shards."""

DAY_MS = 86_400_000
MAX_RECORD_BYTES = 8 * 1024 * 1024
"""The log's record limit, and the limit of every topic that we create."""
MAX_COMMAND_BYTES = 1024 * 1024
"""A bigger command is refused: no legal one may exceed what a decision can carry."""
PARKED_BYTES_MAX = 6 * 1024 * 1024
"""Of an input that cannot be read, so much is kept: a decision carries one such at least."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `retention_ms` -1 keeps for ever; `compact` keeps the last of each key."""

    name: str
    key: str
    partitions: int
    messages: tuple[type, ...]
    writer: str
    readers: str
    retention_ms: int = -1
    retention_bytes: int = -1
    compact: bool = False
    append_time: bool = False
    public: bool = False


COMMANDS = Topic(
    "foldline.jobs.commands.v1",
    "pool",
    SHARDS,
    (
        commands.SubmitJob,
        commands.SubmitJobs,
        commands.CancelJob,
        commands.PurgeDeadLetters,
        commands.PutQueue,
        commands.PutPool,
    ),
    writer="anyone allowed",
    readers="engine",
    append_time=True,
    public=True,
)
REPORTS = Topic(
    "foldline.attempts.reports.v1",
    "pool",
    SHARDS,
    (
        reports.RegisterNode,
        reports.Heartbeat,
        reports.DrainNode,
        reports.TasksReported,
        reports.Probe,
    ),
    writer="node agents; the owner's probes",
    readers="engine",
    append_time=True,
)
LOG = Topic(
    "foldline.shard.log.v1",
    "none: partition = shard",
    SHARDS,
    (envelope.Claim, envelope.Decision),
    writer="the shard's owner",
    readers="engine, followers, projections, relay, auditors",
    append_time=True,
)
SNAPSHOTS = Topic(
    "foldline.shard.snapshots.v1",
    "shard:seq:chunk",
    SHARDS,
    (snapshots.SnapshotChunk, snapshots.SnapshotManifest),
    writer="the shard's owner",
    readers="engine, followers, projections",
    compact=True,
)
DISPATCH = Topic(
    "foldline.dispatch.v1",
    "node",
    64,
    (dispatch.Dispatch,),
    writer="engine, after the log has counted",
    readers="node agents",
    retention_ms=DAY_MS,
)
JOB_EVENTS = Topic(
    "foldline.jobs.events.v1",
    "job id",
    16,
    (public.JobEvent,),
    writer="relay",
    readers="everyone",
    retention_ms=30 * DAY_MS,
    public=True,
)
JOB_RETRIES = Topic(
    "foldline.jobs.retry.v1",
    "job id",
    16,
    (public.JobRetry,),
    writer="relay",
    readers="everyone",
    retention_ms=28 * DAY_MS,
    public=True,
)
DEAD_LETTERS = Topic(
    "foldline.jobs.dlq.v1",
    "job id",
    16,
    (public.DeadLetter, public.ParkedInput),
    writer="relay",
    readers="everyone",
    retention_ms=28 * DAY_MS,
    public=True,
)
TASK_LOGS = Topic(
    "foldline.attempts.logs.v1",
    "job id",
    16,
    (public.LogLines,),
    writer="node agents",
    readers="log endpoint",
    retention_ms=7 * DAY_MS,
    retention_bytes=1024 * 1024 * 1024,
)

TOPICS = (
    COMMANDS,
    REPORTS,
    LOG,
    SNAPSHOTS,
    DISPATCH,
    JOB_EVENTS,
    JOB_RETRIES,
    DEAD_LETTERS,
    TASK_LOGS,
)
