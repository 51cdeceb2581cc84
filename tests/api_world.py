"""Doubles behind the API's ports, and the real application over them, for tests of its answers.

`api_world` gives a `World`: a client that asks in this process, and every double to set and look at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from foldline.api import build_app, hold
from foldline.known_jobs import pending_jobs
from infra.http.app import Application
from infra.http.letters import LetterFilters
from infra.http.tokens import CommandPlace
from infra.http.waiting import Consumed
from ingest.app import Ingest
from ingest.ports import (
    KnowledgeUnavailable,
    KnownJob,
    KnownLetter,
    LetterBatch,
    Outgoing,
    Overload,
)
from projections.answers import (
    CheckAnswer,
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
from projections.app import ReadSide
from projections.dlq.answers import (
    LetterAnswer,
    LetterGroups,
    LetterList,
    letter_answer,
    letter_summary,
)
from projections.dlq.queries import LetterPage
from projections.pipeline import ViewUnavailable
from projections.queries import Page, Seen
from projections.read_ports import (
    FollowerUnavailable,
    ForeignAnswer,
    IsOver,
    LogLine,
    LogQuestion,
    LogsBusy,
    LogStream,
    ViewName,
)

JOBS = "/api/v1/jobs/"
BODY = {"command": ["true"]}
SHARDS = 4


@dataclass
class Sink:
    """Keeps what was sent; `failures` are raised by the next puts."""

    shards: int = SHARDS
    sent: list[Outgoing] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    async def put(self, command: Outgoing) -> CommandPlace:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append(command)
        return CommandPlace(command.shard, len(self.sent) - 1)


@dataclass
class Known:
    """Jobs that the views know."""

    jobs: dict[str, KnownJob] = field(default_factory=dict)
    is_down: bool = False

    async def find(self, job_id: str) -> KnownJob | None:
        if self.is_down:
            raise KnowledgeUnavailable("nobody answers")
        return self.jobs.get(job_id)

    async def wait_for(self, position: str) -> None:
        del position


@dataclass
class Letters:
    """Dead letters that the views know, for the half that deals with them."""

    letters: list[KnownLetter] = field(default_factory=list)
    asked: list[tuple[LetterFilters, str | None, int]] = field(default_factory=list)
    is_down: bool = False

    async def find(self, ids: Sequence[str]) -> list[KnownLetter]:
        if self.is_down:
            raise KnowledgeUnavailable("PostgreSQL: nobody answers")
        return [letter for letter in self.letters if letter.letter_id in ids]

    async def choose(self, filters: LetterFilters, cursor: str | None, limit: int) -> LetterBatch:
        if self.is_down:
            raise KnowledgeUnavailable("PostgreSQL: nobody answers")
        self.asked.append((filters, cursor, limit))
        rest = self.letters[int(cursor.split(".")[0]) if cursor else 0 :]
        more = len(rest) > limit
        place = len(self.letters) - len(rest) + limit
        return LetterBatch(rest[:limit], len(rest[limit:]), f"{place}.0.x" if more else None)


@dataclass
class Limits:
    """Takes everything, unless a test says why not."""

    overloads: list[Overload | None] = field(default_factory=list)

    async def overload(self, shard: int, tenant: str) -> Overload | None:
        del shard, tenant
        return self.overloads.pop(0) if self.overloads else None


@dataclass
class LetterViews:
    """Letters as they are read; `rows` as the audit view has them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    pages: list[LetterPage] = field(default_factory=list)

    async def page(self, page: LetterPage) -> Seen[LetterList]:
        self.pages.append(page)
        shown = [letter_summary(row) for row in self.rows]
        return Seen(LetterList(letters=shown, next_cursor=None), {})

    async def groups(self, filters: LetterFilters) -> Seen[LetterGroups]:
        del filters
        return Seen(LetterGroups(groups=[]), {})

    async def letter(self, letter_id: str) -> Seen[LetterAnswer | None]:
        found = [row for row in self.rows if row["letter_id"] == letter_id]
        return Seen(letter_answer(found[0]) if found else None, {})


