"""The port to one shard's log, and its in-memory adapter with every fault a log can have.

`ShardLog` is what the owner of a shard needs: append, learn outcomes, read, find the end. It is
synchronous and never waits longer than asked. `MemoryLog` is the shipped test double: several
handles (one a process) write to one `MemoryPartition`, and sends can be lost, held, doubled or
left unanswered. The adapter for Kafka is `kafka_log.py`; who may write is decided by
`stream_processors/ownership.py`, and what counts by `stream_processors/domain/counting.py`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from schemas.codec import MalformedRecord, UnknownSchema, decode
from schemas.envelope import Claim, Decision
from schemas.terms import Micros
from schemas.topics import MAX_RECORD_BYTES


class OffsetOutOfRange(Exception):
    """The log does not hold this offset (any more, or yet): an error, never a silent reset."""


class LogUnavailable(Exception):
    """The log could not be asked now; asking again later is safe."""


class RecordTooLarge(Exception):
    """The record is larger than the log takes; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the log as it lies there; `at` is the broker's append time."""

    offset: int
    value: bytes
    at: Micros


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an append.

    With an offset, the record lies there. Without offset and error, it lies somewhere in the log.
    With an error nobody knows whether it does or ever will: only reading tells.
    """

    token: int
    offset: int | None
    error: str | None = None


class ShardLog(Protocol):
    """One shard's log, as one process holds it."""

    def append(self, value: bytes, token: int) -> None:
        """Send a record; `poll` brings its outcome under `token`. Raises `RecordTooLarge`."""

    def poll(self, timeout_s: float) -> list[Outcome]:
        """Outcomes that have come in, waiting at most `timeout_s` for the first."""

    def read(self, offset: int, max_records: int) -> list[Entry]:
        """Records from `offset` on, as many as are at hand (perhaps none yet).

        Raises `OffsetOutOfRange`, and `LogUnavailable` when the log cannot be asked.
        """

    def end(self) -> int:
        """The offset that the next record will get, asked afresh. Raises `LogUnavailable`."""

    def close(self) -> None:
        """Let go of whatever is held; the handle is not used again."""


def read_record(value: bytes) -> Claim | Decision | None:
    """The claim or decision in a log record; None for any other bytes, which never count.

    The layout of the two is frozen, so that every release finds the same records in a log.
    """
    try:
        record = decode(value)
    except (MalformedRecord, UnknownSchema):
        return None
    return record if isinstance(record, Claim | Decision) else None


class Fault(Enum):
    """What happens to one send of a `MemoryLog`."""

    NONE = auto()
    """Lands at once and is acknowledged."""
    LOSE = auto()
    """Never lands; its outcome is an error."""
    HOLD = auto()
    """Does not land and is not answered until `land`, `answer` or `give_up` say so."""
    DOUBLE = auto()
    """Lands twice; the first offset is acknowledged."""
    DELAY_ACK = auto()
    """Lands at once, but is not answered until `answer` or `give_up` say so."""
    DROP_ACK = auto()
    """Lands at once; its outcome is an error."""
    NO_OFFSET = auto()
    """Lands at once; acknowledged without its offset."""


@dataclass(slots=True)
class MemoryPartition:
    """The records that all handles share. `now` is the broker's clock in UTC microseconds."""

    entries: list[Entry] = field(default_factory=list)
    now: int = 0
    start: int = 0

    def land(self, value: bytes) -> int:
        """Put a record at the end; its offset."""
        offset = self.start + len(self.entries)
        self.entries.append(Entry(offset, value, Micros(self.now)))
        return offset


@dataclass(slots=True)
class _Send:
    """One send: `offset` is where it landed first, None while it has not."""

    value: bytes
    token: int
    offset: int | None = None
    answered: bool = False


class MemoryLog:
    """One process's handle on a `MemoryPartition`; `faults` are taken by the next sends in turn."""

    def __init__(self, partition: MemoryPartition) -> None:
        """A handle without faults; append to `faults` to plan some."""
        self.partition = partition
        self.faults: deque[Fault] = deque()
        self._sends: dict[int, _Send] = {}
        self._outcomes: list[Outcome] = []

    @property
    def open_tokens(self) -> list[int]:
        """Sends that have not been answered, oldest first."""
        return [token for token, send in self._sends.items() if not send.answered]

    @property
    def sent_tokens(self) -> list[int]:
        """All sends, oldest first; `land` can make any of them appear again."""
        return list(self._sends)

    def append(self, value: bytes, token: int) -> None:
        """Send a record, with the next planned fault."""
        if len(value) > MAX_RECORD_BYTES:
            raise RecordTooLarge(f"{len(value)} bytes; the log takes {MAX_RECORD_BYTES}")
        assert token not in self._sends, "a token names one send"
        self._sends[token] = _Send(value, token)
        fault = self.faults.popleft() if self.faults else Fault.NONE
        if fault not in (Fault.LOSE, Fault.HOLD):
            self.land(token)
        if fault is Fault.DOUBLE:
            self.land(token)
        if fault in (Fault.LOSE, Fault.DROP_ACK):
            self.give_up(token)
        elif fault is Fault.NO_OFFSET:
            self._answer(self._sends[token], None, None)
        elif fault not in (Fault.HOLD, Fault.DELAY_ACK):
            self.answer(token)

    def poll(self, timeout_s: float) -> list[Outcome]:
        """Outcomes so far; never waits."""
        del timeout_s
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def read(self, offset: int, max_records: int) -> list[Entry]:
        """Records from `offset` on."""
        entries, start = self.partition.entries, self.partition.start
        if not start <= offset <= self.end():
            raise OffsetOutOfRange(f"offset {offset}; the log holds {start} to {self.end()}")
        return entries[offset - start : offset - start + max_records]

    def end(self) -> int:
        """The offset that the next record will get."""
        return self.partition.start + len(self.partition.entries)

    def close(self) -> None:
        """Nothing is held."""

    def land(self, token: int) -> int:
        """Make a send appear in the log (again, if it has before); its offset."""
        send = self._sends[token]
        offset = self.partition.land(send.value)
        send.offset = offset if send.offset is None else send.offset
        return offset

    def answer(self, token: int) -> None:
        """Acknowledge a send with its offset, landing it first if it was held."""
        send = self._sends[token]
        if send.offset is None:
            self.land(token)
        self._answer(send, send.offset, None)

    def give_up(self, token: int) -> None:
        """Report a send as failed, whatever became of it."""
        self._answer(self._sends[token], None, "no answer in time")

    def _answer(self, send: _Send, offset: int | None, error: str | None) -> None:
        if not send.answered:
            send.answered = True
            self._outcomes.append(Outcome(send.token, offset, error))
