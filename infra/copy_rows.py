"""Rows to the bytes of PostgreSQL's binary COPY. Pure; knows no connection and no table of ours.

A `Table` names its columns with their kinds, those of fixed width first. A row is a tuple in that
order, in our own terms: times are UTC microseconds, ids 16 raw bytes, devices one byte each. Text
cannot hold U+0000 in PostgreSQL; it is written as U+FFFD, so that no text can stop a writer. The
format is in PostgreSQL's manual under COPY, "Binary Format". Sent by `infra/postgres.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import chain
from struct import Struct
from typing import Any

EPOCH_US = 946_684_800_000_000
"""PostgreSQL counts microseconds from 2000-01-01 UTC."""
HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"
CHUNK_ROWS = 256
"""Rows packed by one struct."""
EMPTY = bytes(4)
SMALLINT_OID = 21
WORD_MAX = 256
JSONB_VERSION = b"\x01"
REPLACEMENT = "\ufffd"
_LENGTH = Struct(">i")
_INT8 = Struct(">iq")
_ARRAY_HEAD = Struct(">iiiii")


class Kind(Enum):
    """What a column holds. The first group has fixed width and is never NULL.

    INTEGER, BIGINT and SMALLINT take an int, TIME microseconds, UUID 16 bytes. Of the others
    BIGINT_OR_NULL takes None, TIME_OR_NULL 0 and UUID_OR_NULL b"" for NULL. WORD is text of few
    different values, TEXT any. SMALLINTS is an array from one byte each. JSON is a value for
    `json.dumps` as jsonb, None for NULL.
    """

    INTEGER = "i"
    BIGINT = "q"
    SMALLINT = "h"
    BOOLEAN = "?"
    TIME = "time"
    UUID = "16s"
    BIGINT_OR_NULL = "bigint or null"
    TIME_OR_NULL = "time or null"
    UUID_OR_NULL = "uuid or null"
    WORD = "word"
    TEXT = "text"
    BYTES = "bytes"
    SMALLINTS = "smallints"
    JSON = "json"


_WIDTHS = {
    Kind.INTEGER: ("i", 4),
    Kind.BIGINT: ("q", 8),
    Kind.SMALLINT: ("h", 2),
    Kind.BOOLEAN: ("?", 1),
    Kind.TIME: ("q", 8),
    Kind.UUID: ("16s", 16),
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table's name and the columns that are written, each with its kind."""

    name: str
    columns: tuple[tuple[str, Kind], ...]

    def __post_init__(self) -> None:
        """Hold the rule that columns of fixed width come first."""
        fixed = [kind in _WIDTHS for _, kind in self.columns]
        assert fixed == sorted(fixed, reverse=True), f"{self.name}: fixed widths come first"


def pack_rows(table: Table, rows: Sequence[tuple[Any, ...]]) -> bytes:
    """The whole COPY stream of these rows.

    Raises `struct.error` for an integer that its column cannot hold: that is a bug of the caller.
    """
    out = [HEADER]
    for start in range(0, len(rows), CHUNK_ROWS):
        out += _pack_chunk(table, rows[start : start + CHUNK_ROWS])
    out.append(TRAILER)
    return b"".join(out)


def clean_text(text: str) -> str:
    """Text that PostgreSQL can hold."""
    return text.replace("\x00", REPLACEMENT) if "\x00" in text else text


def _pack_chunk(table: Table, rows: Sequence[tuple[Any, ...]]) -> Iterator[bytes]:
    """Column by column: the loops over rows are those of the library, which are fast."""
    columns = list(zip(*rows, strict=True))
    layout, step, fixed = _head(table)
    flat: list[Any] = [len(table.columns)] * (len(rows) * step)
    for place, (kind, width) in enumerate(fixed):
        column = columns[place]
        flat[1 + 2 * place :: step] = [width] * len(rows)
        flat[2 + 2 * place :: step] = _since_2000(column) if kind is Kind.TIME else column
    heads = _struct(layout, len(rows)).pack(*flat)
    size = len(heads) // len(rows)
    fronts = (heads[start : start + size] for start in range(0, len(heads), size))
    encoders = (_ENCODERS[kind] for _, kind in table.columns[len(fixed) :])
    encoded = [
        map(encode, column) for encode, column in zip(encoders, columns[len(fixed) :], strict=True)
    ]
    if not encoded:
        return fronts
    return chain.from_iterable(zip(fronts, *encoded, strict=True))


@lru_cache(maxsize=64)
def _head(table: Table) -> tuple[str, int, list[tuple[Kind, int]]]:
    """The struct layout of a row's fixed part, how many values it has, and its columns' widths."""
    layout = "h"
    fixed = []
    for _, kind in table.columns:
        if kind not in _WIDTHS:
            break
        code, width = _WIDTHS[kind]
        layout += f"i{code}"
        fixed.append((kind, width))
    return layout, 1 + 2 * len(fixed), fixed


@lru_cache(maxsize=64)
def _struct(layout: str, rows: int) -> Struct:
    return Struct(">" + layout * rows)


def _since_2000(column: Iterable[int]) -> list[int]:
    return [micros - EPOCH_US for micros in column]


def _bytes(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value


def _text(value: str) -> bytes:
    return _bytes(clean_text(value).encode()) if value else EMPTY


def _word(value: str) -> bytes:
    """Remembered, unless it is too long for the memory to hold thousands."""
    return _short_word(value) if len(value) <= WORD_MAX else _text(value)


@lru_cache(maxsize=4096)
def _short_word(value: str) -> bytes:
    return _text(value)


def _bigint_or_null(value: int | None) -> bytes:
    return NULL if value is None else _INT8.pack(8, value)


def _time_or_null(value: int) -> bytes:
    return _INT8.pack(8, value - EPOCH_US) if value else NULL


def _uuid_or_null(value: bytes) -> bytes:
    return _bytes(value) if value else NULL


@lru_cache(maxsize=4096)
def _smallints(value: bytes) -> bytes:
    if not value:
        return _bytes(Struct(">iii").pack(0, 0, SMALLINT_OID))
    items = b"".join(Struct(">ih").pack(2, item) for item in value)
    return _bytes(_ARRAY_HEAD.pack(1, 0, SMALLINT_OID, len(value), 1) + items)


def _json(value: Any) -> bytes:
    if value is None:
        return NULL
    return _bytes(JSONB_VERSION + json.dumps(_clean(value), ensure_ascii=False).encode())


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


_ENCODERS: dict[Kind, Callable[[Any], bytes]] = {
    Kind.BIGINT_OR_NULL: _bigint_or_null,
    Kind.TIME_OR_NULL: _time_or_null,
    Kind.UUID_OR_NULL: _uuid_or_null,
    Kind.WORD: _word,
    Kind.TEXT: _text,
    Kind.BYTES: _bytes,
    Kind.SMALLINTS: _smallints,
    Kind.JSON: _json,
}