@dataclass
class Views:
    """Views that hold nothing but what a test puts in."""

    behind: int = 0
    is_down: bool = False
    commands: dict[str, CommandAnswer] = field(default_factory=dict)
    pages: list[Page] = field(default_factory=list)

    async def consumed(self, view: ViewName) -> Consumed:
        del view
        if self.is_down:
            raise ViewUnavailable("PostgreSQL: nobody answers")
        return dict.fromkeys(range(SHARDS), self.behind)

    async def job(self, job_id: str) -> Seen[JobAnswer | None]:
        del job_id
        return Seen(None, await self.consumed("audit"))

    async def jobs(self, page: Page) -> Seen[JobList]:
        self.pages.append(page)
        return Seen(JobList(jobs=[], next_cursor=None), await self.consumed("audit"))

    async def command(self, place: CommandPlace) -> Seen[CommandAnswer | None]:
        return Seen(self.commands.get(str(place)), await self.consumed("audit"))

    async def queues(self) -> Seen[QueueList]:
        return Seen(QueueList(queues=[]), await self.consumed("hot"))

    async def queue(self, cluster: str, name: str) -> Seen[QueueAnswer | None]:
        del cluster, name
        return Seen(None, await self.consumed("hot"))

    async def clusters(self) -> Seen[ClusterList]:
        return Seen(ClusterList(clusters=[]), await self.consumed("hot"))

    async def cluster(self, name: str) -> Seen[ClusterAnswer | None]:
        del name
        return Seen(None, await self.consumed("hot"))

    async def metrics(self) -> Seen[MetricsAnswer]:
        raise RuntimeError("a fault with a secret in it")


@dataclass
class Logs:
    """Gives the same lines for every question."""

    lines: list[LogLine] = field(default_factory=list)
    asked: list[LogQuestion] = field(default_factory=list)
    is_busy: bool = False

    async def open(self, question: LogQuestion, is_over: IsOver) -> LogStream:
        del is_over
        if self.is_busy:
            raise LogsBusy("16 callers read logs already")
        self.asked.append(question)
        return self._stream()

    async def _stream(self) -> AsyncIterator[LogLine | None]:
        for line in self.lines:
            yield line
        yield None


@dataclass
class Follower:
    """Answers what it is given, or nothing."""

    answer: ForeignAnswer | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    async def explain(
        self, job_id: str, min_position: str | None, request_id: str
    ) -> ForeignAnswer:
        del request_id
        self.asked.append((job_id, min_position))
        if self.answer is None:
            raise FollowerUnavailable("connection refused")
        return self.answer


@dataclass
class Checks:
    """Health as a test says."""

    is_well: bool = True

    async def ready(self) -> HealthAnswer:
        check = CheckAnswer(name="kafka", ok=self.is_well, detail="as the test says")
        return HealthAnswer(status="ok" if self.is_well else "degraded", checks=[check])


@dataclass
class Client:
    """Asks the application in this process, on an event loop in a thread of its own."""

    portal: BlockingPortal
    http: httpx.AsyncClient

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.portal.call(partial(self.http.request, method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        return self.request("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", path, **options)


@dataclass
class World:
    """The application and its doubles."""

    client: Client
    ingest: Ingest
    sink: Sink
    known: Known
    views: Views
    logs: Logs
    follower: Follower
    checks: Checks
    letters: Letters
    limits: Limits
    letter_views: LetterViews


@cache
def application() -> Application:
    """One for all tests: making it takes a second."""
    return build_app()


@contextmanager
def api_world() -> Iterator[World]:
    """The application over fresh doubles."""
    app = application()
    sink, known, views, logs = Sink(), Known(), Views(), Logs()
    follower, checks = Follower(), Checks()
    letters, limits, letter_views = Letters(), Limits(), LetterViews()
    ingest = Ingest(sink, known, letters, limits)
    side = ReadSide(
        reads=views,
        letters=letter_views,
        pending=pending_jobs(ingest.recent),
        logs=logs,
        explainer=follower,
        health=checks,
        shards=SHARDS,
        wait_s=0.05,
        page_limit_max=50,
    )
    hold(app, ingest, side)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    http = httpx.AsyncClient(transport=transport, base_url="http://foldline")
    with start_blocking_portal() as portal:
        client = Client(portal, http)
        yield World(
            client=client,
            ingest=ingest,
            sink=sink,
            known=known,
            views=views,
            logs=logs,
            follower=follower,
            checks=checks,
            letters=letters,
            limits=limits,
            letter_views=letter_views,
        )
        portal.call(http.aclose)


def error_of(answer: Any, status: int) -> dict[str, Any]:
    """The error in an answer that must have this status and our shape."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"code", "message", "details", "request_id"}
    assert all(set(detail) == {"field", "message"} for detail in error["details"])
    assert error["message"]
    assert answer.headers["X-Request-Id"] == error["request_id"]
    return error


def submitted(world: World, key: str = "", **changes: Any) -> Any:
    """The answer to a submission."""
    headers = {"Idempotency-Key": key} if key else {}
    return world.client.post(JOBS, json={**BODY, **changes}, headers=headers)
