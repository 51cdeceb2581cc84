"""The Python client: submit jobs and ask about them over the REST API.

    with Client() as foldline:
        sent = foldline.submit({"job_type": "training", "command": ["python", "-m", "train"]})
        job = foldline.wait(sent.id, timeout_s=600)

Answers are the models that the service makes them from (`ingest/answers.py`,
`projections/answers.py`); what a body may hold is said in `ingest/requests.py`. A submission without
an idempotency key gets one, so that it can be repeated safely when the service does not answer.
Raises `ApiUnreachable`, and `ApiError` as one of its three kinds. Never talks to Kafka.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from infra.http.errors import ErrorBody
from ingest.answers import CommandAccepted, JobAccepted
from ingest.dlq.answers import PurgeAnswer, RedriveAnswer
from projections.answers import (
    ClusterAnswer,
    ClusterList,
    CommandAnswer,
    JobAnswer,
    JobList,
    MetricsAnswer,
    QueueAnswer,
    QueueList,
)
from projections.dlq.answers import LetterAnswer, LetterGroups, LetterList
from schemas.terms import ENDED_STATES, JobState

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_S = 30.0
SUBMIT_TRIES = 3
RETRY_AFTER_MAX_S = 5.0
POLL_FIRST_S = 0.05
POLL_LAST_S = 1.0


class ReasonAnswer(BaseModel):
    """One thing that holds a job where it is: a stable word, and a sentence for people."""

    code: str
    message: str


class ExplainAnswer(BaseModel):
    """Why a job stands where it stands; `position` is its place in its cluster's order."""

    job_id: str
    status: str
    at: datetime | None = None
    position: int | None = None
    reasons: list[ReasonAnswer]


ENDED = frozenset(str(state) for state in ENDED_STATES | {JobState.REFUSED})
"""A job in one of these states never leaves it."""

Answer = TypeVar("Answer", bound=BaseModel)


class ApiUnreachable(Exception):
    """Nobody answers at the address, or the connection broke: it is unknown what was done."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"nothing answers at {url}: {reason}")
        self.url = url
        self.reason = reason


class ApiError(Exception):
    """The service answered with an error."""

    def __init__(self, status: int, error: ErrorBody, retry_after_s: float = 0.0) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error
        self.retry_after_s = retry_after_s


class NotFound(ApiError):
    """There is no such thing, or not yet (404)."""


class Refused(ApiError):
    """The request is wrong, or its subject's state does not allow it (400 to 499)."""


class Unavailable(ApiError):
    """The service cannot do it now (500 and above)."""


class WaitedTooLong(Exception):
    """The job did not end in the time that `wait` was given; it goes on."""


