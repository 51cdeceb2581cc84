"""Dead letters as the API shows them. Pydantic models, and pure functions that fill them from rows.

Rows are those of `queries.py`. Times are RFC 3339 in UTC; bytes of inputs that nobody could read
are base64.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from projections.answers import (
    DeadLetterDepth,
    FingerprintDepth,
    ResourcesAnswer,
    RetryPolicyAnswer,
)
from projections.job_answers import JOBS_URL, failure_word, micros, moment, resources, terms_of_json
from projections.job_history import spec_of_row
from projections.policy_answers import retry_policy
from projections.queries import Row
from projections.relay_facts import INPUT_TOPICS

DLQ_URL = "/api/v1/dlq"
DEPTH_GROUPS = 10


class LetterSummary(BaseModel):
    """A dead letter in a list."""

    id: str = Field(description="The job's id, or shard:input:offset of an input")
    kind: str = Field(description="job, or input: one that nobody could read")
    state: str = Field(description="open, redriven or purged")
    at: datetime = Field(description="When it was laid aside")
    failure: str | None = Field(description="Class of the last failure")
    fingerprint: str = Field(description="Letters that look alike have the same")
    message: str
    attempts: int
    tenant: str
    cluster: str
    queue: str
    job_type: str
    name: str
    redriven_by: str | None = Field(description="The last job that ran it again")
    redriven_at: datetime | None
    purged_at: datetime | None
    purged_by: str
    purge_reason: str
    url: str
    job_url: str | None


class FailedAttemptAnswer(BaseModel):
    """One attempt that ended without success."""

    attempt: int
    ended_at: datetime | None
    failure: str | None
    message: str
    exit_code: int
    nodes: list[str]
    log_tail: str


class HeaderAnswer(BaseModel):
    """One header of an input."""

    name: str
    value_base64: str


class InputAnswer(BaseModel):
    """An input that nobody could read, as it came."""

    topic: str
    partition: int
    offset: int
    code: str = Field(description="What is wrong with it: a stable word")
    taken_at: datetime | None = Field(description="When the broker took it")
    size: int = Field(description="Of the value; more than is kept where that is shorter")
    sha256: str = Field(description="Of the whole value, in hex")
    key_base64: str
    headers: list[HeaderAnswer]
    value_base64: str


class LetterAnswer(LetterSummary):
    """A dead letter with all that is known of it."""

    log_tail: str = Field(description="What the failed task of the last attempt wrote last")
    history: list[FailedAttemptAnswer] = Field(description="Its last attempts, the first one first")
    tasks: int
    priority: int | None
    resources: ResourcesAnswer | None = Field(description="What each task of the last attempt had")
    timeout_seconds: int | None
    retry_policy: RetryPolicyAnswer | None
    image: str
    command: list[str]
    causation_id: str
    redrives: str | None = Field(description="The job whose letter this one ran again")
    input: InputAnswer | None


class LetterList(BaseModel):
    """A page of dead letters, the newest first."""

    letters: list[LetterSummary]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page")


class LetterGroup(BaseModel):
    """Letters that look alike."""

    fingerprint: str
    failure: str | None
    letters: int
    first_at: datetime
    last_at: datetime
    latest_id: str
    message: str = Field(description="Of the latest one")


class LetterGroups(BaseModel):
    """Dead letters by what they look like, the most frequent first; bounded."""

    groups: list[LetterGroup]


def letter_summary(row: Row) -> LetterSummary:
    """A letter in a list."""
    return LetterSummary(**_summary(row))


def letter_answer(row: Row) -> LetterAnswer:
    """A letter in full."""
    terms = None if row["terms"] is None else terms_of_json(row["terms"])
    spec = None if row["spec"] is None else spec_of_row(row)
    return LetterAnswer(
        **_summary(row),
        log_tail=row["log_tail"],
        history=[_failed_attempt(one) for one in row["history"]],
        tasks=0 if terms is None else terms.tasks,
        priority=row["priority"],
        resources=None if terms is None else resources(terms),
        timeout_seconds=None if terms is None else terms.timeout_s,
        retry_policy=None if terms is None else retry_policy(terms),
        image="" if spec is None else spec.image,
        command=[] if spec is None else list(spec.command),
        causation_id=row["causation_id"] or "",
        redrives=_id(row["redrives"]),
        input=None if row["input"] is None else _input(row),
    )


def letter_group(row: Row) -> LetterGroup:
    """Letters that look alike."""
    return LetterGroup(**{**row, "failure": failure_word(row["failure"])})


def depth_answer(rows: list[Row], now: int) -> DeadLetterDepth:
    """How many letters are open and since when; `now` is UTC microseconds."""
    oldest = min((row["oldest_at"] for row in rows), default=None)
    return DeadLetterDepth(
        open=sum(row["letters"] for row in rows),
        oldest_at=oldest,
        oldest_age_seconds=None if oldest is None else max(now - micros(oldest), 0) / 1e6,
        by_fingerprint=[
            FingerprintDepth(
                fingerprint=row["fingerprint"], open=row["letters"], oldest_at=row["oldest_at"]
            )
            for row in rows[:DEPTH_GROUPS]
        ],
    )


def _summary(row: Row) -> dict[str, Any]:
    is_job = row["kind"] == "job"
    same = ("kind", "state", "at", "fingerprint", "message", "attempts", "tenant", "queue")
    more = ("job_type", "name", "redriven_at", "purged_at", "purged_by", "purge_reason")
    return {
        **{name: row[name] for name in (*same, *more)},
        "id": row["letter_id"],
        "cluster": row["pool"],
        "failure": failure_word(row["failure"]),
        "redriven_by": _id(row["redriven_by"]),
        "url": f"{DLQ_URL}/{row['letter_id']}",
        "job_url": f"{JOBS_URL}/{row['letter_id']}" if is_job else None,
    }


def _failed_attempt(one: dict[str, Any]) -> FailedAttemptAnswer:
    return FailedAttemptAnswer(
        attempt=one["attempt"],
        ended_at=moment(one["ended_at"]),
        failure=failure_word(one["failure"]),
        message=one["message"],
        exit_code=one["exit_code"],
        nodes=one["nodes"],
        log_tail=one["tail"],
    )


def _input(row: Row) -> InputAnswer:
    about = row["input"]
    return InputAnswer(
        topic=INPUT_TOPICS.get(about["input"], about["input"]),
        partition=row["shard"],
        offset=about["offset"],
        code=about["code"],
        taken_at=moment(about["taken_at"]),
        size=about["size"],
        sha256=bytes(row["sha256"]).hex(),
        key_base64=_base64(row["key"]),
        headers=[
            HeaderAnswer(name=name, value_base64=_base64(bytes.fromhex(value)))
            for name, value in row["headers"]
        ],
        value_base64=_base64(row["value"]),
    )


def _base64(value: bytes) -> str:
    return b64encode(bytes(value)).decode()


def _id(value: object) -> str | None:
    return None if value is None else str(value)
