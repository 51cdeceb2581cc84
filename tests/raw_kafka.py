"""Records that no well-meaning client library would write, written to a broker byte by byte.

A Produce request (version 3) with one record batch (magic 2), as Kafka's protocol guide has them:
for header names that are no UTF-8, and batches that are compressed into something else.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

GZIP = 1


def produce_raw(
    bootstrap: str, place: tuple[str, int], records: bytes, *, attributes: int = 0, count: int = 1
) -> int:
    """Write one batch with these record bytes (compressed where `attributes` say so); the error
    code that the broker answers, 0 where it took it.
    """
    topic, partition = place
    batch = _batch(records, attributes, count)
    body = struct.pack(">hhi", -1, -1, 10_000) + struct.pack(">i", 1) + _string(topic)
    body += struct.pack(">iii", 1, partition, len(batch)) + batch
    head = struct.pack(">hhi", 0, 3, 1) + _string("raw")
    host, port = bootstrap.split(":")
    with socket.create_connection((host, int(port)), 30) as link:
        link.sendall(struct.pack(">i", len(head + body)) + head + body)
        (size,) = struct.unpack(">i", _read(link, 4))
        answer = _read(link, size)
    at = 4 + 4 + 2 + len(topic.encode()) + 4 + 4
    (code,) = struct.unpack(">h", answer[at : at + 2])
    return int(code)


def record(
    value: bytes | None,
    key: bytes | None = None,
    headers: Sequence[tuple[bytes, bytes | None]] = (),
) -> bytes:
    """The bytes of one record, the only one of its batch."""
    told = b"\0" + _varint(0) + _varint(0) + _sized(key) + _sized(value) + _varint(len(headers))
    for name, content in headers:
        told += _sized(name) + _sized(content)
    return _varint(len(told)) + told


def _batch(records: bytes, attributes: int, count: int) -> bytes:
    told = struct.pack(">hiqqqhii", attributes, count - 1, 0, 0, -1, -1, -1, count) + records
    rest = struct.pack(">ib", 0, 2) + struct.pack(">I", _crc32c(told)) + told
    return struct.pack(">qi", 0, len(rest)) + rest


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text.encode())) + text.encode()


def _sized(value: bytes | None) -> bytes:
    return _varint(-1) if value is None else _varint(len(value)) + value


def _varint(value: int) -> bytes:
    rest, out = (value << 1) ^ (value >> 63), bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def _read(link: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = link.recv(size - len(found))
        assert more, "the broker closed the connection"
        found += more
    return found


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901 - as usual
        table.append(value)
    return table


_TABLE = _table()


def _crc32c(data: bytes) -> int:
    """Castagnoli's, as Kafka's batches have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
