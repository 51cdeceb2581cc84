"""One shard's log on Kafka: the partition of the log topic whose number is the shard's.

The `ShardLog` port over `infra/kafka.py`'s sender and reader. Appends go to the explicit partition
with `acks=all`, idempotent and without lingering; they are not transactional, so offsets are
dense. Fetches only while a reader is behind the end that it last asked for, so that an owner does
not read back what it writes. Knows nothing of what a record means.
"""

from __future__ import annotations

from infra.kafka import KafkaUnavailable, OffsetOutOfRange, Reader, Sender
from infra.kafka_port import MISSING
from infra.log import Entry, LogUnavailable, Outcome, RecordTooLarge
from infra.log import OffsetOutOfRange as LogOffsetOutOfRange
from schemas.terms import Micros
from schemas.topics import LOG, MAX_RECORD_BYTES

SEND_TIMEOUT_S = 5.0
"""After this a send's outcome is unknown: well under the lease of a node, and under the owner's
own patience, so that the answer comes from here."""
READ_WAIT_S = 0.02
"""A read waits this long for records that are known to be there; the next one goes on."""


class KafkaLog:
    """One process's handle on one shard's log; close it to let go of the broker."""

    def __init__(
        self,
        bootstrap: str,
        shard: int,
        send_timeout_s: float = SEND_TIMEOUT_S,
        *,
        topic: str = LOG.name,
    ) -> None:
        """Connects in the background; `bootstrap` is Kafka's usual list of brokers."""
        self._bootstrap = bootstrap
        self._topic, self._shard = topic, shard
        self._send_timeout_s = send_timeout_s
        self._sender = self._new_sender()
        self._reader = Reader(bootstrap)
        self._outcomes: list[Outcome] = []
        self._end = 0
        self._fetching_from: int | None = None

    def append(self, value: bytes, token: int) -> None:
        """Send a record; a producer that has failed for good is replaced first."""
        if len(value) > MAX_RECORD_BYTES:
            raise RecordTooLarge(f"{len(value)} bytes; the log takes {MAX_RECORD_BYTES}")
        if self._sender.fatal is not None:
            self._sender.close()
            self._sender = self._new_sender()

        def arrived(offset: int | None, error: str | None) -> None:
            self._outcomes.append(Outcome(token, offset, error))

        self._sender.send(self._topic, value, partition=self._shard, on_result=arrived)

    def poll(self, timeout_s: float) -> list[Outcome]:
        """Outcomes that have come in, waiting at most `timeout_s` for the first."""
        self._sender.poll(0.0 if self._outcomes else timeout_s)
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def read(self, offset: int, max_records: int) -> list[Entry]:
        """Records from `offset` on; waits `READ_WAIT_S` at most where some are known to be."""
        if offset >= self._end:
            self._end = self.end()
        if offset > self._end:
            ends = f"{self._name()} ends at {self._end}, asked for {offset}"
            raise LogOffsetOutOfRange(f"{ends}: {MISSING}")
        if offset == self._end:
            self._fetch_from(None)
            return []
        self._fetch_from(offset)
        try:
            messages = self._reader.poll(READ_WAIT_S, max_records)
        except OffsetOutOfRange as error:
            raise LogOffsetOutOfRange(f"{self._name()} lacks {offset}: {MISSING}") from error
        except KafkaUnavailable as error:
            self._fetching_from = None
            raise LogUnavailable(str(error)) from error
        entries = [
            Entry(message.offset, message.value or b"", Micros(message.at)) for message in messages
        ]
        if entries:
            self._fetching_from = entries[-1].offset + 1
        return entries

    def end(self) -> int:
        """The offset that the next record will get, asked afresh."""
        try:
            return self._reader.end_offset(self._topic, self._shard)
        except KafkaUnavailable as error:
            raise LogUnavailable(str(error)) from error

    def close(self) -> None:
        """Give up what is under way, and let go of the broker."""
        self._sender.close()
        self._reader.close()

    def _new_sender(self) -> Sender:
        return Sender(self._bootstrap, message_timeout_s=self._send_timeout_s)

    def _fetch_from(self, offset: int | None) -> None:
        if offset == self._fetching_from:
            return
        self._reader.assign({} if offset is None else {(self._topic, self._shard): offset})
        self._fetching_from = offset

    def _name(self) -> str:
        return f"{self._topic}[{self._shard}]"
