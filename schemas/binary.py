"""Avro's binary encoding, compiled once for our classes: the part of the codec that costs time.

Pure functions from an Avro schema (and the class it describes) to a writer and a reader. What a
general library asks again for every value is settled here once for every field; columns of one
value, or of small numbers, are done in a few operations on all of their bytes; other columns of
numbers go to the library that the caller brings. The wire is Avro 1.12 to the byte: tests hold it
against two other implementations. Knows no framing and no ids (`schemas.codec`), and of Avro only
what `schemas.derive` makes: long, string, bytes, boolean, enum, array, record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from enum import EnumType
from operator import attrgetter
from typing import Any, cast, get_args, get_origin, get_type_hints

from schemas.terms import JobTerms

Write = Callable[[bytearray, Any], None]
"""Appends a value."""
Read = Callable[[bytes, int], tuple[Any, int]]
"""Takes bytes and a place; gives the value there and the place behind it. Raises `IndexError` or
`ValueError` where there is none."""
Schema = Any  # parsed JSON of an `.avsc` file

MORE = 0x80
"""Set in each byte of a number but its last."""
UNZIGZAG = tuple((byte >> 1) ^ -(byte & 1) for byte in range(MORE))
SMALLEST, LARGEST = -64, 63
"""Numbers that take one byte."""
FEW = 8
"""Up to so many numbers, calling the library costs more than it saves."""
INTERNED = (JobTerms,)
"""Records of which many are equal: their bytes are remembered, and one object stands for all."""
REMEMBERED = 1024
REMEMBERED_BYTES = 256
REMEMBERED_LENGTHS = 8


@dataclass(frozen=True, slots=True)
class LongArrays:
    """The general library's way with an array of longs, headers and end included."""

    write: Write
    read: Read


def write_long(out: bytearray, value: int) -> None:
    """A zigzag varint."""
    rest = (value << 1) ^ (value >> 63)
    if rest >> 7:
        if rest >> 64:
            raise ValueError(f"{value} takes more than 64 bits")
        while rest >= MORE:
            out.append(rest & 0x7F | MORE)
            rest >>= 7
    out.append(rest)


