"""Bytes of the input topics as the words that `decide` takes; what cannot be read says why.

Reads commands and reports, answers plain values. Never raises for any input: a record that no
release of ours could have meant becomes `Unreadable`, and is refused by an event.
"""

from __future__ import annotations

from schemas import codec
from schemas.topics import COMMANDS, MAX_COMMAND_BYTES, REPORTS, Topic
from stream_processors.domain.draft import Command, Report, Unreadable


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
        return Unreadable("malformed", str(error))


def read_report(value: bytes | None) -> Report:
    """One record of the reports topic."""
    try:
        return _read(REPORTS, value)  # type: ignore[return-value]  # checked against the topic
    except codec.UnknownSchema as error:
        return Unreadable("unknown_schema", str(error))
    except codec.MalformedRecord as error:
        return Unreadable("malformed", str(error))


def _read_submission(value: bytes) -> Command:
    submission = codec.decode_submission(value)
    codec.decode_spec(submission.spec_schema_id, submission.spec)
    return submission


def _read(topic: Topic, value: bytes | None) -> object:
    if value is None:
        raise codec.MalformedRecord("the record has no value")
    if len(value) > MAX_COMMAND_BYTES:
        return Unreadable(
            "too_large", f"{len(value)} bytes; a command may have {MAX_COMMAND_BYTES}: split it"
        )
    message = codec.decode(value)
    if type(message) not in topic.messages:
        raise codec.MalformedRecord(f"{type(message).__name__} does not belong on {topic.name}")
    return message
