"""The dispatch partition, read by a thread of its own, so that the agent's loop can wait for all.

Only this thread touches the Kafka reader. What it reads waits in a queue and wakes the loop; while
that queue is full it reads nothing. The offset is never guessed: a reader that is out of range says
so and reads on only after a seek.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from infra.kafka import KafkaUnavailable, OffsetOutOfRange, Reader
from infra.telemetry import count
from schemas.codec import MalformedRecord, UnknownSchema, decode
from schemas.dispatch import Dispatch
from schemas.ids import partition_of
from schemas.topics import DISPATCH
from workers.messages import DispatchLost, DispatchRead, Positioned
from workers.orders import is_square

POLL_S = 0.2
PAUSE_S = 0.5
WAITING_BYTES = 16 * 1024 * 1024
"""Of dispatches that the loop has not taken: then the thread waits for it."""
CLOSE_S = 2.0

_log = structlog.get_logger("agent")


@dataclass(frozen=True, slots=True)
class InboxBroken:
    """The thread ended by a bug."""

    error: BaseException


Letter = DispatchRead | DispatchLost | Positioned | InboxBroken


class Inbox:
    """One node's dispatches. `wake` is called from the thread when something has come."""

    def __init__(self, reader: Reader, node: str, wake: Callable[[], None]) -> None:
        self._reader = reader
        self._node = node
        self._place = (DISPATCH.name, partition_of(node, DISPATCH.partitions))
        self._wake = wake
        self._letters: deque[Letter] = deque()
        self._bytes = 0
        self._room = threading.Condition()
        self._seek_asked = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatch-inbox", daemon=True)
        self._thread.start()

    def seek_end(self) -> None:
        """Read from the partition's end on; `Positioned` comes once that is so."""
        self._seek_asked.set()

    def take(self) -> list[Letter]:
        """What has come since the last call."""
        with self._room:
            letters = list(self._letters)
            self._letters.clear()
            self._bytes = 0
            self._room.notify()
        return letters

    def close(self) -> None:
        """End the thread and let go of the broker."""
        self._closing.set()
        self._seek_asked.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            _log.warning("Kafka does not answer: leaving without closing the dispatch reader")
        else:
            self._reader.close()

    def _run(self) -> None:
        try:
            is_reading = False
            while not self._closing.is_set():
                if not is_reading:
                    self._seek_asked.wait()
                is_reading = self._seek() if self._seek_asked.is_set() else self._read()
        except BaseException as error:  # noqa: BLE001 - the loop raises it in the main thread
            self._put(InboxBroken(error))

    def _seek(self) -> bool:
        """Whether the reader now stands at the end; else the seek stays asked for."""
        if self._closing.is_set():
            return False
        try:
            end = self._reader.end_offset(*self._place)
            self._reader.assign({self._place: end})
        except KafkaUnavailable as error:
            _log.warning("dispatch cannot be read yet", error=str(error))
            self._closing.wait(PAUSE_S)
            return False
        self._seek_asked.clear()
        self._put(Positioned())
        return True

    def _read(self) -> bool:
        """Whether the reader can go on from where it is."""
        try:
            messages = self._reader.poll(POLL_S)
        except OffsetOutOfRange as error:
            _log.error("dispatch offset out of range", error=str(error))
            self._put(DispatchLost())
            return False
        except KafkaUnavailable as error:
            _log.warning("dispatch cannot be read", error=str(error))
            self._closing.wait(PAUSE_S)
            return True
        name = self._node.encode()
        for message in messages:
            if message.key == name and message.value is not None:
                self._await_room()
                self._open(message.offset, message.value)
        return True

    def _await_room(self) -> None:
        with self._room:
            while self._bytes > WAITING_BYTES and not self._closing.is_set():
                self._room.wait(POLL_S)

    def _open(self, offset: int, value: bytes) -> None:
        try:
            dispatch = decode(value)
        except (MalformedRecord, UnknownSchema) as error:
            # Whatever it was is said again: starts and stops are resent until confirmed.
            self._refuse(offset, f"it cannot be read: {error}")
            return
        if not isinstance(dispatch, Dispatch):
            self._refuse(offset, "another kind of record")
        elif not is_square(dispatch):
            self._refuse(offset, "its columns do not fit one another")
        else:
            self._put(DispatchRead(dispatch), len(value))

    def _refuse(self, offset: int, why: str) -> None:
        count("foldline_records_passed_over_total", topic=DISPATCH.name)
        _log.error("dispatch refused", offset=offset, reason=why)

    def _put(self, letter: Letter, size: int = 0) -> None:
        with self._room:
            self._letters.append(letter)
            self._bytes += size
        self._wake()
