"""Jobs as the API shows them, made from terms, spec and what a view says. Pure.

`JobFacts` is what changes; terms and spec are what was submitted. Rows come from `queries.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from projections.answers import (
    AttemptAnswer,
    DependencyAnswer,
    GangAnswer,
    JobAnswer,
    JobSummary,
    ResourcesAnswer,
)
from projections.policy_answers import retry_policy
from schemas.digest import JobRow
from schemas.terms import (
    Extra,
    FailureClass,
    JobSpec,
    JobTerms,
    Label,
    RetryRule,
    Topology,
)

JOBS_URL = "/api/v1/jobs"
CONFIG_DEPTH_MAX = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What a view says of a job beside its terms and spec."""

    row: JobRow
    job_type: str
    name: str
    worker_id: str | None


@dataclass(frozen=True, slots=True)
class JobHistory:
    """What only the audit view knows, and the live place in the order of service."""

    actor: str = ""
    causation_id: str = ""
    redrives: str | None = None
    queue_position: int | None = None
    depends_on: tuple[DependencyAnswer, ...] = ()
    attempts: tuple[AttemptAnswer, ...] = ()


def moment(micros: int) -> datetime | None:
    """A time of ours as the API shows it: None for 0, which is not yet."""
    return _EPOCH + timedelta(microseconds=micros) if micros else None


def micros(at: datetime | None) -> int:
    """The reverse of `moment`, exactly."""
    return (at - _EPOCH) // timedelta(microseconds=1) if at is not None else 0


def failure_word(failure: str) -> str | None:
    """A failure class as the API shows it: null where there was none."""
    return None if failure in ("", "none") else failure


def summary(facts: JobFacts) -> JobSummary:
    """A job in a list."""
    return JobSummary(**_summary(facts))


def job_answer(
    facts: JobFacts, terms: JobTerms, spec: JobSpec | None, history: JobHistory
) -> JobAnswer:
    """A job in full; `spec` is None where it cannot be read (encrypted, or malformed)."""
    shown = spec if spec is not None else JobSpec(job_type=facts.job_type, name=facts.name)
    return JobAnswer(
        **_summary(facts),
        queue_position=history.queue_position,
        tasks=terms.tasks,
        gang=_gang(terms),
        resources=resources(terms),
        gpu_models=list(terms.gpu_models),
        node_selector={label.name: label.value for label in terms.node_selector},
        timeout_seconds=terms.timeout_s,
        start_timeout_seconds=terms.start_timeout_s,
        grace_seconds=terms.grace_s,
        progress_timeout_seconds=max(terms.progress_timeout_s, 0),
        deadline_seconds=max(terms.deadline_s, 0),
        retry_policy=retry_policy(terms),
        image=shown.image,
        command=list(shown.command),
        env={variable.name: variable.value for variable in shown.env},
        config=readable_config(shown.config),
        labels={label.name: label.value for label in shown.labels},
        actor=history.actor,
        causation_id=history.causation_id,
        redrives=history.redrives,
        depends_on=list(history.depends_on),
        attempts=list(history.attempts),
        explain_url=f"{JOBS_URL}/{facts.row.job_id}/explain",
    )


def readable_config(text: str) -> Any:
    """The document in a spec; its text where it is no object that can be sent on as JSON.

    Other producers than our API may put any text there.
    """
    try:
        document = json.loads(text, parse_constant=_no_constant)
        if not isinstance(document, dict) or _depth(document) > CONFIG_DEPTH_MAX:
            return text
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return text
    return document


def resources(terms: JobTerms) -> ResourcesAnswer:
    """What each task asks for."""
    return ResourcesAnswer(
        cpu_milli=terms.cpu_milli,
        memory_mib=terms.memory_mib,
        gpu_milli=terms.gpu_milli,
        extras={extra.name: extra.amount for extra in terms.extras},
    )


