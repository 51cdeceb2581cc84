"""The tables that the audit view writes, column by column; their SQL is in `migrations/audit/`.

Columns of fixed width come first, for `infra/copy_rows.py`; the order in the database is another.
`CHANGED_*` are temporary tables of the writer's connection, which `audit.py` makes.
"""

from __future__ import annotations

from infra.copy_rows import Kind, Table

TERM_NUMBERS = (
    "tasks",
    "min_members",
    "cpu_milli",
    "memory_mib",
    "gpu_milli",
    "timeout_s",
    "start_timeout_s",
    "grace_s",
    "max_retries",
    "backoff_s",
    "backoff_multiplier_milli",
    "backoff_max_s",
    "progress_timeout_s",
    "deadline_s",
    "memory_growth_milli",
    "memory_max_mib",
)
"""Columns of `jobs` that are fields of `JobTerms` of the same name."""

JOBS = Table(
    "jobs",
    (
        ("shard", Kind.INTEGER),
        ("job_no", Kind.BIGINT),
        ("job_id", Kind.UUID),
        ("command_offset", Kind.BIGINT),
        ("priority", Kind.BIGINT),
        ("attempt", Kind.INTEGER),
        ("retries_used", Kind.INTEGER),
        ("submitted_at", Kind.TIME),
        ("changed_at", Kind.TIME),
        ("key_id", Kind.BIGINT),
        ("spec_schema_id", Kind.BIGINT),
        ("defaults_version", Kind.INTEGER),
        *((name, Kind.BIGINT) for name in TERM_NUMBERS),
        ("tenant", Kind.WORD),
        ("pool", Kind.WORD),
        ("queue", Kind.WORD),
        ("topology", Kind.WORD),
        ("extras", Kind.JSON),
        ("gpu_models", Kind.JSON),
        ("node_selector", Kind.JSON),
        ("retry_rules", Kind.JSON),
        ("state", Kind.WORD),
        ("failure", Kind.WORD),
        ("due_at", Kind.TIME_OR_NULL),
        ("started_at", Kind.TIME_OR_NULL),
        ("ended_at", Kind.TIME_OR_NULL),
        ("message", Kind.TEXT),
        ("actor", Kind.TEXT),
        ("spec_hash", Kind.BYTES),
        ("causation_id", Kind.TEXT),
        ("redrives", Kind.UUID_OR_NULL),
        ("job_type", Kind.WORD),
        ("name", Kind.TEXT),
        ("spec", Kind.BYTES),
    ),
)
CHANGED_JOBS = Table(
    "changed_jobs",
    (
        ("shard", Kind.INTEGER),
        ("job_no", Kind.BIGINT),
        ("attempt", Kind.INTEGER),
        ("retries_used", Kind.INTEGER),
        ("changed_at", Kind.TIME),
        ("state", Kind.WORD),
        ("failure", Kind.WORD),
        ("due_at", Kind.TIME_OR_NULL),
        ("started_at", Kind.TIME_OR_NULL),
        ("ended_at", Kind.TIME_OR_NULL),
        ("message", Kind.TEXT),
    ),
)
DEPENDENCIES = Table(
    "dependencies",
    (
        ("shard", Kind.INTEGER),
        ("job_no", Kind.BIGINT),
        ("needs_no", Kind.BIGINT),
        ("must_succeed", Kind.BOOLEAN),
    ),
)
_ATTEMPT = (
    ("shard", Kind.INTEGER),
    ("job_no", Kind.BIGINT),
    ("attempt", Kind.INTEGER),
)
_ATTEMPT_LATER = (
    ("failure", Kind.WORD),
    ("started_at", Kind.TIME_OR_NULL),
    ("ended_at", Kind.TIME_OR_NULL),
    ("message", Kind.TEXT),
    ("fingerprint", Kind.TEXT),
)
ATTEMPTS = Table("attempts", (*_ATTEMPT, ("placed_at", Kind.TIME), *_ATTEMPT_LATER))
CHANGED_ATTEMPTS = Table("changed_attempts", (*_ATTEMPT, *_ATTEMPT_LATER))
_TASK_LATER = (
    ("failure", Kind.WORD),
    ("ready_at", Kind.TIME_OR_NULL),
    ("started_at", Kind.TIME_OR_NULL),
    ("ended_at", Kind.TIME_OR_NULL),
    ("exit_code", Kind.BIGINT_OR_NULL),
    ("message", Kind.TEXT),
    ("log_tail", Kind.TEXT),
)
TASKS = Table(
    "tasks",
    (
        *_ATTEMPT,
        ("task", Kind.INTEGER),
        ("node_no", Kind.BIGINT),
        ("placed_at", Kind.TIME),
        ("devices", Kind.SMALLINTS),
        *_TASK_LATER,
    ),
)
CHANGED_TASKS = Table("changed_tasks", (*_ATTEMPT, ("task", Kind.INTEGER), *_TASK_LATER))
EVENTS = Table(
    "events",
    (
        ("shard", Kind.INTEGER),
        ("log_offset", Kind.BIGINT),
        ("row_no", Kind.INTEGER),
        ("kind", Kind.SMALLINT),
        ("at", Kind.TIME),
        ("job_no", Kind.BIGINT),
        ("attempt", Kind.INTEGER),
        ("task", Kind.INTEGER),
        ("node_no", Kind.BIGINT),
        ("detail", Kind.JSON),
    ),
)
ANSWERS = Table(
    "answers",
    (
        ("shard", Kind.INTEGER),
        ("command_offset", Kind.BIGINT),
        ("row_no", Kind.INTEGER),
        ("at", Kind.TIME),
        ("outcome", Kind.WORD),
        ("code", Kind.WORD),
        ("job_no", Kind.BIGINT_OR_NULL),
        ("job_id", Kind.UUID_OR_NULL),
        ("message", Kind.TEXT),
    ),
)
DEAD_LETTERS = Table(
    "dead_letters",
    (
        ("shard", Kind.INTEGER),
        ("job_no", Kind.BIGINT),
        ("at", Kind.TIME),
        ("attempts", Kind.INTEGER),
        ("letter_id", Kind.TEXT),
        ("state", Kind.WORD),
        ("failure", Kind.WORD),
        ("fingerprint", Kind.TEXT),
        ("redriven_at", Kind.TIME_OR_NULL),
        ("redriven_by", Kind.UUID_OR_NULL),
        ("purged_at", Kind.TIME_OR_NULL),
        ("purged_by", Kind.TEXT),
        ("purge_reason", Kind.TEXT),
        ("tenant", Kind.WORD),
        ("pool", Kind.WORD),
        ("queue", Kind.WORD),
        ("job_type", Kind.WORD),
        ("name", Kind.TEXT),
        ("message", Kind.TEXT),
        ("log_tail", Kind.TEXT),
        ("history", Kind.JSON),
        ("terms", Kind.JSON),
        ("input", Kind.JSON),
        ("headers", Kind.JSON),
        ("sha256", Kind.BYTES),
        ("key", Kind.BYTES),
        ("value", Kind.BYTES),
    ),
)
