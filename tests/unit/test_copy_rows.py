"""Rows as PostgreSQL's binary COPY takes them."""

from __future__ import annotations

import struct

import pytest

from infra.copy_rows import EPOCH_US, HEADER, TRAILER, Kind, Table, pack_rows

FIXED = Table("t", (("a", Kind.INTEGER), ("b", Kind.TIME), ("c", Kind.TEXT)))


def body(table: Table, *rows: tuple[object, ...]) -> bytes:
    packed = pack_rows(table, rows)
    assert packed.startswith(HEADER)
    assert packed.endswith(TRAILER)
    return packed[len(HEADER) : -len(TRAILER)]


def only(kind: Kind, value: object) -> bytes:
    """The bytes of one field, without the row's count of columns."""
    packed = body(Table("t", (("a", kind),)), (value,))
    assert packed[:2] == b"\x00\x01"
    return packed[2:]


def test_a_row_is_its_count_of_columns_and_each_field_with_its_length() -> None:
    assert body(FIXED, (7, EPOCH_US + 1, "hé")) == (
        b"\x00\x03"
        + (b"\x00\x00\x00\x04" + b"\x00\x00\x00\x07")
        + (b"\x00\x00\x00\x08" + b"\x00" * 7 + b"\x01")
        + (b"\x00\x00\x00\x03" + "hé".encode())
    )


def test_no_rows_are_an_empty_stream() -> None:
    assert body(FIXED) == b""


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.BIGINT_OR_NULL, None),
        (Kind.TIME_OR_NULL, 0),
        (Kind.UUID_OR_NULL, b""),
        (Kind.JSON, None),
    ],
)
def test_what_is_nothing_is_written_as_null(kind: Kind, value: object) -> None:
    assert only(kind, value) == b"\xff\xff\xff\xff"


def test_json_is_cleaned_inside_and_keeps_a_backslash_that_was_meant() -> None:
    packed = only(Kind.JSON, {"a": ["x\x00", "\\u0000"]})
    assert packed[4:] == b'\x01{"a": ["x\xef\xbf\xbd", "\\\\u0000"]}'


def test_devices_are_an_array_and_none_is_an_empty_one() -> None:
    assert only(Kind.SMALLINTS, b"")[4:] == bytes(8) + b"\x00\x00\x00\x15"
    assert only(Kind.SMALLINTS, b"\x02\x05")[-12:] == bytes.fromhex("000000020002000000020005")


def test_a_number_that_does_not_fit_is_a_bug_and_raises() -> None:
    with pytest.raises(struct.error):
        pack_rows(FIXED, [(1 << 40, EPOCH_US, "")])


def test_columns_of_fixed_width_come_first() -> None:
    with pytest.raises(AssertionError, match="fixed"):
        Table("t", (("a", Kind.TEXT), ("b", Kind.INTEGER)))
