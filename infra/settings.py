"""Every setting of every service: typed, frozen, with units. From the environment and one file.

A service asks `load(ItsSettings)`. A value comes from the environment (`FOLDLINE_<ROOM>_<KEY>`),
else from the table `[room]` of one TOML file (FOLDLINE_CONFIG, or `foldline.toml` in the data
directory), else from what a running `foldline dev` wrote down about its servers, else from the
default. A key that nobody reads is an error, and so is one that would break a guarantee: both
raise `SettingsError` with what to do. Nothing else of ours reads FOLDLINE_* variables but tasks.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from infra.edge_rules import EdgeRule
from infra.settings_files import (
    SettingsError,
    config_path,
    data_dir_default,
    read_file,
    running_path,
    table_of,
)
from schemas.topics import MAX_RECORD_BYTES

__all__ = ["SettingsError", "config_path", "data_dir_default", "running_path"]

Port = Annotated[int, Field(ge=1, le=65_535)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]

NO_ROOMS = frozenset({"ATTEMPT", "CHECKPOINT", "CONFIG", "JOB", "NODE", "OUTPUT", "TASK", "TEST"})
"""First words after FOLDLINE_ that are no room: what tasks are told, and what tests are told."""

_ONE_HISTORY = "the engine counts on it to know which record is the truth, so it is no setting"
REFUSED: dict[str, str] = {
    "kafka.acks": f"always all: {_ONE_HISTORY}",
    "kafka.auto_offset_reset": "an offset out of range stops a shard; a reset would lose records",
    "kafka.auto_create_topics": "partition counts are fixed at creation and come from the catalogue",
    "kafka.enable_idempotence": f"always on: {_ONE_HISTORY}",
    "kafka.linger_ms": "always 0: batches form while a record is in flight, not while a job waits",
    "kafka.transactional_id": f"never transactional: offsets must be dense; {_ONE_HISTORY}",
    "engine.clock": "time is continued from the log and checked against the broker",
    "engine.epoch": f"an epoch is won by a claim in the log; {_ONE_HISTORY}",
    "agent.incarnation": "incarnations only rise; the agent's journal numbers them",
    "agent.margin_s": "follows from lease_s, so that no task outlives its lease",
}
"""Keys that people look for and that must not exist, each with its reason."""


class _Room(BaseSettings):
    """The settings of one room, and where they are looked for."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_ignore_empty=True)
    room: ClassVar[str]

    def __init_subclass__(cls, room: str, **options: Any) -> None:
        """Name the room: the table in the file and the word in the variables."""
        cls.room = room
        cls.model_config = {**cls.model_config, "env_prefix": f"FOLDLINE_{room.upper()}_"}
        super().__init_subclass__(**options)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the framework's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same again
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the file, then the running stack's own word."""
        files = (table_of(path, cls.room) for path in (config_path(), running_path()))
        return (
            init_settings,
            env_settings,
            *(InitSettingsSource(settings_cls, init_kwargs=table) for table in files),
        )


class StackSettings(_Room, room="stack"):
    """The local stack of `foldline dev`: where its data is, what listens where, and how much of it.

    Servers that are there already are used instead of our own where `kafka_bootstrap`,
    `postgres_dsn` or `redis_url` name them. Everything of ours listens on loopback only.
    """

    data_dir: Path = Field(default_factory=data_dir_default)
    kafka_port: Port = 29092
    kafka_controller_port: Port = 29093
    kafka_heap_mib: Annotated[int, Field(ge=128)] = 512
    postgres_port: Port = 25432
    valkey_port: Port = 26379
    api_port: Port = 8080
    follower_port: Port = 8081
    agents: Annotated[int, Field(ge=0, le=64)] = 2
    engines: Annotated[int, Field(ge=1, le=64)] = 1
    edge: bool = False
    shards: Annotated[int, Field(ge=1, le=1024)] = 2
    kafka_bootstrap: str | None = None
    postgres_dsn: str | None = Field(default=None, repr=False)
    redis_url: str | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        names = [name for name in type(self).model_fields if name.endswith("_port")]
        seen: dict[int, str] = {}
        for name in names:
            port = getattr(self, name)
            if port in seen:
                raise ValueError(f"{name} and {seen[port]} are both {port}: give one another port")
            seen[port] = name
        return self


class KafkaSettings(_Room, room="kafka"):
    """How every process reaches Kafka. `message_timeout_s` is when a send's outcome is unknown.

    How many shards there are is asked of Kafka: it was fixed when the topics were created, with
    `replication` copies.
    """

    bootstrap: str = "127.0.0.1:29092"
    replication: Count = 1
    message_timeout_s: Annotated[float, Field(gt=0, le=30)] = 5.0


