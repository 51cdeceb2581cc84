"""Open-loop load: one submission at a time at fixed moments, however slowly the last was answered.

A latency counts from the moment at which the submission was *due*, so that a stalled sender shows
in the figures instead of thinning the load ("coordinated omission"). Ways: straight to Kafka, as
any producer would, or through the REST API. Meant to run in a process of its own, so that sending
does not delay seeing; `time.monotonic()` is one clock for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus

from infra.kafka import Sender
from schemas import codec
from schemas.commands import SubmitJob
from schemas.ids import job_id, partition_of
from schemas.terms import DEFAULT_TERMS, JobSpec, JobTerms
from schemas.topics import COMMANDS

ANSWER_WITHIN_S = 30.0
TRIES = 2
"""The server may close a kept connection in the moment in which it is used again."""
CPU_MILLI = 1
MEMORY_MIB = 64
COMMAND = ("true",)
BODY = json.dumps(
    {
        "job_type": "bench",
        "command": list(COMMAND),
        "resources": {"cpu": f"{CPU_MILLI}m", "memory": f"{MEMORY_MIB}Mi"},
        "retry_policy": {"max_retries": 0},
    }
).encode()

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Load:
    """What is sent: `count` jobs, one every `1 / rate` s; when each was due and sent, by job id.

    Times are of `time.monotonic()`. `errors` counts what was answered instead of an acknowledgement.
    """

    prefix: str
    rate: float
    count: int
    shards: int
    due: dict[bytes, float] = field(default_factory=dict)
    acknowledged: dict[bytes, float] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)

    def schedule(self) -> Iterator[tuple[float, str, bytes]]:
        """The moment, idempotency key and job id of each submission."""
        start = time.monotonic() + 0.1
        shard = partition_of(DEFAULT_TERMS.pool, self.shards)
        for number in range(self.count):
            key = f"{self.prefix}-{number}"
            raw = job_id(shard, DEFAULT_TERMS.tenant, DEFAULT_TERMS.pool, key)
            moment = start + number / self.rate
            self.due[raw] = moment
            yield moment, key, raw

    def note(self, raw: bytes, error: str | None) -> None:
        """What became of a submission."""
        if error is None:
            self.acknowledged[raw] = time.monotonic()
        else:
            self.errors[error] += 1


def by_kafka(load: Load, bootstrap: str) -> Load:
    """Send every submission as a record of its own; answers the load when all were answered."""
    sender = Sender(bootstrap)
    terms = JobTerms(cpu_milli=CPU_MILLI, memory_mib=MEMORY_MIB, max_retries=0)
    spec = JobSpec(job_type="bench", command=COMMAND)
    try:
        for moment, key, raw in load.schedule():
            while (left := moment - time.monotonic()) > 0:
                sender.poll(left)
            value = codec.encode(SubmitJob(terms, key, 0, (), 0, "bench", spec))
            on_result = _noting(load, raw)
            sender.send(COMMANDS.name, value, key=DEFAULT_TERMS.pool, on_result=on_result)
        sender.flush(ANSWER_WITHIN_S)
    finally:
        sender.close()
    return load


def _noting(load: Load, raw: bytes) -> Callable[[int | None, str | None], None]:
    return lambda _offset, error: load.note(raw, error)


def by_rest(load: Load, url: str) -> Load:
    """Post every submission by itself; answers the load when all were answered."""
    asyncio.run(_post_all(load, url))
    return load


async def _post_all(load: Load, url: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    idle: list[Connection] = []

    async def post(key: str, raw: bytes) -> None:
        error = ""
        for _ in range(TRIES):
            try:
                connection = await _take(idle, host, int(port))
                status = await asyncio.wait_for(_post(connection, key), ANSWER_WITHIN_S)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as failure:
                error = str(failure) or type(failure).__name__
            else:
                idle.append(connection)
                return load.note(raw, None if status == HTTPStatus.CREATED else f"status {status}")
        return load.note(raw, error)

    async with asyncio.TaskGroup() as posts:
        for moment, key, raw in load.schedule():
            await asyncio.sleep(max(moment - time.monotonic(), 0))
            posts.create_task(post(key, raw))
    for _, writer in idle:
        writer.close()


async def _take(idle: list[Connection], host: str, port: int) -> Connection:
    """A kept connection that the server has not closed meanwhile, or a new one."""
    while idle:
        reader, writer = idle.pop()
        if not reader.at_eof():
            return reader, writer
        writer.close()
    return await asyncio.open_connection(host, port)


async def _post(connection: Connection, key: str) -> int:
    """One request over a kept connection, by hand: a client library costs as much as the server."""
    reader, writer = connection
    head = (
        "POST /api/v1/jobs/ HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: {key}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    writer.write(head.encode() + BODY)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = answer.partition("content-length:")[2].partition("\r\n")[0]
    await reader.readexactly(int(length))
    return int(answer.split(" ", 2)[1])