def terms_of_json(document: Mapping[str, Any]) -> JobTerms:
    """Terms that the audit view keeps as one document: their fields by name."""
    return JobTerms(
        **{
            **document,
            "topology": Topology(document["topology"]),
            "extras": tuple(Extra(**value) for value in document["extras"]),
            "gpu_models": tuple(document["gpu_models"]),
            "node_selector": tuple(Label(**value) for value in document["node_selector"]),
            "retry_rules": tuple(retry_rule_of(value) for value in document["retry_rules"]),
        }
    )


def terms_of_row(row: Mapping[str, Any]) -> JobTerms:
    """The terms in a row of the audit view's jobs."""
    return JobTerms(
        tenant=row["tenant"],
        pool=row["pool"],
        queue=row["queue"],
        tasks=row["tasks"],
        min_members=row["min_members"],
        topology=Topology(row["topology"]),
        cpu_milli=row["cpu_milli"],
        memory_mib=row["memory_mib"],
        gpu_milli=row["gpu_milli"],
        extras=tuple(Extra(**value) for value in row["extras"]),
        gpu_models=tuple(row["gpu_models"]),
        node_selector=tuple(Label(**value) for value in row["node_selector"]),
        timeout_s=row["timeout_s"],
        start_timeout_s=row["start_timeout_s"],
        grace_s=row["grace_s"],
        max_retries=row["max_retries"],
        backoff_s=row["backoff_s"],
        backoff_multiplier_milli=row["backoff_multiplier_milli"],
        backoff_max_s=row["backoff_max_s"],
        progress_timeout_s=row["progress_timeout_s"],
        deadline_s=row["deadline_s"],
        memory_growth_milli=row["memory_growth_milli"],
        memory_max_mib=row["memory_max_mib"],
        retry_rules=tuple(retry_rule_of(value) for value in row["retry_rules"]),
    )


def retry_rule_of(value: Mapping[str, Any]) -> RetryRule:
    """A rule as the audit view keeps it."""
    return RetryRule(**{**value, "failure": FailureClass(value["failure"])})


def facts_of_row(row: Mapping[str, Any]) -> JobFacts:
    """What a row of the audit view's jobs says."""
    said = JobRow(
        job_id=str(row["job_id"]),
        shard=row["shard"],
        job_no=row["job_no"],
        tenant=row["tenant"],
        pool=row["pool"],
        queue=row["queue"],
        state=row["state"],
        priority=row["priority"],
        attempt=row["attempt"],
        retries_used=row["retries_used"],
        submitted_at=micros(row["submitted_at"]),
        due_at=micros(row["due_at"]),
        started_at=micros(row["started_at"]),
        ended_at=micros(row["ended_at"]),
        failure=row["failure"],
        message=row["message"],
    )
    return JobFacts(said, row["job_type"], row["name"], row["worker_id"])


def _summary(facts: JobFacts) -> dict[str, Any]:
    row = facts.row
    return {
        "id": row.job_id,
        "status": row.state,
        "job_type": facts.job_type,
        "name": facts.name,
        "cluster": row.pool,
        "queue": row.queue,
        "priority": row.priority,
        "attempt": row.attempt,
        "retry_count": row.retries_used,
        "worker_id": facts.worker_id,
        "submitted_at": moment(row.submitted_at),
        "started_at": moment(row.started_at),
        "ended_at": moment(row.ended_at),
        "due_at": moment(row.due_at),
        "failure": failure_word(row.failure),
        "message": row.message,
        "logs_url": f"{JOBS_URL}/{row.job_id}/logs",
    }


def _gang(terms: JobTerms) -> GangAnswer | None:
    if not terms.is_gang:
        return None
    return GangAnswer(min_members=terms.min_members, topology=terms.topology.value)


def _depth(document: object) -> int:
    deepest = 0
    pending: list[tuple[object, int]] = [(document, 1)]
    while pending:
        item, depth = pending.pop()
        deepest = max(deepest, depth)
        inside = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        pending.extend((entry, depth + 1) for entry in inside)
    return deepest


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
