"""What the routes that read need: the views, logs, explanations and health, behind Protocols.

Adapters: `reads.py` (views), `job_logs.py` (Kafka), `explain_client.py` (a follower), `health.py`.
Each answer comes with how far its view had consumed commands.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from infra.http.letters import LetterFilters
from infra.http.tokens import CommandPlace
from infra.http.waiting import Consumed
from projections.answers import (
    ClusterAnswer,
    ClusterList,
    CommandAnswer,
    HealthAnswer,
    JobAnswer,
    JobList,
    MetricsAnswer,
    QueueAnswer,
    QueueList,
)
from projections.dlq.answers import LetterAnswer, LetterGroups, LetterList
from projections.dlq.queries import LetterPage
from projections.queries import Page, Seen

ViewName = Literal["audit", "hot"]

Pending = Callable[[str], tuple[CommandPlace, JobAnswer] | None]
"""Job id -> a submission that this process accepted lately, with its command's place."""


class LogsBusy(Exception):
    """As many callers read logs as this process lets."""


class LogsUnavailable(Exception):
    """The log topic cannot be read now."""


class FollowerUnavailable(Exception):
    """No follower answers."""


class Reads(Protocol):
    """The views. Every method raises `ViewUnavailable` where its view cannot be asked."""

    async def consumed(self, view: ViewName) -> Consumed:
        """How far a view has consumed commands."""

    async def job(self, job_id: str) -> Seen[JobAnswer | None]:
        """One job in full."""

    async def jobs(self, page: Page) -> Seen[JobList]:
        """A page of jobs."""

    async def command(self, place: CommandPlace) -> Seen[CommandAnswer | None]:
        """What became of a command; None where it is no command that the view knows of."""

    async def queues(self) -> Seen[QueueList]:
        """All queues."""

    async def queue(self, cluster: str, name: str) -> Seen[QueueAnswer | None]:
        """One queue with its last hour."""

    async def clusters(self) -> Seen[ClusterList]:
        """All clusters with their nodes."""

    async def cluster(self, name: str) -> Seen[ClusterAnswer | None]:
        """One cluster with its nodes."""

    async def metrics(self) -> Seen[MetricsAnswer]:
        """The installation in figures."""


class LetterReads(Protocol):
    """Dead letters. Every method raises `ViewUnavailable` where the view cannot be asked."""

    async def page(self, page: LetterPage) -> Seen[LetterList]:
        """A page of letters."""

    async def groups(self, filters: LetterFilters) -> Seen[LetterGroups]:
        """Letters by what they look like."""

    async def letter(self, letter_id: str) -> Seen[LetterAnswer | None]:
        """One letter in full."""


@dataclass(frozen=True, slots=True)
class LogQuestion:
    """Which lines: of one job, perhaps of one attempt or task, from and (0: no) until a moment.

    Times are UTC microseconds. With `follow`, lines are awaited until the job is over.
    """

    job_id: str
    since: int
    until: int = 0
    follow: bool = False
    attempt: int | None = None
    task: int | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a task. `number` counts the task's lines from 0; `stream` "" is a note of ours."""

    attempt: int
    task: int
    node: str
    stream: str
    number: int
    at: int
    text: str


LogStream = AsyncIterator[LogLine | None]
"""Lines in the order in which they arrived; one None where all that was there has been given."""


class IsOver(Protocol):
    """Whether a job will write nothing more."""

    async def __call__(self) -> bool:
        """Ask again."""


class JobLogs(Protocol):
    """The lines that tasks wrote."""

    async def open(self, question: LogQuestion, is_over: IsOver) -> LogStream:
        """The lines asked for. Raises `LogsBusy`, `LogsUnavailable`."""


class Explainer(Protocol):
    """Whoever can say why a job stands where it stands."""

    async def explain(
        self, job_id: str, min_position: str | None, request_id: str
    ) -> ForeignAnswer:
        """Its answer as it is, errors included. Raises `FollowerUnavailable`."""


class Health(Protocol):
    """Whether what the service needs is there."""

    async def ready(self) -> HealthAnswer:
        """Each dependency, checked now."""


@dataclass(frozen=True, slots=True)
class ForeignAnswer:
    """What another service of ours answered."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]
