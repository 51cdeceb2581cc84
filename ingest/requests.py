"""The bodies that callers send, checked: unknown fields, wrong types and bad ranges end here.

Pydantic models only; nothing here touches the network. Every rule that the fold has about a single
submission is stated here too, so a caller learns of it at once and field by field; the fold stays
the judge, for every other producer as for us. `submit.py` turns a checked body into a command.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonDict

from ingest import quantities
from stream_processors.domain.limits import (
    AMOUNT_MAX,
    NAME_MAX,
    RETRIES_MAX,
    SECONDS_MAX,
    TASKS_MAX,
)

PRIORITY_MAX = 100
ARGUMENT_MAX = 32_000
"""Characters of one argument or variable: what Linux takes in one, at four bytes each."""
CONFIG_DEPTH_MAX = 100

NAME_PATTERN = rf"^[a-z0-9][a-z0-9._-]{{0,{NAME_MAX - 1}}}$"
NAME_HINT = f"1 to {NAME_MAX} of a-z, 0-9, '-', '.', '_', beginning with a letter or digit"
WORD_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
WORD_HINT = "1 to 63 of letters, digits, '-', '.', '_', beginning with a letter or digit"
ENV_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.-]{0,254}$"
ENV_HINT = "a variable's name: letters, digits, '_', '.', '-', not beginning with a digit"
LABEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,252}$"
LABEL_HINT = "a label's name: up to 253 letters, digits, '.', '_', '/', '-'"
JOB_ID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
JOB_ID_HINT = "a job's id as POST /jobs/ answered it"


_SURROGATE = re.compile("[\ud800-\udfff]")


def matching(pattern: str, hint: str) -> Callable[[str], str]:
    """A check that says, in words, what the pattern asks for."""
    compiled = re.compile(pattern[1:-1], re.ASCII)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(f"must be {hint}")
        return value

    return check


def _sendable(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not hold the NUL character: no argument or variable can")
    if _SURROGATE.search(value):
        raise ValueError("holds half of a surrogate pair: send whole characters")
    return value


def _text_schema(least: int, most: int) -> WithJsonSchema:
    return WithJsonSchema(
        {"type": "string", "minLength": least, "maxLength": most, "pattern": r"^[^\x00]*$"}
    )


Name = Annotated[
    str,
    AfterValidator(matching(NAME_PATTERN, NAME_HINT)),
    WithJsonSchema({"type": "string", "pattern": NAME_PATTERN}),
]
Word = Annotated[
    str,
    AfterValidator(matching(WORD_PATTERN, WORD_HINT)),
    WithJsonSchema({"type": "string", "pattern": WORD_PATTERN}),
]
EnvName = Annotated[
    str,
    AfterValidator(matching(ENV_PATTERN, ENV_HINT)),
    WithJsonSchema({"type": "string", "pattern": ENV_PATTERN}),
]
LabelName = Annotated[
    str,
    AfterValidator(matching(LABEL_PATTERN, LABEL_HINT)),
    WithJsonSchema({"type": "string", "pattern": LABEL_PATTERN}),
]
JobId = Annotated[
    str,
    AfterValidator(matching(JOB_ID_PATTERN, JOB_ID_HINT)),
    WithJsonSchema({"type": "string", "pattern": JOB_ID_PATTERN}),
]
Argument = Annotated[
    str,
    Field(min_length=1, max_length=ARGUMENT_MAX),
    AfterValidator(_sendable),
    _text_schema(1, ARGUMENT_MAX),
]
Value = Annotated[
    str,
    Field(max_length=ARGUMENT_MAX),
    AfterValidator(_sendable),
    _text_schema(0, ARGUMENT_MAX),
]
ShortText = Annotated[str, Field(max_length=1000), AfterValidator(_sendable), _text_schema(0, 1000)]
Seconds = Annotated[int, Field(ge=0, le=SECONDS_MAX)]
SomeSeconds = Annotated[int, Field(ge=1, le=SECONDS_MAX)]


def _amount(convert: Callable[[str | float], int]) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError('must be a number or a quantity such as "500m" or "8Gi"')  # noqa: TRY004 - pydantic wants ValueError
        amount = convert(value)
        if amount > AMOUNT_MAX:
            raise ValueError("is beyond any machine: ask for less")
        return amount

    return read


QuantityInput = Annotated[
    str | float,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": quantities.QUANTITY_PATTERN, "maxLength": 40},
                {"type": "number", "minimum": 0},
            ]
        }
    ),
]
CpuMilli = Annotated[
    int, BeforeValidator(_amount(quantities.cpu_milli), json_schema_input_type=QuantityInput)
]
MemoryMib = Annotated[
    int, BeforeValidator(_amount(quantities.memory_mib), json_schema_input_type=QuantityInput)
]
GpuMilli = Annotated[
    int, BeforeValidator(_amount(quantities.gpu_milli), json_schema_input_type=QuantityInput)
]


def _config_text(value: object) -> str:
    """The document as compact JSON with sorted keys, so that equal ones are equal text."""
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")  # noqa: TRY004 - pydantic wants ValueError
    _check_document(value)
    try:
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
        )
    except ValueError as error:
        raise ValueError("holds a number that JSON cannot express (NaN, Infinity)") from error


def _check_document(value: object) -> None:
    """Depth and texts, without recursion: the document may be hostile."""
    pending: list[tuple[object, int]] = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if depth > CONFIG_DEPTH_MAX:
            raise ValueError(f"is nested deeper than {CONFIG_DEPTH_MAX} levels: make it flatter")
        if isinstance(item, str):
            _sendable(item)
        elif isinstance(item, dict):
            pending.extend((key, depth + 1) for key in item)
            pending.extend((entry, depth + 1) for entry in item.values())
        elif isinstance(item, list):
            pending.extend((entry, depth + 1) for entry in item)


ConfigText = Annotated[str, BeforeValidator(_config_text, json_schema_input_type=dict[str, Any])]


_ONLY_MATCHING: JsonDict = {"additionalProperties": False}
"""Maps take no other names than those of their pattern."""


class Body(BaseModel):
    """What all bodies share: nothing unknown, nothing silently converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Resources(Body):
    """What each task needs, as Kubernetes quantities; finer than our units is rounded up."""

    cpu: CpuMilli = Field(default=-1, description='Cores: 2, "500m"; default 1')
    memory: MemoryMib = Field(default=-1, description='Bytes: "8Gi", "512M"; default 1Gi')
    gpu: GpuMilli = Field(default=0, description="Devices: a fraction of one, or a whole number")
    extras: dict[LabelName, Annotated[int, Field(ge=1, le=AMOUNT_MAX)]] = Field(
        default_factory=dict,
        description="Other countable things of a node, by name",
        json_schema_extra=_ONLY_MATCHING,
    )


