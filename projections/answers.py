"""What the endpoints that read answer. Pydantic models only; filled by `reads.py`.

Times are RFC 3339 in UTC, null for not yet; amounts carry their unit in the name.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field


class TaskAnswer(BaseModel):
    """One task of one attempt."""

    task: int
    node: str
    incarnation: int
    devices: list[int]
    placed_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None = Field(description="The process's code, or minus the signal")
    failure: str | None
    message: str
    log_tail: str = Field(default="", description="What it wrote last, where it failed")


class AttemptAnswer(BaseModel):
    """One try to run a job, all its tasks."""

    number: int
    placed_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    failure: str | None
    message: str
    fingerprint: str = Field(default="", description="Attempts that failed alike have the same")
    tasks: list[TaskAnswer]


class JobSummary(BaseModel):
    """A job in a list."""

    id: str
    status: str = Field(
        description="pending, queued, scheduled, running, retrying, succeeded, failed, "
        "dead_letter, cancelled or refused"
    )
    job_type: str
    name: str
    cluster: str
    queue: str
    priority: int
    attempt: int = Field(description="Number of the current or last attempt; 0 before the first")
    retry_count: int = Field(description="Retries that counted against max_retries")
    worker_id: str | None = Field(description="The node of the current or last attempt's task 0")
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None = Field(description="When the next attempt is due, while retrying")
    failure: str | None = Field(description="Class of the last failure")
    message: str
    logs_url: str


class ResourcesAnswer(BaseModel):
    """What each task was given."""

    cpu_milli: int
    memory_mib: int
    gpu_milli: int
    extras: dict[str, int]


class GangAnswer(BaseModel):
    """Tasks that start together."""

    min_members: int
    topology: str


class RetryRuleAnswer(BaseModel):
    """What differs for one failure class; null is as the job's own."""

    failure: str
    max_retries: int | None
    backoff_seconds: int | None
    backoff_multiplier: float | None
    max_backoff_seconds: int | None


class RetryPolicyAnswer(BaseModel):
    """How failed attempts are tried again; null is what the queue or the service says."""

    max_retries: int | None
    backoff_seconds: int | None
    backoff_multiplier: float | None
    max_backoff_seconds: int | None
    memory_growth: float | None = None
    max_memory_mib: int | None = None
    rules: list[RetryRuleAnswer] = Field(default_factory=list)


class JobDefaultsAnswer(BaseModel):
    """What the jobs of a queue get where they say nothing; null is what the service says."""

    timeout_seconds: int | None = None
    start_timeout_seconds: int | None = None
    grace_seconds: int | None = None
    progress_timeout_seconds: int | None = None
    deadline_seconds: int | None = None
    retry_policy: RetryPolicyAnswer


class DependencyAnswer(BaseModel):
    """A job that this one waits for."""

    job_id: str
    condition: str


class JobAnswer(JobSummary):
    """A job with all that is known of it."""

    queue_position: int | None = Field(
        description="Place in the order of service of its cluster, 1 for the next; null where it "
        "does not wait for a place"
    )
    tasks: int
    gang: GangAnswer | None
    resources: ResourcesAnswer
    gpu_models: list[str]
    node_selector: dict[str, str]
    timeout_seconds: int
    start_timeout_seconds: int
    grace_seconds: int
    progress_timeout_seconds: int = Field(default=0, description="0: never")
    deadline_seconds: int = Field(default=0, description="From submission to its end; 0: never")
    retry_policy: RetryPolicyAnswer
    image: str
    command: list[str]
    env: dict[str, str]
    config: Any = Field(description="The JSON object as sent; its text, if it cannot be shown")
    labels: dict[str, str]
    actor: str
    causation_id: str = Field(default="", description="What caused its submission, as it was said")
    redrives: str | None = Field(
        default=None, description="The job whose dead letter this one runs again"
    )
    depends_on: list[DependencyAnswer]
    attempts: list[AttemptAnswer]
    explain_url: str


class ReasonAnswer(BaseModel):
    """One reason why a job stands where it stands."""

    code: str = Field(description="A stable word for programs")
    message: str


class ExplainAnswer(BaseModel):
    """Why a job stands where it stands, as a follower says it."""

    job_id: str
    status: str
    at: datetime = Field(description="The moment of the state that this was read from")
    position: int | None = Field(description="Place in the order of service, 1 for the next")
    reasons: list[ReasonAnswer]


class JobList(BaseModel):
    """A page of jobs, the newest first."""

    jobs: list[JobSummary]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page")


