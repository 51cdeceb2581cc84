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
from ingest.submit import UNSET
from projections.answers import JobAnswer
from projections.job_answers import JobFacts, JobHistory, job_answer
from projections.pipeline import ViewUnavailable
from projections.queries import Queries
from projections.read_ports import Pending
from projections.reads import ViewReads
from schemas.digest import JobRow
from schemas.terms import FailureClass, JobState
from stream_processors.domain.admission import DEFAULT_PRIORITY
from stream_processors.domain.defaults import fill

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
        return None if row is None else KnownJob(row["pool"], row["state"], bytes(row["spec_hash"]))

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
        terms = fill(command.terms)
        row = JobRow(
            job_id=job_id,
            shard=job.place.shard,
            job_no=0,
            tenant=terms.tenant,
            pool=terms.pool,
            queue=terms.queue,
            state=JobState.PENDING.value,
            priority=DEFAULT_PRIORITY if command.priority == UNSET else command.priority,
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
        history = JobHistory(
            actor=command.actor,
            causation_id=command.causation_id,
            redrives=command.redrives or None,
        )
        return job.place, job_answer(facts, terms, command.spec, history)

    return find
