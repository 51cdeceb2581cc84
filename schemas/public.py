"""What other systems read: one record per fact, derived from the log by the relay.

Event ids (`ce_id`) are `shard:offset:index`, so a restarted or doubled relay can only repeat
identical ones. These classes change only so that old and new readers both keep working.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.terms import UNSAID, FailureClass, JobState, JobTerms, Micros, RecordHeader


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
    causation_id: str = ""


@dataclass(frozen=True, slots=True)
class JobRetry:
    """An attempt failed and another is due, on `foldline.jobs.retry.v1`.

    `log_tail` is what the task that failed wrote last. Attempts of one `fingerprint` look alike.
    """

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
    log_tail: str = ""
    fingerprint: str = ""
    job_type: str = ""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """One attempt that ended without success; `nodes` are those of its tasks."""

    attempt: int
    ended_at: Micros
    failure: FailureClass
    message: str
    exit_code: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that ended in the dead letters, on `foldline.jobs.dlq.v1`, with all to redrive it.

    `history` is of its last attempts, oldest first; `log_tail` what the last one's failed task
    wrote last. Letters of one `fingerprint` look alike. `redrives` is the job whose dead letter
    this job ran again, or "".
    """

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
    fingerprint: str = ""
    log_tail: str = ""
    history: tuple[FailedAttempt, ...] = ()
    job_type: str = ""
    priority: int = 0
    terms: JobTerms = UNSAID
    causation_id: str = ""
    redrives: str = ""


@dataclass(frozen=True, slots=True)
class ParkedInput:
    """An input that could not be read, on `foldline.jobs.dlq.v1`, keyed by `letter_id`.

    `letter_id` is `shard:input:offset`. `value` holds the first bytes of `size`; `sha256` is of
    all of them. `code` is a stable word, `message` says what to do.
    """

    letter_id: str
    topic: str
    partition: int
    offset: int
    at: Micros
    code: str
    message: str
    key: bytes
    headers: tuple[RecordHeader, ...]
    size: int
    sha256: bytes
    value: bytes


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
