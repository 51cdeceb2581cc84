"""A job's past as the API shows it: attempts with their tasks, dependencies, the spec. Pure.

Made from rows of `queries.py`; `job_answers.py` puts them together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from projections.answers import AttemptAnswer, DependencyAnswer, TaskAnswer
from projections.job_answers import failure_word
from projections.queries import Row
from schemas.codec import MalformedRecord, UnknownSchema, decode_spec
from schemas.terms import Condition, JobSpec


def attempts_of(attempts: Sequence[Row], tasks: Sequence[Row]) -> tuple[AttemptAnswer, ...]:
    """Attempts, the first one first, each with those of its tasks that were read."""
    by_attempt: dict[int, list[TaskAnswer]] = defaultdict(list)
    for row in tasks:
        by_attempt[row["attempt"]].append(_task(row))
    return tuple(
        AttemptAnswer(
            number=row["attempt"],
            placed_at=row["placed_at"],
            started_at=row["started_at"],
            ended_at=row["ended_at"],
            failure=failure_word(row["failure"]),
            message=row["message"],
            fingerprint=row["fingerprint"],
            tasks=by_attempt[row["attempt"]],
        )
        for row in reversed(attempts)
    )


def dependencies_of(rows: Sequence[Row]) -> tuple[DependencyAnswer, ...]:
    """The jobs that this one waited for when it was submitted."""
    return tuple(
        DependencyAnswer(
            job_id=str(row["needs_id"]),
            condition=(Condition.SUCCEEDED if row["must_succeed"] else Condition.ENDED).value,
        )
        for row in rows
    )


def spec_of_row(row: Row) -> JobSpec | None:
    """The spec in a job's row; None where it is encrypted, or not what its sender said it is."""
    if row["key_id"]:
        return None
    try:
        return decode_spec(row["spec_schema_id"], bytes(row["spec"]))
    except (MalformedRecord, UnknownSchema):
        return None


def _task(row: Row) -> TaskAnswer:
    return TaskAnswer(
        task=row["task"],
        node=row["node"],
        incarnation=row["incarnation"],
        devices=list(row["devices"]),
        placed_at=row["placed_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        exit_code=row["exit_code"],
        failure=failure_word(row["failure"]),
        message=row["message"],
        log_tail=row["log_tail"],
    )
