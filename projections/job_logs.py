"""The lines of a job's tasks, read from `foldline.attempts.logs.v1` while the caller waits.

A job's lines lie in one partition (murmur2 of its id), between those of others: reading starts at
the moment of its submission and ends, for an ended job, a little after its end. Bounded: a few
callers at once, a bounded time for lines that are there already. Repeated lines (an agent sends
again what was not acknowledged) are shown once, lines left out by the agent leave a note. Stores
nothing. The blocking reader is polled on a thread, never by two at once.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TypeVar

import structlog
from anyio import CancelScope, to_thread

from infra.kafka import KafkaUnavailable, Message, OffsetOutOfRange, Reader
from infra.telemetry import count
from projections.read_ports import (
    IsOver,
    LogLine,
    LogQuestion,
    LogsBusy,
    LogStream,
    LogsUnavailable,
)
from schemas.codec import MalformedRecord, UnknownSchema, decode
from schemas.ids import partition_of
from schemas.public import LogLines
from schemas.topics import TASK_LOGS

T = TypeVar("T")
READERS_MAX = 16
BACKLOG_MAX_S = 30.0
"""For so long a caller who does not follow may scan what is there."""
POLL_S = 0.25
POLL_RECORDS = 2_000
OVER_CHECK_S = 1.0
CLOCK_SLACK_US = 60_000_000
"""Lines carry the agents' clocks, moments of jobs the engine's."""

log = structlog.get_logger(__name__)


class KafkaJobLogs:
    """The `JobLogs` on Kafka."""

    def __init__(self, bootstrap: str) -> None:
        """Connects for each question anew."""
        self._bootstrap = bootstrap
        self._reading = 0
        self._is_stopping = False

    def stop(self) -> None:
        """Let every caller who follows come to an end, so that the process can."""
        self._is_stopping = True

    async def open(self, question: LogQuestion, is_over: IsOver) -> LogStream:
        """The lines asked for, in the order in which they arrived."""
        if self._reading >= READERS_MAX:
            raise LogsBusy(f"{READERS_MAX} callers read logs already")
        stretch = await to_thread.run_sync(_open, self._bootstrap, question)
        return self._lines(stretch, question, is_over)

    async def _lines(self, stretch: _Stretch, question: LogQuestion, is_over: IsOver) -> LogStream:
        sieve = _Sieve(question)
        pace = _Pace(question.follow, is_over)
        is_caught_up = False
        self._reading += 1
        try:
            while not stretch.is_done() or await pace.goes_on(stretch):
                if stretch.is_done() and not is_caught_up:
                    is_caught_up = True
                    yield None
                for record in await to_thread.run_sync(stretch.poll):
                    for line in sieve.lines(record):
                        yield line
                if self._is_stopping:
                    yield _note("this service is stopping; ask again")
                    return
                if pace.is_too_slow():
                    yield _note("the rest is left out: there is too much to read at once")
                    return
        except KafkaUnavailable as error:
            log.warning("reading log lines broke off", reason=str(error))
            yield _note("reading broke off; ask again")
        finally:
            self._reading -= 1
            with CancelScope(shield=True):
                await to_thread.run_sync(stretch.close)


class _Stretch:
    """The part of the partition to be read."""

    def __init__(self, reader: Reader, partition: int, stop: int) -> None:
        self._reader = reader
        self._partition = partition
        self._stop = stop

    def is_done(self) -> bool:
        return self._reader.position(TASK_LOGS.name, self._partition) >= self._stop

    def poll(self) -> list[Message]:
        try:
            return self._reader.poll(POLL_S, POLL_RECORDS)
        except OffsetOutOfRange:
            begin = self._reader.begin_offset(TASK_LOGS.name, self._partition)
            log.info("log lines were deleted before they were read", resumed_at=begin)
            self._reader.seek(TASK_LOGS.name, self._partition, begin)
            return []

    def extend(self) -> None:
        """Read on to what is there by now."""
        self._stop = self._reader.end_offset(TASK_LOGS.name, self._partition)

    def close(self) -> None:
        self._reader.close()


class _Pace:
    """When to go on: followers until the job is over and all was read, others for a bounded time."""

    def __init__(self, follow: bool, is_over: IsOver) -> None:
        self._follow = follow
        self._is_over = is_over
        self._began = monotonic()
        self._next_check = 0.0

    async def goes_on(self, stretch: _Stretch) -> bool:
        """Asked where everything known to be there was read."""
        if not self._follow:
            return False
        if monotonic() < self._next_check:
            return True
        over = await self._is_over()
        self._next_check = monotonic() + OVER_CHECK_S
        if not over:
            return True
        self._follow = False
        await to_thread.run_sync(stretch.extend)
        return not stretch.is_done()

    def is_too_slow(self) -> bool:
        return not self._follow and monotonic() - self._began > BACKLOG_MAX_S


class _Sieve:
    """Only lines that are asked for, each once."""

    def __init__(self, question: LogQuestion) -> None:
        self._question = question
        self._key = question.job_id.encode()
        self._next: dict[tuple[int, int], int] = {}

    def lines(self, record: Message) -> list[LogLine]:
        if record.key != self._key or record.value is None:
            return []
        batch = _decode(record)
        asked = self._question
        if batch is None or batch.job_id != asked.job_id:
            return []
        if asked.attempt not in (None, batch.attempt) or asked.task not in (None, batch.task):
            return []
        place = (batch.attempt, batch.task)
        known = self._next.get(place, 0)
        found = []
        if batch.dropped and batch.first_line >= known:
            text = f"{batch.dropped} lines were left out: the task wrote more than it may"
            found.append(_line(batch, batch.first_line, text, stream=""))
        for number, text in enumerate(batch.lines, batch.first_line):
            if number >= known:
                found.append(_line(batch, number, text, stream=batch.stream))
        self._next[place] = max(known, batch.first_line + len(batch.lines))
        return found


def _open(bootstrap: str, question: LogQuestion) -> _Stretch:
    partition = partition_of(question.job_id, TASK_LOGS.partitions)
    topic = TASK_LOGS.name
    reader = Reader(bootstrap)

    def asked(call: Callable[[], T]) -> T:
        try:
            return call()
        except KafkaUnavailable as error:
            reader.close()
            raise LogsUnavailable(str(error)) from error

    since = max(question.since - CLOCK_SLACK_US, 0)
    start = asked(lambda: reader.offset_at(topic, partition, since))
    stop = asked(lambda: reader.end_offset(topic, partition))
    if question.until:
        until = question.until + CLOCK_SLACK_US
        stop = min(stop, asked(lambda: reader.offset_at(topic, partition, until)))
    asked(lambda: reader.assign({(topic, partition): start}))
    return _Stretch(reader, partition, stop)


def _decode(record: Message) -> LogLines | None:
    assert record.value is not None
    try:
        batch = decode(record.value)
    except (MalformedRecord, UnknownSchema) as error:
        log.warning("log lines cannot be read", offset=record.offset, reason=str(error))
        count("foldline_records_passed_over_total", topic=TASK_LOGS.name)
        return None
    if not isinstance(batch, LogLines):
        log.warning("no log lines", offset=record.offset, kind=type(batch).__name__)
        count("foldline_records_passed_over_total", topic=TASK_LOGS.name)
        return None
    return batch


def _line(batch: LogLines, number: int, text: str, *, stream: str) -> LogLine:
    return LogLine(batch.attempt, batch.task, batch.node, stream, number, batch.at, text)


def _note(text: str) -> LogLine:
    return LogLine(0, 0, "", "", 0, 0, text)