class Client:
    """A connection to one Foldline API. Use it as a context manager, or call `close`.

    `url` is where the API is, without `/api/v1`. `timeout_s` bounds every single request.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        base = f"{self.url}/api/v1"
        self._http = httpx.Client(base_url=base, timeout=timeout_s, transport=transport)

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def submit(self, body: Mapping[str, Any], *, idempotency_key: str = "") -> JobAccepted:
        """Submit a job. The same key with the same body is the same job, however often it is sent.

        Repeats itself, a few times, when the service cannot be reached or says 503.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        for _ in range(SUBMIT_TRIES - 1):
            try:
                return self._ask(JobAccepted, "POST", "/jobs/", json=dict(body), headers=headers)
            except ApiUnreachable:
                time.sleep(POLL_FIRST_S)
            except Unavailable as error:
                time.sleep(min(error.retry_after_s, RETRY_AFTER_MAX_S))
        return self._ask(JobAccepted, "POST", "/jobs/", json=dict(body), headers=headers)

    def job(self, job_id: str, *, min_position: str = "") -> JobAnswer:
        """One job, as it stands at `min_position` (a `position` from a write) or later."""
        return self._ask(JobAnswer, "GET", f"/jobs/{job_id}", params=_position(min_position))

    def jobs(self, **filters: str | int) -> JobList:
        """A page of jobs: `status`, `job_type`, `queue`, `priority_min`, `limit`, `cursor`, …"""
        return self._ask(JobList, "GET", "/jobs/", params=filters)

    def cancel(self, job_id: str, *, reason: str = "") -> CommandAccepted:
        """Ask for a job's end. Raises `Refused` when it has ended already."""
        params = {"reason": reason} if reason else {}
        return self._ask(CommandAccepted, "DELETE", f"/jobs/{job_id}", params=params)

    def explain(self, job_id: str, *, min_position: str = "") -> ExplainAnswer:
        """Why the job stands where it stands."""
        params = _position(min_position)
        return self._ask(ExplainAnswer, "GET", f"/jobs/{job_id}/explain", params=params)

    def logs(self, job_id: str, *, tail: int | None = None, timestamps: bool = False) -> str:
        """What the job's tasks have written so far, as text."""
        params = _log_params(tail, timestamps)
        return self._request("GET", f"/jobs/{job_id}/logs", params=params).text

    def follow_logs(
        self, job_id: str, *, tail: int | None = None, timestamps: bool = False
    ) -> Iterator[str]:
        """Lines as they are written, until the job has ended."""
        params = {**_log_params(tail, timestamps), "follow": "true"}
        timeout = httpx.Timeout(TIMEOUT_S, read=None)
        path = f"/jobs/{job_id}/logs"
        headers = {"Accept": "text/plain"}
        try:
            with self._http.stream(
                "GET", path, params=params, timeout=timeout, headers=headers
            ) as answer:
                if answer.is_error:
                    answer.read()
                    raise _failure(answer)
                yield from answer.iter_lines()
        except httpx.TransportError as error:
            raise ApiUnreachable(self.url, str(error)) from error

    def queues(self) -> QueueList:
        """All queues with their depths."""
        return self._ask(QueueList, "GET", "/queues/")

    def queue(self, name: str, **where: str) -> QueueAnswer:
        """One queue with the statistics of its last hour (`cluster` if not the default one)."""
        return self._ask(QueueAnswer, "GET", f"/queues/{name}", params=where)

    def put_queue(self, name: str, body: Mapping[str, Any]) -> CommandAccepted:
        """Create a queue or change it."""
        return self._ask(CommandAccepted, "PUT", f"/queues/{name}", json=dict(body))

    def clusters(self) -> ClusterList:
        """All clusters with their nodes."""
        return self._ask(ClusterList, "GET", "/clusters/")

    def cluster(self, name: str) -> ClusterAnswer:
        """One cluster with its nodes and what is free on them."""
        return self._ask(ClusterAnswer, "GET", f"/clusters/{name}")

    def put_cluster(self, name: str, body: Mapping[str, Any]) -> CommandAccepted:
        """Create a cluster or change it."""
        return self._ask(CommandAccepted, "PUT", f"/clusters/{name}", json=dict(body))

    def letters(self, **filters: Any) -> LetterList:
        """A page of dead letters: `fingerprint`, `failure`, `queue`, `state`, `since`, `cursor`, …"""
        return self._ask(LetterList, "GET", "/dlq/", params=filters)

    def letter_groups(self, **filters: Any) -> LetterGroups:
        """Dead letters by what they look like, the most frequent first."""
        return self._ask(LetterGroups, "GET", "/dlq/groups", params=filters)

    def letter(self, letter_id: str, *, min_position: str = "") -> LetterAnswer:
        """One dead letter in full."""
        params = _position(min_position)
        return self._ask(LetterAnswer, "GET", f"/dlq/{letter_id}", params=params)

    def redrive(self, body: Mapping[str, Any]) -> RedriveAnswer:
        """Run dead letters again: `ids` or `filter`, and `changes`. Follow `next_cursor`.

        Repeating it is safe: a letter with the same changes is the same job.
        """
        return self._ask(RedriveAnswer, "POST", "/dlq/redrive", json=dict(body))

    def purge(self, body: Mapping[str, Any]) -> PurgeAnswer:
        """Say of dead letters, by `ids` or `filter`, that they were dealt with."""
        return self._ask(PurgeAnswer, "POST", "/dlq/purge", json=dict(body))

    def metrics(self) -> MetricsAnswer:
        """The installation in figures."""
        return self._ask(MetricsAnswer, "GET", "/metrics/")

    def command(self, position: str) -> CommandAnswer:
        """What became of a command, by the `position` that its write answered."""
        return self._ask(CommandAnswer, "GET", f"/commands/{position}")

    def wait(self, job_id: str, *, timeout_s: float | None = None, position: str = "") -> JobAnswer:
        """The job once it has ended. Raises `WaitedTooLong` after `timeout_s` seconds.

        Give the `position` of its submission where the job may not be visible yet.
        """
        deadline = time.monotonic() + timeout_s if timeout_s is not None else None
        pause = POLL_FIRST_S
        while True:
            job = self.job(job_id, min_position=position)
            if job.status in ENDED:
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitedTooLong(f"job {job_id} is {job.status} after {timeout_s:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_LAST_S)

    def _ask(self, kind: type[Answer], method: str, path: str, **options: Any) -> Answer:
        answer = self._request(method, path, **options)
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError as error:
            detail = f"its answer is not one of Foldline's API: {error.errors()[0]['msg']}"
            raise ApiUnreachable(self.url, detail) from error

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise ApiUnreachable(self.url, str(error) or type(error).__name__) from error
        if not answer.is_success:
            raise _failure(answer)
        return answer


def _position(min_position: str) -> dict[str, str]:
    return {"min_position": min_position} if min_position else {}


def _log_params(tail: int | None, timestamps: bool) -> dict[str, str | int]:
    params: dict[str, str | int] = {} if tail is None else {"tail": tail}
    return {**params, "timestamps": "true"} if timestamps else params


def _failure(answer: httpx.Response) -> ApiError:
    status = answer.status_code
    kind = NotFound if status == 404 else Refused if status < 500 else Unavailable
    after = answer.headers.get("Retry-After", "")
    return kind(status, _error_body(answer), float(after) if after.isdecimal() else 0.0)


def _error_body(answer: httpx.Response) -> ErrorBody:
    try:
        return ErrorBody.model_validate(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        message = f"answered {answer.status_code} {answer.reason_phrase} in a form that is not ours"
        return ErrorBody(code="unexpected_answer", message=message, details=[], request_id="")
