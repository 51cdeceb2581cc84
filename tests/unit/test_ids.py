"""Job ids, and the partition that a key belongs to: the same for every producer in the world."""

from __future__ import annotations

from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import format_job_id, job_id, murmur2, parse_job_id, partition_of, shard_of

KNOWN = [
    # Kafka's own test of its Java producer (UtilsTest.testMurmur2), as signed 32-bit numbers.
    ("21", -973932308),
    ("foobar", -790332482),
    ("a-little-bit-long-string", -985981536),
    ("a-little-bit-longer-string", -1486304829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    ("abc", 479470107),
    # librdkafka's (unittest_murmur2), unsigned.
    ("kafka", 0xD067CF64),
    ("giberish123456789", 0x8F552B0C),
    ("1234", 0x9FC97B14),
    ("234", 0xE7C009CA),
    ("34", 0x873930DA),
    ("4", 0x5A4B5CA1),
    ("PreAmbleWillBeRemoved,ThePrePartThatIs", 0x78424F1C),
    ("reAmbleWillBeRemoved,ThePrePartThatIs", 0x4A62B377),
    ("eAmbleWillBeRemoved,ThePrePartThatIs", 0xE0E4E09E),
    ("AmbleWillBeRemoved,ThePrePartThatIs", 0x62B8B43F),
    ("", 0x106E08D9),
]
NAMES = st.text(max_size=20)
SHARDS = st.integers(0, 65_535)


@pytest.mark.parametrize(("key", "expected"), KNOWN)
def test_murmur2_gives_the_numbers_of_java_and_librdkafka(key: str, expected: int) -> None:
    assert murmur2(key.encode()) == expected & 0xFFFFFFFF


@pytest.mark.parametrize(("key", "expected"), KNOWN)
def test_a_partition_is_the_positive_part_of_the_hash(key: str, expected: int) -> None:
    for partitions in (1, 2, 7, 64):
        assert partition_of(key, partitions) == (expected & 0x7FFFFFFF) % partitions


@given(shard=SHARDS, tenant=NAMES, pool=NAMES, key=NAMES)
def test_a_job_id_is_a_version_8_uuid_that_names_its_shard(
    shard: int, tenant: str, pool: str, key: str
) -> None:
    raw = job_id(shard, tenant, pool, key)
    as_uuid = UUID(bytes=raw)
    assert as_uuid.version == 8
    assert as_uuid.variant == RFC_4122
    assert shard_of(raw) == shard
    assert raw == job_id(shard, tenant, pool, key)
    assert format_job_id(raw) == str(as_uuid)
    assert parse_job_id(format_job_id(raw)) == raw
    assert parse_job_id(format_job_id(raw).upper()) == raw


@given(first=st.tuples(SHARDS, NAMES, NAMES, NAMES), other=st.tuples(SHARDS, NAMES, NAMES, NAMES))
def test_different_submissions_have_different_ids(
    first: tuple[int, str, str, str], other: tuple[int, str, str, str]
) -> None:
    separable = all("\x00" not in part for part in (*first[1:], *other[1:]))
    if first != other and separable:
        assert job_id(*first) != job_id(*other)


def test_job_ids_never_change_between_releases() -> None:
    raw = job_id(3, "acme", "gpu-a", "sweep-1/42")
    assert format_job_id(raw) == RELEASED_ID


RELEASED_ID = "000340d2-a733-8b54-ad4a-7628ccba7ee3"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 36,
        "00030000-0000-8000-8000-00000000000",
        "00030000-0000-8000-8000-0000000000000",
        "000300000000800080000000000000000000",
        "{0030000-0000-8000-8000-00000000000}",
        "0003000-00000-8000-8000-000000000000",
        " 003000-0000-8000-8000-0000000000000",
        "00030000-0000-8000-8000-00000000000\N{ARABIC-INDIC DIGIT ONE}",
        "--------------------------------0000",
    ],
)
def test_what_is_not_a_job_id_is_none(text: str) -> None:
    assert parse_job_id(text) is None