class PostgresSettings(_Room, room="postgres"):
    """Where the audit view lives, as a libpq connection string or URL."""

    dsn: str = Field(default="postgresql://postgres@127.0.0.1:25432/foldline", repr=False)


class RedisSettings(_Room, room="redis"):
    """Where the hot view lives: Redis 7 or Valkey 8 and newer."""

    url: str = Field(default="redis://127.0.0.1:26379/0", repr=False)


class EngineSettings(_Room, room="engine"):
    """One engine process: how it batches, what it keeps, and when it counts a node as lost.

    A finished job leaves the fold after `retain_finished_s`, which is also for how long a repeated
    submission is known to be the same job. An owner gives a sign of life every `sign_every_s`;
    after `takeover_after_s` without one, another engine takes its shard over. With `stands_by`
    off, an engine folds only what the group gives it: for very many shards, where a few others
    stand by for all.
    """

    batch_max_commands: Annotated[int, Field(ge=1, le=10_000)] = 500
    batch_max_bytes: Annotated[int, Field(ge=64 * 1024, le=MAX_RECORD_BYTES // 2)] = 2 * 1024 * 1024
    pipeline_depth: Annotated[int, Field(ge=1, le=64)] = 4
    sign_every_s: Seconds = 0.5
    takeover_after_s: Seconds = 1.5
    stands_by: bool = True
    snapshot_every_records: Count = 20_000
    snapshot_every_bytes: Annotated[int, Field(ge=1024 * 1024)] = 48 * 1024 * 1024
    snapshot_every_s: Seconds = 60.0
    resend_after_s: Seconds = 2.0
    retain_finished_s: Annotated[float, Field(ge=60)] = 86_400.0
    lease_drift_milli: Annotated[int, Field(ge=1, le=99)] = 50
    lease_margin_s: Seconds = 1.0
    poll_s: Annotated[float, Field(gt=0, le=0.2)] = 0.05

    @model_validator(mode="after")
    def _one_lost_sign_ends_no_ownership(self) -> Self:
        if self.sign_every_s > self.takeover_after_s / 3:
            raise ValueError(
                f"sign_every_s={self.sign_every_s} must be at most a third of "
                f"takeover_after_s={self.takeover_after_s}: one lost sign must not end an ownership"
            )
        return self


class AgentSettings(_Room, room="agent"):
    """One node: its name, what it offers, its lease, and how much of a task's output it keeps.

    `cpu_milli` and `memory_mib` of 0 mean what the machine has. `gpus` may be declared on a
    machine without any, for trying things out. `address` is where other nodes reach this one.
    """

    node: str = "node-1"
    pool: str = "default"
    address: str = "127.0.0.1"
    data_dir: Path = Field(
        default_factory=lambda known: data_dir_default() / "agents" / known["node"]
    )
    shared_dir: Path | None = None
    cgroup_dir: Path | None = None
    cpu_milli: Annotated[int, Field(ge=0)] = 0
    memory_mib: Annotated[int, Field(ge=0)] = 0
    gpus: Annotated[int, Field(ge=0, le=255)] = 0
    gpu_model: str = ""
    gpu_memory_mib: Annotated[int, Field(ge=0)] = 0
    labels: dict[str, str] = Field(default_factory=dict)
    lease_s: Annotated[int, Field(ge=1, le=3600)] = 10
    heartbeat_s: Seconds = 2.0
    drain_s: Annotated[float, Field(ge=0)] = 60.0
    log_line_bytes: Annotated[int, Field(ge=256, le=256 * 1024)] = 16 * 1024
    log_lines_per_s: Count = 2_000
    log_bytes_per_s: Count = 1024 * 1024
    log_burst_s: Count = 5
    log_total_bytes: Count = 256 * 1024 * 1024

    @model_validator(mode="after")
    def _one_lost_heartbeat_ends_no_lease(self) -> Self:
        if self.heartbeat_s > self.lease_s / 3:
            raise ValueError(
                f"heartbeat_s={self.heartbeat_s} must be at most a third of lease_s={self.lease_s}: "
                "one lost heartbeat must not end a lease"
            )
        return self


class ApiSettings(_Room, room="api"):
    """The HTTP front door. There are no tokens yet, so it listens on loopback only."""

    host: Literal["127.0.0.1", "::1", "localhost"] = "127.0.0.1"
    port: Port = 8080
    follower_url: str = "http://127.0.0.1:8081"
    min_position_wait_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    produce_timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    page_limit_max: Annotated[int, Field(ge=1, le=10_000)] = 1_000


class MetricsSettings(_Room, room="metrics"):
    """Where a process without HTTP of its own answers `/metrics` on loopback; None: nowhere."""

    port: Port | None = None


class AdmissionSettings(_Room, room="admission"):
    """How much one shard takes on: jobs that have not ended, and the bytes of their specs.

    Beyond it the engine refuses a submission, whoever sent it; the API says so before it is sent
    (429 for the tenant's share, 503 for all). 0 is no bound. API and engines must be told alike.
    """

    pending_jobs_max: Annotated[int, Field(ge=0)] = 1_000_000
    pending_bytes_max: Annotated[int, Field(ge=0)] = 2 * 1024 * 1024 * 1024
    tenant_pending_jobs_max: Annotated[int, Field(ge=0)] = 500_000
    tenant_pending_bytes_max: Annotated[int, Field(ge=0)] = 1024 * 1024 * 1024


class EdgeSettings(_Room, room="edge"):
    """Triage of dead letters: rules of automatic redrives, and when a burst stops them.

    `burst_letters` of one fingerprint within `burst_window_s` open its circuit: nothing of it is
    redriven for `circuit_s`. Letters older than `act_within_s` are left to people; it must stay
    well below the engine's `retain_finished_s`, within which a repeated redrive is the same job.
    """

    rules: tuple[EdgeRule, ...] = ()
    burst_letters: Annotated[int, Field(ge=2)] = 20
    burst_window_s: Seconds = 60.0
    circuit_s: Seconds = 900.0
    act_within_s: Annotated[float, Field(gt=0, le=43_200)] = 21_600.0

    @model_validator(mode="after")
    def _rules_can_act(self) -> Self:
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("two rules have one name: what is redriven names its rule")
        for rule in self.rules:
            if rule.delay_s >= self.act_within_s:
                raise ValueError(f"rule {rule.name}: delay_s must be below act_within_s")
        return self


class FollowerSettings(_Room, room="follower"):
    """A process that folds without owning: it answers questions on loopback, between our own."""

    host: Literal["127.0.0.1", "::1", "localhost"] = "127.0.0.1"
    port: Port = 8081


class ProjectionSettings(_Room, room="projection"):
    """The views' loops: how much goes into one transaction or script call at the most."""

    batch_max_records: Count = 500
    batch_max_bytes: Count = 16 * 1024 * 1024
    retry_for_s: Seconds = 60.0


ROOMS: tuple[type[_Room], ...] = (
    StackSettings,
    KafkaSettings,
    PostgresSettings,
    RedisSettings,
    EngineSettings,
    AgentSettings,
    AdmissionSettings,
    ApiSettings,
    EdgeSettings,
    FollowerSettings,
    MetricsSettings,
    ProjectionSettings,
)

S = TypeVar("S", bound=_Room)


def load(cls: type[S]) -> S:
    """The settings of one room. Raises `SettingsError`; the message names the key and the remedy."""
    _refuse_unread_variables()
    for path in (config_path(), running_path()):
        _refuse_unread_tables(path)
    try:
        return cls()
    except ValidationError as error:
        raise SettingsError(_explain(cls, error)) from error


def environment(*settings: _Room) -> dict[str, str]:
    """The variables that make another process load exactly these settings."""
    made: dict[str, str] = {}
    for one in settings:
        for key, value in one.model_dump(mode="json").items():
            if value is None:
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            made[_variable(one.room, key)] = text
    return made


def _refuse_unread_tables(path: Path) -> None:
    known = {room.room: room for room in ROOMS}
    for name, table in read_file(path).items():
        if name not in known:
            raise SettingsError(
                f"{path}: there is no room [{name}]; rooms are {', '.join(sorted(known))}"
            )
        for key in table if isinstance(table, dict) else ():
            _refuse_unknown_key(known[name], key, f"{path}: [{name}] {key}")


def _refuse_unread_variables() -> None:
    known = {room.room.upper(): room for room in ROOMS}
    for variable in sorted(os.environ):
        head, _, rest = variable.partition("_")
        name, _, key = rest.partition("_")
        if head != "FOLDLINE" or name in NO_ROOMS:
            continue
        if name not in known:
            raise SettingsError(
                f"{variable}: there is no room {name}; rooms are {', '.join(sorted(known))}"
            )
        _refuse_unknown_key(known[name], key.lower(), variable)


def _refuse_unknown_key(room: type[_Room], key: str, where: str) -> None:
    reason = REFUSED.get(f"{room.room}.{key}")
    if reason:
        raise SettingsError(f"{where} is refused: {reason}")
    if key not in room.model_fields:
        raise SettingsError(
            f"{where}: nothing reads it; [{room.room}] has {', '.join(room.model_fields)}"
        )


def _explain(cls: type[_Room], error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        key = ".".join(map(str, problem["loc"]))
        name = f"{_variable(cls.room, key)} ([{cls.room}] {key})" if key else f"[{cls.room}]"
        lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)


def _variable(room: str, key: str) -> str:
    return f"FOLDLINE_{room}_{key}".upper()
