"""The bodies that callers send, checked: unknown fields, wrong types and bad ranges end here.

Pydantic models only; nothing here touches the network. Every rule that the fold has about a single
submission is stated here too, so a caller learns of it at once and field by field; the fold stays
the judge, for every other producer as for us. `submit.py` turns a checked body into a command.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from ingest.fields import (
    ONLY_MATCHING,
    PRIORITY_MAX,
    Argument,
    Body,
    ConfigText,
    CpuMilli,
    EnvName,
    GpuMilli,
    JobId,
    LabelName,
    MemoryMib,
    Name,
    Seconds,
    ShortText,
    SomeSeconds,
    Value,
    Word,
)
from ingest.retry_requests import JobDefaults, Rate, RetryPolicy
from stream_processors.domain.limits import AMOUNT_MAX, TASKS_MAX


class Resources(Body):
    """What each task needs, as Kubernetes quantities; finer than our units is rounded up."""

    cpu: CpuMilli = Field(default=-1, description='Cores: 2, "500m"; default 1')
    memory: MemoryMib = Field(default=-1, description='Bytes: "8Gi", "512M"; default 1Gi')
    gpu: GpuMilli = Field(default=0, description="Devices: a fraction of one, or a whole number")
    extras: dict[LabelName, Annotated[int, Field(ge=1, le=AMOUNT_MAX)]] = Field(
        default_factory=dict,
        description="Other countable things of a node, by name",
        json_schema_extra=ONLY_MATCHING,
    )


class Gang(Body):
    """Tasks that start together or not at all."""

    enabled: bool = True
    min_members: int | None = Field(
        default=None, ge=1, le=TASKS_MAX, description="How many; default: `tasks`"
    )
    topology: Literal["ring", "pack", "spread"] = "pack"


class DependencyBody(Body):
    """Another job of the same cluster that must have succeeded (or ended) first."""

    job_id: JobId
    condition: Literal["succeeded", "ended"] = "succeeded"


def _from_id(value: object) -> object:
    return {"job_id": value} if isinstance(value, str) else value


DependsOn = Annotated[
    DependencyBody, BeforeValidator(_from_id, json_schema_input_type=JobId | DependencyBody)
]

EXAMPLE_JOB: JsonDict = {
    "job_type": "training",
    "name": "mnist-ring",
    "priority": 100,
    "cluster": "default",
    "queue": "default",
    "image": "train:1.4",
    "command": ["python", "-m", "train", "--epochs", "3"],
    "config": {"learning_rate": 0.01},
    "resources": {"cpu": "2", "memory": "8Gi", "gpu": 1},
    "gang": {"enabled": True, "min_members": 4, "topology": "ring"},
    "timeout_seconds": 3600,
    "retry_policy": {"max_retries": 3, "backoff_multiplier": 2},
}


class JobBody(Body):
    """A job: one command, run as 1 to N identical tasks."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_JOB]})

    job_type: Word = Field(default="batch", description="What kind of work; yours to choose")
    name: ShortText = ""
    priority: int | None = Field(
        default=None, ge=0, le=PRIORITY_MAX, description="0 to 100, higher first; default 0"
    )
    cluster: Name = Field(default="default", description="The pool of nodes to run in")
    queue: Name = "default"
    image: ShortText = ""
    command: list[Argument] = Field(
        min_length=1, max_length=4096, description="The argv to run, program first"
    )
    env: dict[EnvName, Value] = Field(default_factory=dict, json_schema_extra=ONLY_MATCHING)
    config: ConfigText = Field(
        default="{}",
        description="Any JSON object; tasks find it in FOLDLINE_CONFIG_JSON",
        json_schema_extra={"default": {}},
    )
    labels: dict[LabelName, ShortText] = Field(
        default_factory=dict, json_schema_extra=ONLY_MATCHING
    )
    resources: Resources = Field(default_factory=Resources)
    gpu_models: list[Word] = Field(
        default_factory=list, max_length=64, description="Only on one of these GPU models"
    )
    node_selector: dict[LabelName, ShortText] = Field(
        default_factory=dict,
        description="Only on nodes with all of these labels",
        json_schema_extra=ONLY_MATCHING,
    )
    tasks: int | None = Field(default=None, ge=1, le=TASKS_MAX, description="Default 1")
    gang: Gang | None = None
    timeout_seconds: SomeSeconds | None = Field(
        default=None, description="Of one attempt; default 86400"
    )
    start_timeout_seconds: SomeSeconds | None = Field(
        default=None, description="Until all tasks have started; default 300"
    )
    grace_seconds: Seconds | None = Field(
        default=None, description="Between SIGTERM and SIGKILL; default 30"
    )
    progress_timeout_seconds: Seconds | None = Field(
        default=None,
        description="An attempt that reports no progress for so long is ended; default 0: never",
    )
    deadline_seconds: Seconds | None = Field(
        default=None, description="From submission to its end at the latest; default 0: never"
    )
    retry_policy: RetryPolicy = Field(default_factory=RetryPolicy)
    depends_on: list[DependsOn] = Field(default_factory=list, max_length=1000)

    @model_validator(mode="after")
    def _members_are_tasks(self) -> JobBody:
        gang = self.gang
        if gang is None or not gang.enabled:
            return self
        if gang.min_members is None and self.tasks is None:
            raise ValueError("gang.enabled needs gang.min_members: say how many tasks it has")
        if None not in (gang.min_members, self.tasks) and gang.min_members != self.tasks:
            raise ValueError(
                "gang.min_members must equal tasks, because all members start together; "
                "leave one of the two out"
            )
        return self


class QueueBody(Body):
    """A queue to create or change."""

    cluster: Name = Field(default="default", description="The cluster that it belongs to")
    state: Literal["open", "paused", "draining"] = Field(
        default="open",
        description="open serves; paused accepts but starts nothing; draining accepts nothing",
    )
    description: ShortText = ""
    defaults: JobDefaults | None = Field(
        default=None, description="What its jobs get where they say nothing; left out: as it is"
    )
    retries_per_hour: Rate | None = Field(
        default=None,
        description="Retries of all its jobs in an hour, later ones are put off; 0: no bound",
    )


class ClusterBody(Body):
    """A cluster (pool of nodes) to create or change."""

    description: ShortText = ""
    retries: Literal["on", "off"] | None = Field(
        default=None,
        description="The kill switch: while it is off nothing is tried again; left out: as it is",
    )
    tenant_retries_per_hour: Rate | None = Field(
        default=None,
        description="Retries of each tenant in an hour, later ones are put off; 0: no bound",
    )