class Gang(Body):
    """Tasks that start together or not at all."""

    enabled: bool = True
    min_members: int | None = Field(
        default=None, ge=1, le=TASKS_MAX, description="How many; default: `tasks`"
    )
    topology: Literal["ring", "pack", "spread"] = "pack"


class RetryPolicy(Body):
    """How often, and how long after, a failed attempt is tried again."""

    max_retries: int | None = Field(default=None, ge=0, le=RETRIES_MAX, description="Default 3")
    backoff_seconds: Seconds | None = Field(default=None, description="First wait; default 5")
    backoff_multiplier: float | None = Field(
        default=None, ge=1, le=100, description="Growth from wait to wait, to 3 decimals; default 2"
    )
    max_backoff_seconds: Seconds | None = Field(default=None, description="Default 3600")


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
    env: dict[EnvName, Value] = Field(default_factory=dict, json_schema_extra=_ONLY_MATCHING)
    config: ConfigText = Field(
        default="{}",
        description="Any JSON object; tasks find it in FOLDLINE_CONFIG_JSON",
        json_schema_extra={"default": {}},
    )
    labels: dict[LabelName, ShortText] = Field(
        default_factory=dict, json_schema_extra=_ONLY_MATCHING
    )
    resources: Resources = Field(default_factory=Resources)
    gpu_models: list[Word] = Field(
        default_factory=list, max_length=64, description="Only on one of these GPU models"
    )
    node_selector: dict[LabelName, ShortText] = Field(
        default_factory=dict,
        description="Only on nodes with all of these labels",
        json_schema_extra=_ONLY_MATCHING,
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


class ClusterBody(Body):
    """A cluster (pool of nodes) to create or change."""

    description: ShortText = ""
