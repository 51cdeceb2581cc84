"""What the routes that write need from outside: where commands go, and what is known of jobs.

Protocols and plain values only. The adapter for Kafka is `kafka_sink.py`; what is known of jobs is
read from the views by whoever composes the service (`foldline/api.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from infra.http.letters import LetterFilters
from infra.http.tokens import CommandPlace
from schemas.headers import Headers
from schemas.terms import JobTerms


class CommandNotAcknowledged(Exception):
    """Kafka did not acknowledge in time. The command may still arrive: the outcome is unknown."""


class SinkOverloaded(Exception):
    """Too many commands wait for Kafka's acknowledgement; this one was not sent."""


class KnowledgeUnavailable(Exception):
    """The views cannot be asked now."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One encoded command on its way to partition `shard`; `key` is its pool."""

    shard: int
    key: str
    value: bytes
    headers: Headers


class CommandSink(Protocol):
    """Where commands go."""

    @property
    def shards(self) -> int:
        """How many shards (partitions of commands) the installation has."""

    async def put(self, command: Outgoing) -> CommandPlace:
        """Answers where the command lies once Kafka has acknowledged it.

        Raises `CommandNotAcknowledged` or `SinkOverloaded`.
        """


@dataclass(frozen=True, slots=True)
class KnownJob:
    """What a view says of a job. `content` is the fold's hash of its submission, b"" if unknown."""

    pool: str
    status: str
    content: bytes


class KnownJobs(Protocol):
    """What the views know of jobs."""

    async def find(self, job_id: str) -> KnownJob | None:
        """The job, or None where no view has it (yet). Raises `KnowledgeUnavailable`."""

    async def wait_for(self, position: str) -> None:
        """Wait, bounded, until the views have consumed this position; raises an `ApiError`."""


@dataclass(frozen=True, slots=True)
class JobLetter:
    """What of a job's dead letter runs again; `terms` are those of its last attempt."""

    terms: JobTerms
    priority: int
    key_id: int
    spec_schema_id: int
    spec: bytes


@dataclass(frozen=True, slots=True)
class InputLetter:
    """An input that nobody could read, as it came. `value` is whole where it has `size` bytes."""

    input: str
    key: bytes
    headers: Headers
    size: int
    value: bytes


@dataclass(frozen=True, slots=True)
class KnownLetter:
    """A dead letter. `at` is when it was laid aside (UTC microseconds)."""

    letter_id: str
    shard: int
    at: int
    what: JobLetter | InputLetter


@dataclass(frozen=True, slots=True)
class LetterBatch:
    """Letters that a filter chooses, how many remain behind them, and where to go on."""

    letters: list[KnownLetter]
    remaining: int = 0
    next_cursor: str | None = None


class KnownLetters(Protocol):
    """What the views know of dead letters. Every method raises `KnowledgeUnavailable`."""

    async def find(self, ids: Sequence[str]) -> list[KnownLetter]:
        """These letters, as far as they are known."""

    async def choose(self, filters: LetterFilters, cursor: str | None, limit: int) -> LetterBatch:
        """At most `limit` letters that the filter chooses, the newest first."""


@dataclass(frozen=True, slots=True)
class Overload:
    """Why nothing more is taken on now. `is_tenants` where it is the tenant's share that is used."""

    is_tenants: bool
    message: str


class Admission(Protocol):
    """Whether a shard takes on more; a guess ahead of the fold, which is the judge."""

    async def overload(self, shard: int, tenant: str) -> Overload | None:
        """Why not, if it does not; None too where nobody can tell."""
