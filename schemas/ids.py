"""Ids: how a job's id follows from what it is, and which partition a key belongs to.

Pure functions. A job id is a UUIDv8 (RFC 9562) of the shard's number (first 16 bits) and a hash of
(tenant, pool, idempotency key), so a repeated submission is the same job and any command finds
its shard by the id alone.
"""

from __future__ import annotations

from hashlib import blake2b

JOB_ID_BYTES = 16


def job_id(shard: int, tenant: str, pool: str, idempotency_key: str) -> bytes:
    """The 16 bytes of the job's UUIDv8; `shard` is 0 to 65535."""
    names = b"\x00".join(part.encode() for part in (tenant, pool, idempotency_key))
    raw = bytearray(shard.to_bytes(2, "big") + blake2b(names, digest_size=14).digest())
    raw[6] = 0x80 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return bytes(raw)


def shard_of(raw: bytes) -> int:
    """The shard whose log holds this job."""
    return int.from_bytes(raw[:2], "big")


def format_job_id(raw: bytes) -> str:
    """The id as users see it: 8-4-4-4-12 lowercase hex."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_job_id(text: str) -> bytes | None:
    """The 16 bytes of a job id in its usual form, or None if it is not one."""
    compact = text.replace("-", "")
    if len(text) != 36 or len(compact) != 32:
        return None
    try:
        raw = bytes.fromhex(compact)
    except ValueError:
        return None
    return raw if format_job_id(raw) == text.lower() else None


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 of a key (32 bits, unsigned), as Java's and librdkafka's producers take it."""
    mask = 0xFFFFFFFF
    mix = 0x5BD1E995
    length = len(data)
    value = (0x9747B28C ^ length) & mask
    body = length - length % 4
    for start in range(0, body, 4):
        word = int.from_bytes(data[start : start + 4], "little") * mix & mask
        word = (word ^ (word >> 24)) * mix & mask
        value = (value * mix & mask) ^ word
    if length % 4:
        value = (value ^ int.from_bytes(data[body:], "little")) * mix & mask
    value = (value ^ (value >> 13)) * mix & mask
    return value ^ (value >> 15)


def partition_of(key: str, partitions: int) -> int:
    """The partition that a keyed record goes to (Kafka's default partitioner)."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions
