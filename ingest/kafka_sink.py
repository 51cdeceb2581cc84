"""Commands to Kafka: the event loop hands over, one thread polls, the answer comes back to the loop.

Writes `foldline.jobs.commands.v1`, to the partition it is told. A command is answered for only by
Kafka's acknowledgement; without one in time the outcome is unknown and `CommandNotAcknowledged`
says so. What is under way is bounded, so that the loop never waits for room in the buffer.
"""

from __future__ import annotations

import asyncio
from threading import Event, Thread
from time import monotonic

import structlog

from infra.http.tokens import CommandPlace
from infra.kafka import Sender
from infra.telemetry import observe
from ingest.ports import CommandNotAcknowledged, Outgoing, SinkOverloaded
from schemas.topics import COMMANDS

UNDER_WAY_MAX = 10_000
UNDER_WAY_MAX_BYTES = 64 * 1024 * 1024
"""Half of the sender's buffer: handing over never blocks."""
POLL_S = 0.1

log = structlog.get_logger(__name__)

_Answer = asyncio.Future[int | None]


class KafkaCommandSink:
    """The `CommandSink` on Kafka, for one event loop. Call `start` before, `stop` after."""

    def __init__(self, bootstrap: str, shards: int, timeout_s: float) -> None:
        """`timeout_s` bounds how long a caller waits for Kafka's acknowledgement."""
        self._bootstrap = bootstrap
        self._shards = shards
        self._timeout_s = timeout_s
        self._sender = self._new_sender()
        self._stopping = Event()
        self._thread = Thread(target=self._poll, name="command-acks", daemon=True)
        self._under_way = 0
        self._under_way_bytes = 0

    @property
    def shards(self) -> int:
        """How many shards the installation has."""
        return self._shards

    def start(self) -> None:
        """Begin to listen for acknowledgements."""
        self._thread.start()

    def stop(self) -> None:
        """Wait, bounded, for what is under way, then give up the rest."""
        self._sender.flush(self._timeout_s)
        self._stopping.set()
        self._thread.join()
        self._sender.close()

    async def put(self, command: Outgoing) -> CommandPlace:
        """Where the command lies, once Kafka has acknowledged it."""
        size = len(command.value)
        if self._under_way >= UNDER_WAY_MAX or self._under_way_bytes + size > UNDER_WAY_MAX_BYTES:
            raise SinkOverloaded(f"{self._under_way} are under way")
        self._under_way += 1
        self._under_way_bytes += size
        began = monotonic()
        answer = self._send(command)
        answer.add_done_callback(lambda _: self._settled(size))
        try:
            offset = await asyncio.wait_for(asyncio.shield(answer), self._timeout_s)
        except TimeoutError as error:
            answer.add_done_callback(_note_late)
            raise CommandNotAcknowledged(f"no answer within {self._timeout_s:g} s") from error
        observe("foldline_kafka_ack_seconds", monotonic() - began)
        if offset is None:
            raise CommandNotAcknowledged("it was acknowledged without its place")
        return CommandPlace(command.shard, offset)

    def _send(self, command: Outgoing) -> _Answer:
        loop = asyncio.get_running_loop()
        answer: _Answer = loop.create_future()

        def on_result(offset: int | None, error: str | None) -> None:
            loop.call_soon_threadsafe(_settle, answer, offset, error)

        self._sender.send(
            COMMANDS.name,
            command.value,
            key=command.key or None,
            partition=command.shard,
            headers=command.headers,
            on_result=on_result,
        )
        return answer

    def _settled(self, size: int) -> None:
        self._under_way -= 1
        self._under_way_bytes -= size

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._sender.poll(POLL_S)
            if self._sender.fatal is not None:
                log.error("the producer is replaced", reason=self._sender.fatal)
                broken, self._sender = self._sender, self._new_sender()
                broken.close()

    def _new_sender(self) -> Sender:
        return Sender(self._bootstrap, message_timeout_s=self._timeout_s)


def _settle(answer: _Answer, offset: int | None, error: str | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(offset)
    else:
        answer.set_exception(CommandNotAcknowledged(error))


def _note_late(answer: _Answer) -> None:
    """What became of a command that nobody waits for any more."""
    if answer.cancelled():
        return
    error = answer.exception()
    outcome = str(error) if error is not None else f"offset {answer.result()}"
    log.warning("a command was answered too late for its caller", outcome=outcome)