def read_long(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag varint of at most 64 bits."""
    byte = data[at]
    if byte < MORE:
        return UNZIGZAG[byte], at + 1
    value = byte & 0x7F
    for shift in range(7, 64, 7):
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < MORE:
            return (value >> 1) ^ -(value & 1), at + 1
    raise ValueError("a number of more than 64 bits")


def _write_bytes(out: bytearray, value: bytes) -> None:
    size = len(value)
    if size < MORE >> 1:
        out.append(size << 1)
    else:
        write_long(out, size)
    out += value


def _span(data: bytes, at: int) -> tuple[int, int]:
    """Where the bytes begin and end that are announced here."""
    size = data[at]
    if size < MORE and not size & 1:
        at += 1
        size >>= 1
    else:
        size, at = read_long(data, at)
    end = at + size
    if size < 0 or end > len(data):
        raise ValueError(f"{size} bytes announced, {len(data) - at} there")
    return at, end


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    at, end = _span(data, at)
    return data[at:end], end


def _write_text(out: bytearray, value: str) -> None:
    _write_bytes(out, value.encode())


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    at, end = _span(data, at)
    return data[at:end].decode(), end


def _write_flag(out: bytearray, value: bool) -> None:
    out.append(1 if value else 0)


def _read_flag(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] > 1:
        raise ValueError("a truth value is 0 or 1")
    return data[at] == 1, at + 1


SIMPLE: dict[str, tuple[Write, Read]] = {
    "long": (write_long, read_long),
    "bytes": (_write_bytes, _read_bytes),
    "string": (_write_text, _read_text),
    "boolean": (_write_flag, _read_flag),
}


class Compiler:
    """Makes writers and readers; one for each schema file, as names hold within a file."""

    def __init__(self, arrays: LongArrays) -> None:
        self._arrays = arrays
        self._named: dict[str, Schema] = {}

    def writer(self, schema: Schema) -> Write:
        """What appends a value of this schema; records are read by attribute."""
        schema, kind = self._resolve(schema)
        if kind in SIMPLE:
            return SIMPLE[kind][0]
        if kind == "enum":
            return _symbol_writer(schema["symbols"])
        if kind == "array":
            item = self.writer(schema["items"])
            many = self._arrays.write if _is_long(schema["items"]) else None
            return _array_writer(item, many)
        names = [field["name"] for field in schema["fields"]]
        write = _record_writer(names, [self.writer(field["type"]) for field in schema["fields"]])
        known = any(cls.__name__ == schema["name"] for cls in INTERNED)
        return _remembering_writer(write) if known else write

    def reader(self, schema: Schema, kind: Any) -> Read:
        """What reads a value of this schema into a value of the type `kind`.

        Fields that the class does not have are read and left out; fields that the writer did not
        know take the class's default.
        """
        schema, name = self._resolve(schema)
        if name in SIMPLE:
            return SIMPLE[name][1]
        if name == "enum":
            return _symbol_reader(schema["symbols"], kind)
        if name == "array":
            make = get_origin(kind) or list
            item = self.reader(schema["items"], next(iter(get_args(kind)), Any))
            many = self._arrays.read if _is_long(schema["items"]) else None
            return _array_reader(item, make, many)
        read = record_reader(self.field_readers(schema, kind), kind)
        return _remembering_reader(read) if kind in INTERNED else read

    def field_readers(self, schema: Schema, kind: Any) -> list[tuple[str, Read]]:
        """The readers of a record's fields in their order, each with the field's name."""
        hints = get_type_hints(kind) if is_dataclass(kind) else {}
        return [
            (field["name"], self.reader(field["type"], hints.get(field["name"], Any)))
            for field in schema["fields"]
        ]

    def _resolve(self, schema: Schema) -> tuple[Schema, str]:
        """The schema that a name stands for, and what kind of schema it is."""
        if isinstance(schema, str):
            if schema in SIMPLE:
                return schema, schema
            schema = self._named[schema]
        if "name" in schema:
            self._named[f"{schema['namespace']}.{schema['name']}"] = schema
        return schema, schema["type"]


def _is_long(schema: Schema) -> bool:
    return schema == "long" or (isinstance(schema, dict) and schema["type"] == "long")


def _record_writer(names: Sequence[str], writers: Sequence[Write]) -> Write:
    if len(names) == 1:
        only, alone = writers[0], attrgetter(names[0])
        return lambda out, value: only(out, alone(value))
    values = attrgetter(*names)

    def write(out: bytearray, value: Any) -> None:
        for one, part in zip(writers, values(value), strict=True):
            one(out, part)

    return write


def record_reader(readers: list[tuple[str, Read]], cls: Any) -> Read:
    """Reads these fields, in this order, into `cls`; into a dict where that is no record's class."""
    names = [name for name, _ in readers]
    only_reads = [read for _, read in readers]
    own = [field.name for field in fields(cls)] if is_dataclass(cls) else []
    make = maker(cls) if own == names else None

    def read(data: bytes, at: int) -> tuple[Any, int]:
        values = []
        for one in only_reads:
            value, at = one(data, at)
            values.append(value)
        if make is not None:
            return make(*values), at
        found = dict(zip(names, values, strict=True))
        if not own:
            return found, at
        return cls(**{name: found[name] for name in own if name in found}), at

    return read


def maker(cls: type) -> Callable[..., Any]:
    """Makes instances of a frozen, slotted class from all of its values, in a third of the time.

    It would set each through `object.__setattr__`; a soft twin of the same slots, which is then
    declared to be of the class, sets them plainly.
    """
    names = [field.name for field in fields(cast(Any, cls))]
    assert not hasattr(cls, "__post_init__"), f"{cls.__name__} wants a say when it is made"
    soft = make_dataclass(cls.__name__, names, slots=True)

    def make(*values: Any) -> Any:
        made = soft(*values)
        made.__class__ = cls
        return made

    return make


def _symbol_writer(symbols: list[str]) -> Write:
    encoded = {}
    for place, symbol in enumerate(symbols):
        out = bytearray()
        write_long(out, place)
        encoded[symbol] = bytes(out)

    def write(out: bytearray, value: str) -> None:
        out += encoded[value]

    return write


def _symbol_reader(symbols: list[str], kind: Any) -> Read:
    members: list[Any] = list(symbols)
    if isinstance(kind, EnumType):
        known = {str(member): member for member in cast(Any, kind)}
        members = [known.get(symbol, known["UNKNOWN"]) for symbol in symbols]

    def read(data: bytes, at: int) -> tuple[Any, int]:
        place, at = read_long(data, at)
        if place < 0:
            raise ValueError("no symbol has a number below 0")
        return members[place], at

    return read


def _array_writer(item: Write, many: Write | None) -> Write:
    def write(out: bytearray, values: Sequence[Any]) -> None:
        count = len(values)
        if count == 0:
            out.append(0)
            return
        first = values[0]
        if count == 1:
            out.append(2)
            item(out, first)
        elif values[-1] == first and values.count(first) == count:  # a column of one value
            write_long(out, count)
            one = bytearray()
            item(one, first)
            out += one * count
        elif many is not None and count > FEW:
            if min(values) < SMALLEST or max(values) > LARGEST:
                many(out, values)
                return
            write_long(out, count)
            out += bytes([(value << 1) ^ (value >> 63) for value in values])
        else:
            write_long(out, count)
            for value in values:
                item(out, value)
        out.append(0)

    return write


def _array_reader(item: Read, make: Any, many: Read | None) -> Read:
    read_block = _block_reader(item, many is not None)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        if data[at] == 0:
            return make(), at + 1
        if data[at] == 2:  # one item, and mostly no other block
            value, end = item(data, at + 1)
            if data[end] == 0:
                return make((value,)), end + 1
        start, found = at, []
        count, at = read_long(data, at)
        while count:
            if count < 0:  # a block that says how long it is
                count = -count
                _, at = read_long(data, at)
            if count > len(data) - at:  # nothing takes less than a byte
                raise ValueError(f"{count} items announced, {len(data) - at} bytes there")
            values, at = read_block(data, at, count)
            if values is None:
                assert many is not None
                values, at = many(data, start)
                return make(values), at
            found += values
            count, at = read_long(data, at)
        return make(found), at

    return read


def _block_reader(
    item: Read, longs: bool
) -> Callable[[bytes, int, int], tuple[list[Any] | None, int]]:
    """Reads so many items; None where they are numbers that the library reads faster."""

    def read(data: bytes, at: int, count: int) -> tuple[list[Any] | None, int]:
        first, end = item(data, at)
        whole = at + (end - at) * count
        if whole <= len(data) and data[at:whole] == data[at:end] * count:
            return [first] * count, whole  # a column of one value
        if longs and count > FEW:
            chunk = data[at : at + count]
            if not chunk.isascii():
                return None, at
            return [UNZIGZAG[byte] for byte in chunk], at + count
        found = [first]
        for _ in range(count - 1):
            value, end = item(data, end)
            found.append(value)
        return found, end

    return read


def _remembering_writer(write: Write) -> Write:
    known: dict[Any, bytes] = {}

    def write_known(out: bytearray, value: Any) -> None:
        encoded = known.get(value)
        if encoded is None:
            one = bytearray()
            write(one, value)
            encoded = bytes(one)
            if len(known) >= REMEMBERED:
                known.clear()
            if len(encoded) <= REMEMBERED_BYTES:
                known[value] = encoded
        out += encoded

    return write_known


def _remembering_reader(read: Read) -> Read:
    """No encoding is the beginning of another, so known bytes at a place are all of the value."""
    tables: tuple[tuple[int, dict[bytes, Any]], ...] = ()

    def read_known(data: bytes, at: int) -> tuple[Any, int]:
        nonlocal tables
        for length, known in tables:
            value = known.get(data[at : at + length])
            if value is not None:
                return value, at + length
        value, end = read(data, at)
        if end - at <= REMEMBERED_BYTES:
            of_length = dict(tables)
            known = of_length.pop(end - at, {})
            if len(known) >= REMEMBERED:
                known = {}
            known[data[at:end]] = value
            tables = ((end - at, known), *of_length.items())[:REMEMBERED_LENGTHS]
        return value, end

    return read_known
