"""Words to bytes and back: Avro with Confluent framing. The only file that imports fastavro.

A framed message is `00`, a four-byte schema id, and the Avro body. Ids are fixed in
`avro/ids.json`. Decoding uses the writer's schema; fields that the writer did not know take the
class's default (`schemas.upcast` holds what defaults cannot say). Logical types are read and
written as plain integers. Malformed bytes raise `MalformedRecord`, an id that is not in the lock
file raises `UnknownSchema`; nothing else is raised for any input. Readers and writers are compiled
from the schema files when this is imported (`schemas.binary`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from io import BytesIO
from operator import attrgetter
from typing import Any, cast, get_args, get_origin, get_type_hints

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from schemas.binary import Compiler, LongArrays, Read, Write, maker, record_reader
from schemas.commands import Submission, SubmitJob
from schemas.derive import AVRO_DIR, IDS_FILE, message_classes
from schemas.envelope import EncodedEvent
from schemas.events import Event
from schemas.terms import JobSpec
from schemas.upcast import UPCASTERS

MAGIC = b"\x00"
HEADER_BYTES = 5


class MalformedRecord(Exception):
    """The bytes are not a framed message, or not what their schema says."""


class UnknownSchema(Exception):
    """The schema id is not in this release's lock file: written by a newer one, or not by us."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One id of the lock file, ready for use."""

    name: str
    version: int
    read: Read


@dataclass(frozen=True, slots=True)
class _Writer:
    """What a class is written with: the newest id of its name, and that id's frame."""

    schema_id: int
    frame: bytes
    write: Write


def encode(message: object) -> bytes:
    """The framed bytes of any message of the catalogue."""
    writer = _WRITERS[type(message)]
    out = bytearray(writer.frame)
    writer.write(out, message)
    return bytes(out)


def decode(data: bytes) -> Any:
    """The message in these framed bytes."""
    entry = _entry(frame_id(data))
    return _read(entry, data, HEADER_BYTES)


def frame_id(data: bytes) -> int:
    """The schema id of framed bytes."""
    if len(data) < HEADER_BYTES or data[0] != 0:
        raise MalformedRecord("not framed: a message begins with 00 and a four-byte schema id")
    return int.from_bytes(data[1:HEADER_BYTES], "big")


def message_name(data: bytes) -> str:
    """The class name of the message in framed bytes, without decoding it."""
    return _entry(frame_id(data)).name


def encode_event(event: Event) -> EncodedEvent:
    """One event for `Decision.events`."""
    return EncodedEvent(*encode_body(event))


def decode_event(encoded: EncodedEvent) -> Event:
    """The event of a `Decision`; `UnknownSchema` must stop the reader."""
    return cast(Event, _read(_entry(encoded.schema_id), encoded.data, 0))


def encode_body(message: object) -> tuple[int, bytes]:
    """Schema id and unframed Avro bytes of a message (events, specs)."""
    writer = _WRITERS[type(message)]
    out = bytearray()
    writer.write(out, message)
    return writer.schema_id, bytes(out)


def decode_spec(schema_id: int, data: bytes) -> JobSpec:
    """The spec that a submission carried."""
    entry = _entry(schema_id)
    if entry.name != "JobSpec":
        raise MalformedRecord(f"schema {schema_id} is {entry.name}, not a JobSpec")
    return cast(JobSpec, _read(entry, data, 0))


def decode_title(schema_id: int, data: bytes) -> tuple[str, str]:
    """Job type and name of an encoded spec; the rest of it is not read."""
    title = _TITLES.get(schema_id)
    if title is None:
        raise MalformedRecord(f"schema {schema_id} is not a JobSpec")
    return cast(tuple[str, str], tuple(_values("the title of a JobSpec", title, data, 0)[0]))


def decode_submission(data: bytes) -> Submission:
    """A framed `SubmitJob` with its spec left encoded: the hot path of the engine."""
    prefix = _PREFIXES.get(frame_id(data))
    if prefix is None:
        raise MalformedRecord("not a SubmitJob")
    spec_schema_id, reads = prefix
    values, end = _values("SubmitJob", reads, data, HEADER_BYTES)
    return cast(Submission, _make_submission(*values, spec_schema_id, data[end:]))


def to_plain(value: Any) -> Any:
    """A message as dicts, lists and numbers: what JSON writers and rows take."""
    kind = type(value)
    shape = _SHAPES.get(kind)
    if shape is not None:
        return {
            name: item if type(item) in _FLAT else to_plain(item)
            for name, item in zip(shape.names, shape.values(value), strict=True)
        }
    if kind in (tuple, list):
        if value and type(value[0]) in _SHAPES:
            return [to_plain(item) for item in value]
        return value if kind is list else list(value)
    return value


def schema_text(schema_id: int) -> tuple[str, int, str]:
    """Subject name, version and the released schema file of an id (for the registry's readers)."""
    entry = _entry(schema_id)
    text = (AVRO_DIR / f"{entry.name}.v{entry.version}.avsc").read_text()
    return entry.name, entry.version, text


def schema_ids() -> dict[int, tuple[str, int]]:
    """Every id of the lock file with its class name and version."""
    return {schema_id: (entry.name, entry.version) for schema_id, entry in _ENTRIES.items()}


def schema_id_of(cls: type) -> int:
    """The id that messages of this class are written with."""
    return _WRITERS[cls].schema_id


def _entry(schema_id: int) -> _Entry:
    entry = _ENTRIES.get(schema_id)
    if entry is None:
        raise UnknownSchema(f"schema id {schema_id} is not known to this release")
    return entry


def _read(entry: _Entry, data: bytes, start: int) -> Any:
    try:
        message, end = entry.read(data, start)
    except Exception as error:
        raise MalformedRecord(f"{entry.name} cannot be read: {error}") from error
    if end != len(data):
        raise MalformedRecord(f"{entry.name} has {len(data) - end} bytes too many")
    return message


def _values(name: str, reads: Sequence[Read], data: bytes, at: int) -> tuple[Any, int]:
    """The first fields of a record, and the place behind them."""
    values = []
    try:
        for read in reads:
            value, at = read(data, at)
            values.append(value)
    except Exception as error:
        raise MalformedRecord(f"{name} cannot be read: {error}") from error
    return values, at


_LONGS = parse_schema({"type": "array", "items": "long"})


def _write_longs(out: bytearray, values: Sequence[int]) -> None:
    stream = BytesIO()
    schemaless_writer(stream, _LONGS, values)
    out += stream.getbuffer()


def _read_longs(data: bytes, at: int) -> tuple[list[int], int]:
    stream = BytesIO(data)
    stream.seek(at)
    values = cast(list[int], schemaless_reader(stream, _LONGS, None))
    return values, stream.tell()


_ARRAYS = LongArrays(_write_longs, _read_longs)


def _schema(name: str, version: int) -> Any:
    return json.loads((AVRO_DIR / f"{name}.v{version}.avsc").read_text())


def _reader(cls: type, version: int) -> Read:
    """Reads a version of a class, and makes it the newest one."""
    schema = _schema(cls.__name__, version)
    upcast = UPCASTERS.get((cls.__name__, version))
    if upcast is None:
        return Compiler(_ARRAYS).reader(schema, cls)
    read_fields = record_reader(Compiler(_ARRAYS).field_readers(schema, cls), None)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        found, end = read_fields(data, at)
        return cls(**upcast(found)), end

    return read


def _load_entries() -> dict[int, _Entry]:
    classes = {cls.__name__: cls for cls in message_classes()}
    return {
        int(key): _Entry(
            item["name"], item["version"], _reader(classes[item["name"]], item["version"])
        )
        for key, item in json.loads(IDS_FILE.read_text()).items()
    }


def _load_writers() -> dict[type, _Writer]:
    newest = {_ENTRIES[schema_id].name: schema_id for schema_id in sorted(_ENTRIES)}
    writers = {}
    for cls in message_classes():
        schema_id = newest[cls.__name__]
        schema = _schema(cls.__name__, _ENTRIES[schema_id].version)
        frame = MAGIC + schema_id.to_bytes(4, "big")
        writers[cls] = _Writer(schema_id, frame, Compiler(_ARRAYS).writer(schema))
    return writers


def _load_prefixes() -> dict[int, tuple[int, list[Read]]]:
    """For each SubmitJob schema: its spec's own schema id, and the readers before the spec."""
    specs = {
        tuple(_columns(_schema("JobSpec", entry.version))): schema_id
        for schema_id, entry in _ENTRIES.items()
        if entry.name == "JobSpec"
    }
    prefixes = {}
    for schema_id, entry in _ENTRIES.items():
        if entry.name == "SubmitJob":
            schema = _schema("SubmitJob", entry.version)
            readers = Compiler(_ARRAYS).field_readers(schema, SubmitJob)
            assert readers[-1][0] == "spec", "the spec comes last, after what is scheduled by"
            spec_id = specs[tuple(_columns(schema["fields"][-1]["type"]))]
            prefixes[schema_id] = (spec_id, _aligned(readers[:-1]))
    return prefixes


def _aligned(readers: list[tuple[str, Read]]) -> list[Read]:
    """One reader for each field of a `Submission` but the spec's; the default where none wrote."""
    reads = dict(readers)
    wanted = fields(Submission)[:-2]
    assert [name for name, _ in readers] == [one.name for one in wanted if one.name in reads]
    return [reads.get(one.name) or _constant(one.default) for one in wanted]


def _constant(value: Any) -> Read:
    return lambda _, at: (value, at)


def _load_titles() -> dict[int, list[Read]]:
    """For each JobSpec schema: its first two fields, which say what the job is."""
    titles = {}
    for schema_id, entry in _ENTRIES.items():
        if entry.name == "JobSpec":
            schema = _schema("JobSpec", entry.version)
            readers = Compiler(_ARRAYS).field_readers(schema, JobSpec)[:2]
            assert [name for name, _ in readers] == ["job_type", "name"]
            titles[schema_id] = [read for _, read in readers]
    return titles


def _columns(schema: Any) -> list[str]:
    return [field["name"] for field in schema["fields"]]


@dataclass(frozen=True, slots=True)
class _Shape:
    """The fields of a class, and all of their values at once."""

    names: tuple[str, ...]
    values: Callable[[Any], tuple[Any, ...]]


def _dataclass_shapes() -> dict[type, _Shape]:
    found: dict[type, _Shape] = {}
    pending: list[Any] = list(message_classes())
    while pending:
        kind = pending.pop()
        if get_origin(kind) in (tuple, list):
            pending.extend(get_args(kind)[:1])
        elif is_dataclass(kind) and kind not in found:
            names = tuple(field.name for field in fields(kind))
            found[cast(type, kind)] = _Shape(names, _all_of(names))
            pending.extend(get_type_hints(kind).values())
    return found


def _all_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    only = attrgetter(*names)
    return lambda value: (only(value),)


_FLAT = frozenset({int, str, bytes, bool})
"""Types that are plain as they are."""
_SHAPES = _dataclass_shapes()
_make_submission = maker(Submission)
_ENTRIES = _load_entries()
_WRITERS = _load_writers()
_PREFIXES = _load_prefixes()
_TITLES = _load_titles()
