"""The codec: what is encoded comes back, and bytes from anywhere do no harm."""

from __future__ import annotations

import json
import time
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import binary, codec, upcast
from schemas.codec import (
    MalformedRecord,
    UnknownSchema,
    decode,
    decode_event,
    decode_spec,
    decode_submission,
    decode_title,
    encode,
    encode_body,
    encode_event,
    schema_id_of,
    to_plain,
)
from schemas.commands import Submission, SubmitJob
from schemas.derive import message_classes
from schemas.envelope import EncodedEvent
from schemas.events import Event, JobsForgotten, JobsSubmitted, TasksPlaced
from schemas.reports import Heartbeat
from schemas.terms import DEFAULT_TERMS, Extra, JobSpec, JobTerms, Label, Micros, Topology
from tests.message_samples import instances, sample

CLASSES = message_classes()
FRAME = 5
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def long_bytes(value: int) -> bytes:
    out = bytearray()
    binary.write_long(out, value)
    return bytes(out)


@every_class
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_every_message_comes_back_as_it_was(cls: type, data: st.DataObject) -> None:
    message = data.draw(instances(cls))
    framed = encode(message)
    assert framed[0] == 0
    assert int.from_bytes(framed[1:FRAME], "big") == schema_id_of(cls)
    back = decode(framed)
    assert back == message
    assert types_of(back) == types_of(message)
    assert encode_body(message) == (schema_id_of(cls), framed[FRAME:])
    assert codec.message_name(framed) == cls.__name__


def types_of(value: Any) -> Any:
    """Equality would take 1 for True and a text for a symbol."""
    if isinstance(value, tuple | list):
        return (type(value), [types_of(item) for item in value])
    slots = getattr(type(value), "__slots__", ())
    names = [name for name in slots if hasattr(value, name) and not isinstance(value, str)]
    return (type(value), [types_of(getattr(value, name)) for name in names])


def test_an_event_comes_back_from_a_decision() -> None:
    event: Event = sample(TasksPlaced)
    assert decode_event(encode_event(event)) == event
    with pytest.raises(UnknownSchema):
        decode_event(EncodedEvent(9_999, b""))


def submission(**changes: Any) -> SubmitJob:
    made = SubmitJob(DEFAULT_TERMS, "key", 50, (), 0, "actor", JobSpec("training", "a name"))
    return replace(made, **changes)


@quick
@given(command=instances(SubmitJob))
def test_a_submission_is_decoded_up_to_its_spec(command: SubmitJob) -> None:
    found = decode_submission(encode(command))
    names = [name for name in Submission.__slots__ if not name.startswith("spec")]
    assert [getattr(found, name) for name in names] == [getattr(command, name) for name in names]
    assert decode_spec(found.spec_schema_id, found.spec) == command.spec
    title = decode_title(found.spec_schema_id, found.spec)
    assert title == (command.spec.job_type, command.spec.name)


def test_equal_terms_are_one_object_however_often_they_are_read() -> None:
    first = decode_submission(encode(submission())).terms
    again = decode_submission(encode(submission(idempotency_key="other"))).terms
    assert first == DEFAULT_TERMS
    assert first is again


def test_terms_are_told_apart_whatever_was_read_before() -> None:
    changes: list[dict[str, Any]] = [
        {"queue": "q"},
        {"tenant": "t" * 300},
        {"tasks": 64},
        {"tasks": 8192},
        {"topology": Topology.RING},
        {"extras": (Extra("licence", 1),)},
        {"node_selector": (Label("zone", "a"), Label("zone", "b"))},
        {"gpu_models": ("a", "b")},
        {"backoff_max_s": -1},
    ]
    changes += [  # more than are remembered
        {"tasks": number, "queue": f"q{number % 13}" * (number % 11)}
        for number in range(binary.REMEMBERED + 10)
    ]
    terms = [replace(DEFAULT_TERMS, **change) for change in changes]
    for _ in range(2):
        for one in terms:
            assert decode_submission(encode(submission(terms=one))).terms == one


def test_only_a_submission_is_decoded_as_one() -> None:
    with pytest.raises(MalformedRecord, match="not a SubmitJob"):
        decode_submission(encode(sample(Heartbeat)))
    with pytest.raises(MalformedRecord, match="not a JobSpec"):
        decode_spec(schema_id_of(Heartbeat), b"")
    with pytest.raises(MalformedRecord, match="not a JobSpec"):
        decode_title(schema_id_of(Heartbeat), b"")


def test_plain_values_have_dicts_and_lists_and_nothing_else() -> None:
    spec = replace(sample(JobSpec), command=("a", "b"), labels=(Label("x", "y"),), env=())
    plain = to_plain(spec)
    assert plain["command"] == ["a", "b"]
    assert plain["labels"] == [{"name": "x", "value": "y"}]
    assert plain["env"] == []
    assert json.loads(json.dumps(plain))["job_type"] == spec.job_type
    assert to_plain(JobsForgotten([1, 2])) == {"job_nos": [1, 2]}
    assert to_plain([Label("x", "y")]) == [{"name": "x", "value": "y"}]
    assert to_plain(7) == 7


