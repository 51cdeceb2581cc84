"""What an engine process hears of shards that others own: their log, and their owners' marks.

One reader for all of them. Hands records of the log to the shard's runner, which folds them, and
of the reports only the marks: everything else in there is the owner's business. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from infra.kafka import Message, OffsetOutOfRange, Reader
from infra.log import Entry
from schemas.codec import HEADER_BYTES, MAGIC, schema_ids
from schemas.reports import Probe
from schemas.terms import Micros
from schemas.topics import LOG, REPORTS
from stream_processors.domain.counting import LogStopped
from stream_processors.inputs import read_report
from stream_processors.log_clock import Reading
from stream_processors.shard_driver import RECORDS_PER_STEP
from stream_processors.shard_runner import ShardRunner

LOGGER = structlog.get_logger("foldline.engine")
MARKS = frozenset(
    MAGIC + number.to_bytes(HEADER_BYTES - 1, "big")
    for number, (name, _) in schema_ids().items()
    if name == Probe.__name__
)
"""How a mark begins, in every version: so that nothing else need be decoded."""


class Tail:
    """Follows the shards that this process does not own."""

    def __init__(self, reader: Reader) -> None:
        """Follows none until `assign`."""
        self._reader = reader
        self._marks: dict[int, int] = {}
        self.is_behind = False
        """Whether the last poll brought as much as it may: more is there."""
        self.given_up: set[int] = set()
        """Shards whose log this release cannot read: a newer one writes it."""

    def assign(self, runners: Mapping[int, ShardRunner]) -> None:
        """Follow these: the log from where each stands, the marks from now on."""
        offsets: dict[tuple[str, int], int] = {}
        for shard, runner in runners.items():
            if shard not in self._marks:
                self._marks[shard] = self._reader.end_offset(REPORTS.name, shard)
            offsets[LOG.name, shard] = runner.driver.ownership.counted.next_offset
            offsets[REPORTS.name, shard] = self._marks[shard]
        self._marks = {shard: self._marks[shard] for shard in runners}
        self._reader.assign(offsets)

    def poll(self, runners: Mapping[int, ShardRunner], now: Reading) -> None:
        """Hand over what has come; never waits. Raises `KafkaUnavailable`.

        A log that cannot be read stops its owner; who only stands by gives up that shard alone, so
        that a newer release can take over shard by shard.
        """
        self.is_behind = False
        try:
            messages = self._reader.poll(0.0, RECORDS_PER_STEP)
        except OffsetOutOfRange as error:
            self._miss(error, runners)
            return
        self.is_behind = len(messages) == RECORDS_PER_STEP
        for message in messages:
            shard = message.partition
            runner = runners.get(shard)
            if runner is None or shard not in self._marks or shard in self.given_up:
                continue
            try:
                self._deliver(message, runner, now)
            except LogStopped as error:
                LOGGER.critical("stands_by_no_more", shard=shard, reason=str(error))
                self.given_up.add(shard)

    def _deliver(self, message: Message, runner: ShardRunner, now: Reading) -> None:
        value = message.value or b""
        if message.topic == LOG.name:
            runner.follow([Entry(message.offset, value, Micros(message.at))], now)
            return
        self._marks[message.partition] = message.offset + 1
        if value[:HEADER_BYTES] in MARKS:
            runner.hear(read_report(value))

    def _miss(self, error: OffsetOutOfRange, runners: Mapping[int, ShardRunner]) -> None:
        """Marks may be gone, as their owner lets go of what it has read; the log may not."""
        for shard in self._marks:
            stands = runners[shard].driver.ownership.counted.next_offset
            begin = self._reader.begin_offset(LOG.name, shard)
            if not begin <= stands <= self._reader.end_offset(LOG.name, shard):
                raise error
        LOGGER.info("marks_skipped", note=str(error))
        followed = {shard: runners[shard] for shard in self._marks}
        self._marks = {}
        self.assign(followed)
