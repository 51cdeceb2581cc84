"""Bytes of the input topics as the words that `decide` takes; what cannot be read says why.

Reads commands and reports, answers plain values. Never raises for any input: a record that no
release of ours could have meant becomes `Unreadable`: it is refused by an event, and parked with
its bytes, key and headers, so that it reaches the dead letters.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from infra.kafka_port import Message
from schemas import codec
from schemas.envelope import Input
from schemas.terms import Micros, ParkedRecord, RecordHeader
from schemas.topics import COMMANDS, MAX_COMMAND_BYTES, PARKED_BYTES_MAX, REPORTS, Topic
from stream_processors.domain.draft import Command, Report, Unreadable
from stream_processors.domain.limits import TEXT_MAX, plain_text

KEY_BYTES_MAX = 1024
HEADERS_MAX = 64
HEADER_BYTES_MAX = 64 * 1024


def command_of(message: Message) -> Command:
    """What a record of the commands topic says, ready to be decided."""
    command = _unpacked(message) or read_command(message.value)
    return parked(command, message) if isinstance(command, Unreadable) else command


def report_of(message: Message) -> Report:
    """What a record of the reports topic says, ready to be decided."""
    report = _unpacked(message) or read_report(message.value)
    return parked(report, message) if isinstance(report, Unreadable) else report


def _unpacked(message: Message) -> Unreadable | None:
    """None for a record that the broker gave out; else there is nothing of it but its place."""
    if not message.broken:
        return None
    text = f"its batch cannot be unpacked, so there are no bytes: {message.broken}"
    return Unreadable("malformed", plain_text(text, TEXT_MAX))


def read_command(value: bytes | None) -> Command:
    """One record of the commands topic."""
    try:
        small = value is not None and len(value) <= MAX_COMMAND_BYTES
        if value is not None and small and codec.message_name(value) == "SubmitJob":
            return _read_submission(value)
        return _read(COMMANDS, value)  # type: ignore[return-value]  # checked against the topic
    except codec.UnknownSchema as error:
        return Unreadable("unknown_schema", f"{error}; see /schemas/ids for those that are")
    except codec.MalformedRecord as error:
        return _malformed(error)


def read_report(value: bytes | None) -> Report:
    """One record of the reports topic."""
    try:
        return _read(REPORTS, value)  # type: ignore[return-value]  # checked against the topic
    except codec.UnknownSchema as error:
        return Unreadable("unknown_schema", str(error))
    except codec.MalformedRecord as error:
        return _malformed(error)


def _malformed(error: codec.MalformedRecord) -> Unreadable:
    """An error may quote what it found."""
    return Unreadable("malformed", plain_text(str(error), TEXT_MAX))


def parked(unreadable: Unreadable, message: Message) -> Unreadable:
    """The same with the record as it came, for the dead letters."""
    value = message.value or b""
    record = ParkedRecord(
        input=(Input.COMMANDS if message.topic == COMMANDS.name else Input.REPORTS).value,
        offset=message.offset,
        at=Micros(message.at),
        code=unreadable.code,
        message=plain_text(unreadable.message, TEXT_MAX),
        key=(message.key or b"")[:KEY_BYTES_MAX],
        headers=_headers(message),
        size=len(value),
        sha256=sha256(value).digest(),
        value=value[:PARKED_BYTES_MAX],
    )
    return replace(unreadable, record=record)


def _headers(message: Message) -> tuple[RecordHeader, ...]:
    """The record's headers, as far as there is room: beyond that they are no use to anybody."""
    kept: list[RecordHeader] = []
    room = HEADER_BYTES_MAX
    for name, value in message.headers:
        room -= len(name) + len(value or b"")
        if room < 0 or len(kept) >= HEADERS_MAX:
            break
        kept.append(RecordHeader(plain_text(name, TEXT_MAX), value or b""))
    return tuple(kept)


def _read_submission(value: bytes) -> Command:
    submission = codec.decode_submission(value)
    codec.decode_spec(submission.spec_schema_id, submission.spec)
    return submission


def _read(topic: Topic, value: bytes | None) -> object:
    if value is None:
        raise codec.MalformedRecord("the record has no value")
    if len(value) > MAX_COMMAND_BYTES:
        return Unreadable(
            "too_large", f"{len(value)} bytes; a record may have {MAX_COMMAND_BYTES}: split it"
        )
    message = codec.decode(value)
    if type(message) not in topic.messages:
        raise codec.MalformedRecord(f"{type(message).__name__} does not belong on {topic.name}")
    return message
