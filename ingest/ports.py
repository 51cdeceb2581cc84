"""What the routes that write need from outside: where commands go, and what is known of jobs.

Protocols and plain values only. The adapter for Kafka is `kafka_sink.py`; what is known of jobs is
read from the views by whoever composes the service (`foldline/api.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from infra.http.tokens import CommandPlace
from schemas.headers import Headers


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
    """What a view says of a job. `content` is its `submit.stored_content`, b"" if unknown."""

    pool: str
    status: str
    content: bytes


class KnownJobs(Protocol):
    """What the views know of jobs."""

    async def find(self, job_id: str) -> KnownJob | None:
        """The job, or None where no view has it (yet). Raises `KnowledgeUnavailable`."""

    async def wait_for(self, position: str) -> None:
        """Wait, bounded, until the views have consumed this position; raises an `ApiError`."""
