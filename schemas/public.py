"""What other systems read: one record per fact, derived from the log by the relay.

Event ids (`ce_id`) are `shard:offset:index`, so a restarted or doubled relay can only repeat
identical ones. These classes change only so that old and new readers both keep working.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.terms import FailureClass, JobState, Micros


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One change of one job's state, on `foldline.jobs.events.v1`. `nodes` is set when scheduled."""

    job_id: str
    tenant: str
    cluster: str
    queue: str
    job_type: str
    state: JobState
    attempt: int
    at: Micros
    failure: FailureClass
    message: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobRetry:
    """An attempt failed and another is due, on `foldline.jobs.retry.v1`."""

    job_id: str
    tenant: str
    cluster: str
    queue: str
    failed_attempt: int
    at: Micros
    due_at: Micros
    retries_left: int
    failure: FailureClass
    message: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that ended in the dead letters, on `foldline.jobs.dlq.v1`, with all to redrive it."""

    job_id: str
    tenant: str
    cluster: str
    queue: str
    attempts: int
    at: Micros
    failure: FailureClass
    message: str
    nodes: tuple[str, ...]
    key_id: int
    spec_schema_id: int
    spec: bytes


@dataclass(frozen=True, slots=True)
class LogLines:
    """Lines that a task wrote, on `foldline.attempts.logs.v1`, keyed by job id.

    `first_line` counts the task's lines from 0, so that gaps and repeats show. `dropped` lines
    were left out before these because the task wrote faster or more than it may.
    """

    job_id: str
    attempt: int
    task: int
    node: str
    stream: str
    first_line: int
    dropped: int
    at: Micros
    lines: list[str]
