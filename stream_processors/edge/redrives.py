"""Redrives that triage decided, as commands on Kafka: the same way that every submission goes.

`command_of` is pure; `RedriveSender` waits for Kafka's acknowledgement. The key of a redrive follows
from the letter and the rule's changes, so that sending it again is the same job.
"""

from __future__ import annotations

from time import monotonic

from infra.kafka import Sender
from infra.kafka_port import KafkaUnavailable
from schemas import codec
from schemas.commands import SubmitJob
from schemas.headers import CloudEvent, to_headers
from schemas.ids import partition_of
from schemas.topics import COMMANDS, MAX_COMMAND_BYTES
from stream_processors.domain.limits import terms_problem
from stream_processors.domain.redrive import LetterSource, redriven
from stream_processors.edge.triage import Redrive

ACTOR = "triage"
SOURCE = "/foldline/edge"
SEND_TIMEOUT_S = 10.0


def command_of(redrive: Redrive) -> SubmitJob | str:
    """The submission that runs the letter again, or why there is none."""
    letter = redrive.letter
    if letter.key_id:
        return "its spec is encrypted"
    try:
        spec = codec.decode_spec(letter.spec_schema_id, letter.spec)
    except (codec.MalformedRecord, codec.UnknownSchema) as error:
        return f"its spec cannot be read: {error}"
    source = LetterSource(letter.job_id, letter.at, letter.terms, letter.priority, spec)
    command = redriven(source, redrive.rule.changes, ACTOR, redrive.causation_id)
    return terms_problem(command.terms) or command


class RedriveSender:
    """Sends commands one by one; close it to let go of the broker."""

    def __init__(self, bootstrap: str, shards: int) -> None:
        """Connects in the background."""
        self._bootstrap = bootstrap
        self._shards = shards
        self._sender: Sender | None = None

    def send(self, command: SubmitJob) -> None:
        """Send and wait for the acknowledgement. Raises `KafkaUnavailable`: it may still arrive.

        Raises `ValueError` for a command over the limit of what a decision can carry.
        """
        value = codec.encode(command)
        if len(value) > MAX_COMMAND_BYTES:
            raise ValueError(f"it has {len(value)} bytes; at most {MAX_COMMAND_BYTES} are taken")
        if self._sender is None:
            self._sender = Sender(self._bootstrap, message_timeout_s=SEND_TIMEOUT_S)
        results: list[str | None] = []
        self._sender.send(
            COMMANDS.name,
            value,
            key=command.terms.pool,
            partition=partition_of(command.terms.pool, self._shards),
            headers=to_headers(_event(command)),
            on_result=lambda _, error: results.append(error),
        )
        deadline = monotonic() + SEND_TIMEOUT_S * 2
        while not results and monotonic() < deadline:
            self._sender.poll(0.05)
        if results != [None]:
            self.close()
            raise KafkaUnavailable(f"cannot redrive: {results[0] if results else 'no answer'}")

    def close(self) -> None:
        """Let go of the broker."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None


def _event(command: SubmitJob) -> CloudEvent:
    return CloudEvent(
        id=f"{command.idempotency_key}:{command.causation_id}",
        source=SOURCE,
        type="foldline.SubmitJob",
        schema_id=codec.schema_id_of(SubmitJob),
        subject=command.redrives,
        partition_key=command.terms.pool,
        causation_id=command.causation_id,
    )
