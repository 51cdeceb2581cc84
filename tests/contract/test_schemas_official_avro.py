"""Two other implementations read what we write, and we read what they write, for every message.

The official `avro` library is the reference, `fastavro` the second opinion; both with the schema
file as it lies in the repository.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import avro.io
import avro.schema
import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.codec import decode, encode, encode_event, schema_id_of, schema_ids, schema_text
from schemas.codec import to_plain as plain_of
from schemas.derive import message_classes
from schemas.envelope import Claim
from schemas.terms import Micros
from tests.message_samples import instances, sample

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CLASSES = message_classes()
FRAME = 5

every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
few_examples = settings(
    max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def schema_of_id(cls: type) -> Any:
    return json.loads(schema_text(schema_id_of(cls))[2])


def without_logical(schema: Any) -> Any:
    """Times as plain numbers, which is how our classes have them."""
    if isinstance(schema, dict):
        kept = {key: without_logical(item) for key, item in schema.items()}
        kept.pop("logicalType", None)
        return kept
    return [without_logical(item) for item in schema] if isinstance(schema, list) else schema


OFFICIAL = {
    cls: avro.schema.parse(json.dumps(without_logical(schema_of_id(cls)))) for cls in CLASSES
}
FAST = {cls: fastavro.parse_schema(without_logical(schema_of_id(cls))) for cls in CLASSES}


def official_read(cls: type, body: bytes) -> Any:
    stream = BytesIO(body)
    value = avro.io.DatumReader(OFFICIAL[cls]).read(avro.io.BinaryDecoder(stream))
    assert stream.read() == b"", "bytes were left over"
    return value


def official_write(cls: type, plain: Any) -> bytes:
    stream = BytesIO()
    avro.io.DatumWriter(OFFICIAL[cls]).write(plain, avro.io.BinaryEncoder(stream))
    return stream.getvalue()


def fast_write(cls: type, plain: Any) -> bytes:
    stream = BytesIO()
    fastavro.schemaless_writer(stream, FAST[cls], plain)
    return stream.getvalue()


def plain(message: Any) -> Any:
    """Dicts, lists and plain texts: the official library checks types by identity."""
    return _plain(plain_of(message))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


@every_class
@few_examples
@given(data=st.data())
def test_others_read_what_we_write_and_we_read_what_they_write(
    cls: type, data: st.DataObject
) -> None:
    message = data.draw(instances(cls))
    framed = encode(message)
    frame, body = framed[:FRAME], framed[FRAME:]
    expected = plain(message)
    assert official_read(cls, body) == expected
    assert fastavro.schemaless_reader(BytesIO(body), FAST[cls], None) == expected
    assert decode(frame + official_write(cls, expected)) == message
    assert decode(frame + fast_write(cls, expected)) == message


@every_class
def test_our_bytes_are_theirs_to_the_byte(cls: type) -> None:
    message = sample(cls)
    body = encode(message)[FRAME:]
    assert body == official_write(cls, plain(message))
    assert body == fast_write(cls, plain(message))


def test_times_are_moments_to_whoever_knows_the_logical_type() -> None:
    moment = datetime(2031, 5, 4, 3, 2, 1, 999_999, tzinfo=UTC)
    micros = (moment - EPOCH) // (datetime.resolution)
    body = encode(Claim(1, 2, b"o" * 16, Micros(micros)))[FRAME:]
    schema = schema_of_id(Claim)
    read = avro.io.DatumReader(avro.schema.parse(json.dumps(schema)))
    official: Any = read.read(avro.io.BinaryDecoder(BytesIO(body)))
    assert official["at"] == moment
    fast: Any = fastavro.schemaless_reader(BytesIO(body), fastavro.parse_schema(schema), None)
    assert fast["at"] == moment


@pytest.mark.parametrize("blocks", [[5], [2, 3], [-5], [-1, 4], [1, 1, 1, 1, 1], [-2, -2, 1]])
def test_arrays_in_any_blocks_are_read_as_one(blocks: list[int]) -> None:
    cls = next(cls for cls in CLASSES if cls.__name__ == "JobsForgotten")
    values = [1, -2, 300_000, 4, 5]
    for column in (values, [1, 2, 3, 4, 5], [7] * 5, [0] * 5, values * 4):
        body, rest = b"", column * 1
        sizes = [size * len(column) // 5 for size in blocks]
        for size in sizes:
            items = b"".join(official_write_long(value) for value in rest[: abs(size)])
            body += official_write_long(size)
            body += official_write_long(len(items)) if size < 0 else b""
            body += items
            rest = rest[abs(size) :]
        framed = encode(cls([]))[:FRAME] + body + b"\x00"
        assert decode(framed).job_nos == column


def official_write_long(value: int) -> bytes:
    stream = BytesIO()
    avro.io.BinaryEncoder(stream).write_long(value)
    return stream.getvalue()


def test_an_event_in_a_decision_has_its_id_and_bytes_without_a_frame() -> None:
    cls = next(cls for cls in CLASSES if cls.__name__ == "TasksPlaced")
    event = sample(cls)
    encoded = encode_event(event)
    assert schema_ids()[encoded.schema_id] == ("TasksPlaced", 1)
    assert official_read(cls, encoded.data) == plain(event)
