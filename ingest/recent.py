"""The submissions that this process has accepted lately, until the views have them.

Bounded, in memory, disposable: it lets a caller read a job right after its submission and refuses
an idempotency key used twice at once. It decides nothing: the fold is the judge. Used on one event
loop only.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from infra.http.tokens import CommandPlace
from ingest.submit import Prepared
from schemas.terms import Micros

RECENT_MAX = 20_000
RECENT_MAX_BYTES = 64 * 1024 * 1024
"""Of encoded commands: a few with large documents must not fill the memory."""


@dataclass(frozen=True, slots=True)
class RecentJob:
    """One accepted submission. `place` is None while Kafka has not acknowledged it."""

    prepared: Prepared
    size: int
    place: CommandPlace | None = None
    at: Micros = Micros(0)


class RecentJobs:
    """The last submissions by job id, oldest forgotten first."""

    def __init__(self, most: int = RECENT_MAX, most_bytes: int = RECENT_MAX_BYTES) -> None:
        """Keeps at most `most`, and no more than `most_bytes` of encoded commands."""
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._jobs: OrderedDict[str, RecentJob] = OrderedDict()

    def find(self, job_id: str) -> RecentJob | None:
        """The submission, accepted or on its way."""
        return self._jobs.get(job_id)

    def begin(self, prepared: Prepared, size: int) -> None:
        """A submission of `size` bytes is on its way; one that is known stays as it is."""
        if prepared.job_id not in self._jobs:
            self._put(RecentJob(prepared, size))

    def accept(self, prepared: Prepared, size: int, place: CommandPlace, at: Micros) -> RecentJob:
        """Kafka has acknowledged it."""
        job = RecentJob(prepared, size, place, at)
        self._put(job)
        return job

    def abandon(self, job_id: str) -> None:
        """What became of it is unknown: the key may be tried again, with any content."""
        job = self._jobs.get(job_id)
        if job is not None and job.place is None:
            self._drop(job_id)

    def _put(self, job: RecentJob) -> None:
        self._drop(job.prepared.job_id)
        self._jobs[job.prepared.job_id] = job
        self._bytes += job.size
        while len(self._jobs) > self._most or self._bytes > self._most_bytes:
            self._drop(next(iter(self._jobs)))

    def _drop(self, job_id: str) -> None:
        job = self._jobs.pop(job_id, None)
        if job is not None:
            self._bytes -= job.size
