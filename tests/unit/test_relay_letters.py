"""What the relay says of jobs that fail: retries, dead letters, parked inputs, redriven jobs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from projections.relay_facts import to_record
from schemas.codec import decode, decode_spec
from schemas.events import InputsParked
from schemas.public import DeadLetter, JobRetry, ParkedInput
from schemas.terms import FailureClass, JobState, Micros, ParkedRecord, RecordHeader, TaskState
from schemas.topics import DEAD_LETTERS, JOB_RETRIES
from tests.cluster import node, uid
from tests.told_facts import Told
from tests.view_shard import ViewShard, job


@pytest.fixture
def told() -> Told:
    return Told(ViewShard())


def test_a_retry_tells_its_due_time_what_is_left_and_where_it_failed(told: Told) -> None:
    shard = told.shard
    shard.report(node())
    shard.command(job("a", max_retries=2))
    shard.says("a", TaskState.STARTED)
    ended = shard.row("a", TaskState.ENDED, 0, FailureClass.USER_ERROR)
    shard.report(replace(ended, tail_rows=[0], tails=["boom"]))
    due = shard.job("a").due_at
    told.listen()
    retry = told.facts[-1]
    assert retry.topic == JOB_RETRIES.name
    assert retry.message == JobRetry(
        job_id=uid("a"),
        tenant="default",
        cluster="default",
        queue="default",
        failed_attempt=1,
        at=Micros(shard.job("a").changed_at),
        due_at=Micros(due),
        retries_left=1,
        failure=FailureClass.USER_ERROR,
        message="it broke",
        nodes=("n1",),
        log_tail="boom",
        fingerprint=shard.job("a").fingerprint,
        job_type="training",
    )
    assert shard.job("a").fingerprint
    assert told.facts[-2].id == retry.causation
    assert told.states("a")[-1] is JobState.RETRYING


def test_a_dead_letter_holds_all_that_a_redrive_needs(told: Told) -> None:
    shard = told.shard
    shard.report(node())
    shard.command(job("a", job_type="evaluation", max_retries=1, backoff_s=0))
    shard.run("a", FailureClass.USER_ERROR)
    shard.wait(1)
    shard.says("a", TaskState.STARTED)
    ended = shard.row("a", TaskState.ENDED, 0, FailureClass.USER_ERROR)
    shard.report(replace(ended, tail_rows=[0], tails=["the last words"]))
    told.listen()
    letter = told.facts[-1]
    assert letter.topic == DEAD_LETTERS.name
    assert isinstance(letter.message, DeadLetter)
    assert (letter.message.attempts, letter.message.nodes) == (2, ("n1",))
    assert [(one.attempt, one.nodes) for one in letter.message.history] == [
        (1, ("n1",)),
        (2, ("n1",)),
    ]
    assert letter.message.log_tail == "the last words"
    assert letter.message.fingerprint == shard.job("a").fingerprint != ""
    assert (letter.message.terms, letter.message.priority) == (shard.job("a").terms, 50)
    spec = decode_spec(letter.message.spec_schema_id, letter.message.spec)
    assert spec.job_type == "evaluation"
    assert told.states("a")[-1] is JobState.DEAD_LETTER


def test_a_redriven_job_says_in_every_event_what_caused_it(told: Told) -> None:
    shard = told.shard
    shard.report(node())
    shard.command(job("a", max_retries=0))
    shard.run("a", FailureClass.USER_ERROR)
    again = replace(job("b", max_retries=0), causation_id=f"redrive:{uid('a')}", redrives=uid("a"))
    shard.command(again)
    shard.run("b", FailureClass.USER_ERROR)
    told.listen()
    assert {event.causation_id for event in told.events("a")} == {""}
    assert {event.causation_id for event in told.events("b")} == {f"redrive:{uid('a')}"}
    letter = told.facts[-1].message
    assert isinstance(letter, DeadLetter)
    assert letter.redrives == uid("a")


def test_a_parked_input_becomes_a_letter_with_its_bytes(told: Told) -> None:
    parked = ParkedRecord(
        input="commands",
        offset=7,
        at=Micros(5),
        code="unknown_schema",
        message="start a newer release",
        key=b"default",
        headers=(RecordHeader("ce_id", b"x"),),
        size=3,
        sha256=bytes(32),
        value=b"\x00\x01\x02",
    )
    told.shard.records.append(
        replace(told.shard.records[-1], offset=9, events=(InputsParked([parked]),))
    )
    letter = told.listen()[-1]
    assert (letter.topic, letter.key) == (DEAD_LETTERS.name, "0:commands:7")
    assert letter.causation == "foldline.jobs.commands.v1:0:7"
    message = letter.message
    assert isinstance(message, ParkedInput)
    assert (message.topic, message.value, message.headers) == (
        "foldline.jobs.commands.v1",
        b"\x00\x01\x02",
        (RecordHeader("ce_id", b"x"),),
    )
    assert decode(to_record(letter).value) == message
