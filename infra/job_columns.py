"""The jobs of a fold as columns, one for each field of `Job`, each in the form that suits it.

A million jobs have few different terms, states and times, and mostly empty histories: columns are
a quarter of the bytes of rows, and several times faster both ways. Knows nothing of what a field
means: forms follow from the values, types from the class. Used by `state_codec.py` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import IntEnum
from operator import attrgetter
from typing import Any, get_type_hints

import msgspec

from stream_processors.domain.state import Job

FEW = 256
"""So many different values have numbers of one byte."""
PEEK = 4_096
"""A column whose first so many values are mostly different is written as it is."""


class ColumnsUnreadable(Exception):
    """The columns are not those of this release's jobs."""


class Form(IntEnum):
    """How a column's values are written."""

    EACH = 0
    """A list of them."""
    FEW = 1
    """The different ones, and a byte a row that names one of them."""
    MANY = 2
    """The different ones, and a number a row."""
    RARE = 3
    """By row, where they are not the default."""
    SAME = 4
    """One value, which all rows have."""


class Column(msgspec.Struct, array_like=True):
    """One field of all jobs. `picks` are the rows' numbers, where the form has any."""

    form: Form
    rows: int
    values: msgspec.Raw
    picks: bytes = b""


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of `Job`: how to get it and read it. `make` gives each job a default of its own."""

    name: str
    of: Callable[[Job], Any]
    each: msgspec.msgpack.Decoder[list[Any]]
    rare: msgspec.msgpack.Decoder[dict[int, Any]]
    make: Callable[[], Any] | None


def _field(name: str, hint: Any, make: Any) -> _Field:
    each = msgspec.msgpack.Decoder(list[hint])
    rare = msgspec.msgpack.Decoder(dict[int, hint])
    return _Field(name, attrgetter(name), each, rare, None if make is MISSING else make)


_HINTS = get_type_hints(Job)
_FIELDS = [_field(one.name, _HINTS[one.name], one.default_factory) for one in fields(Job)]
_NUMBERS = msgspec.msgpack.Decoder(list[int])


def columns_of(jobs: Sequence[Job]) -> dict[str, Column]:
    """The columns of these jobs, by name."""
    return {one.name: _written(list(map(one.of, jobs)), one.make) for one in _FIELDS}


def jobs_of(columns: dict[str, Column]) -> list[Job]:
    """The jobs again; equal values of a column are one object where they were few."""
    if columns.keys() != _HINTS.keys():
        raise ColumnsUnreadable("the fields are those of another release")
    try:
        read = [_read(columns[one.name], one) for one in _FIELDS]
        return [Job(*row) for row in zip(*read, strict=True)]
    except (IndexError, ValueError, msgspec.MsgspecError) as error:
        raise ColumnsUnreadable(str(error)) from error


def _written(values: list[Any], make: Callable[[], Any] | None) -> Column:
    count = len(values)
    if make is not None:
        default = make()
        rare = {row: value for row, value in enumerate(values) if value != default}
        return Column(Form.RARE, count, _raw(rare))
    if count and values.count(values[0]) == count:
        return Column(Form.SAME, count, _raw(values[:1]))
    if len(set(values[:PEEK])) * 2 > min(count, PEEK):
        return Column(Form.EACH, count, _raw(values))
    # Asked by identity first: terms take long to hash, and many jobs share one object.
    places = list(map(id, values))
    numbers: dict[Any, int] = {}
    number_at = {
        place: numbers.setdefault(value, len(numbers))
        for place, value in dict(zip(places, values, strict=True)).items()
    }
    picks = list(map(number_at.__getitem__, places))
    if len(numbers) <= FEW:
        return Column(Form.FEW, count, _raw(list(numbers)), bytes(picks))
    return Column(Form.MANY, count, _raw(list(numbers)), msgspec.msgpack.encode(picks))


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(value))


def _read(column: Column, field: _Field) -> list[Any]:
    if column.form is Form.RARE:
        if field.make is None:
            raise ColumnsUnreadable(f"{field.name} has no default")
        return _spread(column, field.rare.decode(column.values), field.make)
    values = field.each.decode(column.values)
    if column.form is Form.EACH:
        return values
    if column.form is Form.SAME:
        return values * column.rows
    picks = column.picks if column.form is Form.FEW else _NUMBERS.decode(column.picks)
    return list(map(values.__getitem__, picks))


def _spread(column: Column, rare: dict[int, Any], make: Callable[[], Any]) -> list[Any]:
    values = [make() for _ in range(column.rows)]
    for row, value in rare.items():
        values[row] = value
    return values