@quick
@given(data=st.binary(max_size=200))
def test_bytes_from_anywhere_raise_only_what_is_promised(data: bytes) -> None:
    for read in (decode, decode_submission, codec.message_name, codec.frame_id):
        try:
            read(data)
        except (MalformedRecord, UnknownSchema):
            continue


@every_class
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_damaged_messages_raise_only_what_is_promised(cls: type, data: st.DataObject) -> None:
    framed = bytearray(encode(data.draw(st.one_of(instances(cls), st.just(sample(cls))))))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(framed) - 1))
        kind = data.draw(st.sampled_from(["change", "cut", "insert", "huge"]))
        if kind == "change":
            framed[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del framed[place + 1 :]
        elif kind == "insert":
            framed[place:place] = data.draw(st.binary(max_size=8))
        else:
            framed[place:place] = long_bytes(data.draw(st.integers(2**20, 2**63 - 1)))
    readers = [decode, decode_submission] if cls is SubmitJob else [decode]
    for read in readers:
        try:
            read(bytes(framed))
        except (MalformedRecord, UnknownSchema):
            continue


@pytest.mark.parametrize("size", [2**20, 2**31, 2**40, 2**62, 2**63 - 1, -1, -(2**40), -(2**63)])
@pytest.mark.parametrize("tail", [b"", b"\x00" * 40, b"\x02" * 40, b"\xff" * 40])
def test_an_announced_size_takes_neither_time_nor_memory(size: int, tail: bytes) -> None:
    frames = [
        encode(JobsForgotten([]))[:FRAME] + long_bytes(size),
        encode(sample(Heartbeat))[:FRAME] + long_bytes(size),
        encode(submission())[:FRAME] + long_bytes(size),
        encode(sample(JobsSubmitted))[:FRAME] + b"\x02\x00" + long_bytes(size),
        encode(sample(TasksPlaced))[:FRAME] + b"\x00" * 4 + long_bytes(size),
    ]
    tracemalloc.start()
    started = time.process_time()
    for frame in frames:
        with pytest.raises(MalformedRecord):
            decode(frame + tail)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - started < 1
    assert peak < 1_000_000


def test_nested_blocks_cannot_be_worth_more_than_their_bytes() -> None:
    """A column of one value is told by its bytes, so a small record stays a small column."""
    big = JobsForgotten([5] * 100_000)
    assert len(encode(big)) > 100_000
    assert decode(encode(big)) == big


def test_bytes_after_the_message_are_refused() -> None:
    with pytest.raises(MalformedRecord, match="too many"):
        decode(encode(sample(Heartbeat)) + b"\x00")


def test_a_number_of_more_than_64_bits_is_refused_both_ways() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        encode(JobsForgotten([2**63]))
    with pytest.raises(MalformedRecord):
        decode(encode(JobsForgotten([]))[:FRAME] + b"\x02" + b"\xff" * 10 + b"\x01\x00")


def test_a_newer_schema_is_told_from_a_broken_record() -> None:
    with pytest.raises(UnknownSchema, match="77777"):
        decode(b"\x00" + (77_777).to_bytes(4, "big") + b"anything")
    for broken in (b"", b"\x00", b"\x01\x00\x00\x00\x01", b"{}"):
        with pytest.raises(MalformedRecord, match="not framed"):
            decode(broken)


def test_fields_that_the_writer_did_not_know_take_their_defaults() -> None:
    old = {
        "type": "record",
        "name": "JobTerms",
        "namespace": "foldline",
        "fields": [
            {"name": "queue", "type": "string"},
            {"name": "forgotten", "type": {"type": "array", "items": "string"}},
            {"name": "tasks", "type": "long"},
        ],
    }
    read = binary.Compiler(codec._ARRAYS).reader(old, JobTerms)
    data = b"\x02q" + b"\x02\x02x\x00" + b"\x08"
    assert read(data, 0) == (JobTerms(queue="q", tasks=4), len(data))


def test_a_symbol_that_the_class_no_longer_has_is_read_as_unknown() -> None:
    old = {
        "type": "enum",
        "name": "Topology",
        "namespace": "foldline",
        "symbols": ["UNKNOWN", "star", "ring"],
    }
    read = binary.Compiler(codec._ARRAYS).reader(old, Topology)
    assert [read(bytes([place]), 0)[0] for place in (0, 2, 4)] == [
        Topology.UNKNOWN,
        Topology.UNKNOWN,
        Topology.RING,
    ]


def test_an_upcaster_makes_an_old_message_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "node": found["node"].upper()}

    monkeypatch.setitem(upcast.UPCASTERS, ("Heartbeat", 1), rename)
    read = codec._reader(Heartbeat, 1)
    beat = Heartbeat("n1", "default", 3, 2, Micros(5))
    data = encode_body(beat)[1]
    assert read(data, 0) == (replace(beat, node="N1"), len(data))
