"""What the two halves of the API tell each other of jobs: the writing half asks the views, the
reading half asks for submissions that are so fresh that no view has them.

Neither room imports the other; both are known here only. Reads the views, writes nothing.
"""

from __future__ import annotations

import asyncio

from infra.http.tokens import CommandPlace
from infra.http.waiting import until_reached, wanted_places
from ingest.ports import KnowledgeUnavailable, KnownJob
from ingest.recent import RecentJobs
from ingest.submit import stored_content, submission_of
from projections.answers import JobAnswer
from projections.job_answers import JobFacts, JobHistory, job_answer, terms_of_row
from projections.pipeline import ViewUnavailable
from projections.queries import Queries, Row
from projections.read_ports import Pending
from projections.reads import ViewReads
from schemas.commands import Submission
from schemas.digest import JobRow
from schemas.terms import DEFAULTS_VERSION, FailureClass, JobState

FIND_S = 1.0
"""A write does not need to know; it is only kinder to its caller."""


class ViewKnownJobs:
    """The `KnownJobs` of the writing half, on the audit view."""

    def __init__(self, queries: Queries, reads: ViewReads, shards: int, wait_s: float) -> None:
        """`wait_s` bounds the wait for a position."""
        self._shards = shards
        self._queries = queries
        self._reads = reads
        self._wait_s = wait_s

    async def find(self, job_id: str) -> KnownJob | None:
        """The job as the audit view has it. Raises `KnowledgeUnavailable`."""
        try:
            row = await asyncio.wait_for(self._queries.job_row(job_id), FIND_S)
        except (ViewUnavailable, TimeoutError) as error:
            raise KnowledgeUnavailable(str(error) or f"no answer within {FIND_S} s") from error
        return None if row is None else KnownJob(row["pool"], row["state"], _content(row))

    async def wait_for(self, position: str) -> None:
        """Wait, bounded, until the audit view has consumed this position."""
        wanted = wanted_places(position, self._shards)
        await until_reached(lambda: self._reads.consumed("audit"), wanted, self._wait_s)


def pending_jobs(recent: RecentJobs) -> Pending:
    """Fresh submissions as the reading half shows them."""

    def find(job_id: str) -> tuple[CommandPlace, JobAnswer] | None:
        job = recent.find(job_id)
        if job is None or job.place is None:
            return None
        command = job.prepared.command
        submission = submission_of(command)
        row = JobRow(
            job_id=job_id,
            shard=job.place.shard,
            job_no=0,
            tenant=submission.terms.tenant,
            pool=submission.terms.pool,
            queue=submission.terms.queue,
            state=JobState.PENDING.value,
            priority=submission.priority,
            attempt=0,
            retries_used=0,
            submitted_at=job.at,
            due_at=0,
            started_at=0,
            ended_at=0,
            failure=FailureClass.NONE.value,
            message="",
        )
        facts = JobFacts(row, command.spec.job_type, command.spec.name, None)
        history = JobHistory(actor=command.actor)
        return job.place, job_answer(facts, submission.terms, command.spec, history)

    return find


def _content(row: Row) -> bytes:
    """The content of the submission that this job came from; b"" where it cannot be told.

    A job that was filled with another release's defaults says nothing of a new submission.
    """
    if row["defaults_version"] != DEFAULTS_VERSION:
        return b""
    submission = Submission(
        terms=terms_of_row(row),
        idempotency_key="",
        priority=row["priority"],
        depends_on=(),
        key_id=row["key_id"],
        actor=row["actor"],
        spec_schema_id=row["spec_schema_id"],
        spec=bytes(row["spec"]),
    )
    return stored_content(submission)