class CommandAnswer(BaseModel):
    """What became of a command."""

    position: str
    status: str = Field(
        description="pending (not decided yet), accepted, repeated (a job already known) or refused"
    )
    code: str | None = Field(description="Why it was refused, for programs")
    message: str | None = Field(description="Why it was refused, and what to do")
    job_id: str | None
    decided_at: datetime | None
    rows: list[CommandRow] = Field(description="Row by row, for a command of many submissions")


class CommandRow(BaseModel):
    """What became of one row of a command of many submissions."""

    row: int | None
    status: str
    code: str | None
    message: str | None
    job_id: str | None


class QueueStatistics(BaseModel):
    """What happened in a queue in the last hour."""

    counted_from: datetime | None = Field(description="Set where counting began within the hour")
    submitted: int
    started: int
    succeeded: int
    failed: int
    dead_letter: int
    cancelled: int
    wait_p50_ms: float = Field(description="From submission to first start, within 1/16")
    wait_p99_ms: float
    run_p50_ms: float
    run_p99_ms: float


class QueueSummary(BaseModel):
    """A queue as it is now."""

    name: str
    cluster: str
    state: str
    description: str
    depth: int = Field(description="Jobs that wait for a place")
    processing: int = Field(description="Jobs scheduled or running")
    retrying: int = Field(description="Jobs that wait out a backoff")
    oldest_age_seconds: float | None = Field(description="How long the oldest waiting job waits")
    defaults: JobDefaultsAnswer | None = None
    retries_per_hour: int = Field(default=0, description="Of all its jobs; 0: no bound")


class QueueAnswer(QueueSummary):
    """A queue with the statistics of its last hour."""

    last_hour: QueueStatistics


class QueueList(BaseModel):
    """All queues."""

    queues: list[QueueSummary]


class GpuAnswer(BaseModel):
    """One device of a node."""

    model: str
    memory_mib: int
    free_milli: int = Field(description="Of 1000")


class NodeAnswer(BaseModel):
    """One registered node."""

    name: str
    cluster: str
    incarnation: int
    address: str
    draining: bool
    registered_at: datetime
    tasks: int
    cpu_milli: int
    cpu_free_milli: int
    memory_mib: int
    memory_free_mib: int
    gpus: list[GpuAnswer]
    gpus_free: int = Field(description="Devices that are free as a whole")
    extras: dict[str, int]
    extras_free: dict[str, int]
    labels: dict[str, str]


class ClusterAnswer(BaseModel):
    """A cluster with its nodes."""

    name: str
    description: str
    retries: str = Field(default="on", description="The kill switch: off lets nothing be retried")
    tenant_retries_per_hour: int = Field(default=0, description="Of each tenant; 0: no bound")
    waiting: int = Field(description="Jobs in the order of service")
    gpus: int
    gpus_free: int = Field(description="Devices that are free as a whole, on nodes not draining")
    cpu_milli: int
    cpu_free_milli: int
    memory_mib: int
    memory_free_mib: int
    nodes: list[NodeAnswer]


class ClusterList(BaseModel):
    """All clusters."""

    clusters: list[ClusterAnswer]


class CountsAnswer(BaseModel):
    """How many jobs did what in a window."""

    submitted: int
    started: int
    succeeded: int
    failed: int
    dead_letter: int
    cancelled: int


class DispatchAnswer(BaseModel):
    """From submission to the placement of the first attempt, over the newest jobs of a day."""

    jobs: int = Field(description="How many were measured: the newest placed ones, bounded")
    p50_ms: float
    p99_ms: float


class ThroughputAnswer(BaseModel):
    """Rates over the last minutes."""

    window_seconds: int
    submitted_per_second: float
    finished_per_second: float


class FingerprintDepth(BaseModel):
    """How many open dead letters look alike."""

    fingerprint: str
    open: int
    oldest_at: datetime


class DeadLetterDepth(BaseModel):
    """How many dead letters wait for people, and since when."""

    open: int
    oldest_at: datetime | None
    oldest_age_seconds: float | None
    by_fingerprint: list[FingerprintDepth] = Field(description="The most frequent ones")


class MetricsAnswer(BaseModel):
    """The installation in figures."""

    last_24_hours: CountsAnswer
    counted_from: datetime | None = Field(description="Set where counting began within the day")
    dispatch: DispatchAnswer
    throughput: ThroughputAnswer
    jobs_now: dict[str, int] = Field(description="Jobs waiting, active and retrying now")
    dead_letters: DeadLetterDepth


class CheckAnswer(BaseModel):
    """One thing that the service needs."""

    name: str
    ok: bool
    detail: str


class HealthAnswer(BaseModel):
    """Whether the service can do its work."""

    status: str = Field(description="ok or degraded")
    checks: list[CheckAnswer]
