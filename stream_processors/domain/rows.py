"""Jobs of the fold as the rows that every view holds (`schemas.digest`)."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.digest import JobRow, digest
from schemas.ids import format_job_id
from schemas.terms import ENDED_STATES
from stream_processors.domain.state import Job, State


def job_row(shard: int, job: Job) -> JobRow:
    """The row of one job."""
    return JobRow(
        job_id=format_job_id(job.job_id),
        shard=shard,
        job_no=job.no,
        tenant=job.terms.tenant,
        pool=job.terms.pool,
        queue=job.terms.queue,
        state=job.state.value,
        priority=job.priority,
        attempt=job.attempt,
        retries_used=job.retries_used,
        submitted_at=job.submitted_at,
        due_at=job.due_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        failure=job.failure.value,
        message=job.message,
    )


def live_rows(state: State) -> Iterator[JobRow]:
    """Rows of the jobs that have not ended: what the hot view holds."""
    for job in state.jobs.values():
        if job.state not in ENDED_STATES:
            yield job_row(state.shard, job)


def all_jobs_digest(state: State) -> int:
    """The digest of every job the shard ever had, forgotten ones included."""
    rows = (job_row(state.shard, job) for job in state.jobs.values())
    return digest(rows, int.from_bytes(state.forgotten_digest, "big"))
