"""Dead letters in the fold, their redrives and purges; and what is refused under overload."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.commands import PurgeDeadLetters
from schemas.events import (
    CommandsRefused,
    DeadLettersPurged,
    JobsDeadLettered,
    JobsSubmitted,
    RetriesScheduled,
)
from schemas.terms import FailureClass
from stream_processors.domain.retries import failure_fingerprint
from stream_processors.domain.state import Task
from tests.cluster import Shard, only, shard_of_two, submission, uid

BROKEN = FailureClass.INFRASTRUCTURE
ERROR = FailureClass.USER_ERROR


# Dead letters.


def test_a_dead_letter_remembers_its_attempts_and_what_they_wrote_last() -> None:
    shard = shard_of_two()
    shard.command(submission("a", max_retries=1))
    shard.run("a", ERROR, "ValueError: bad value 7")
    shard.wait(4_000)
    buried = only(shard.run("a", ERROR, "ValueError: bad value 9"), JobsDeadLettered)
    job = shard.job("a")
    assert [(one.attempt, one.nodes, one.tail[-1]) for one in job.history] == [
        (1, ("n1",), "7"),
        (2, ("n2",), "9"),
    ]
    assert buried.fingerprints == [job.fingerprint]
    retried = next(event for event in shard.events if isinstance(event, RetriesScheduled))
    assert retried.fingerprints == buried.fingerprints, "the two failures look alike"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("KeyError: 'a' at 0x7f3a", "KeyError: 'a' at 0x9999", True),
        ("lost 10.0.0.7:29500 after 31 s", "lost 10.0.0.8:29501 after 9 s", True),
        ("job 3fae-11d0-9a2b1c failed", "job 77ae-21d0-9a2b1d failed", True),
        ("KeyError: 'a'", "KeyError: 'b'", False),
        ("out of disk", "out of time", False),
    ],
)
def test_failures_that_differ_in_numbers_only_have_one_fingerprint(
    one: str, other: str, alike: bool
) -> None:
    prints = [
        failure_fingerprint(ERROR, "", [Task(1, "n1", b"", 1, failure=ERROR, tail=tail)])
        for tail in (one, other)
    ]
    assert (prints[0] == prints[1]) is alike
    assert prints[0] != failure_fingerprint(BROKEN, one, [])


def test_a_redrive_is_a_new_job_that_names_its_cause_and_repeats_are_the_same_job() -> None:
    shard = shard_of_two()
    shard.command(submission("a", max_retries=0))
    shard.run("a", ERROR)
    again = replace(submission("again"), causation_id="redrive 1", redrives=uid("a"))
    submitted = only(shard.command(again), JobsSubmitted)
    assert (submitted.cause_rows, submitted.causation_ids) == ([0], ["redrive 1"])
    assert shard.job("again").redrives == shard.job("a").job_id
    before = len(shard.state.jobs)
    shard.command(again)
    assert len(shard.state.jobs) == before
    refused = only(shard.command(replace(submission("bad"), redrives="nonsense")), CommandsRefused)
    assert refused.codes == ["malformed"]


def test_only_dead_letters_are_purged_and_unknown_ones_are_taken_as_asked() -> None:
    shard = shard_of_two()
    shard.command(submission("a", max_retries=0), submission("b"))
    shard.run("a", ERROR)
    old = uid("long forgotten")
    ask = PurgeDeadLetters((uid("a"), old, "0:commands:7"), "dealt with", "someone")
    assert only(shard.command(ask), DeadLettersPurged).ids == [uid("a"), old, "0:commands:7"]
    codes = []
    for ids in ((uid("b"),), ("0:log:7",), ("1:commands:7",), (), ("x",) * 1001):
        refused = only(shard.command(replace(ask, ids=ids)), CommandsRefused)
        codes.append(refused.codes[0])
    assert codes == ["not_a_dead_letter", *["malformed"] * 4]


# Overload.


def test_jobs_beyond_a_tenants_bound_are_refused_until_others_have_ended() -> None:
    shard = shard_of_two(tenant_pending_jobs_max=2)
    refused = only(shard.command(*(submission(key) for key in "abc")), CommandsRefused)
    assert (refused.codes, refused.offsets) == (["tenant_over_limit"], [2])
    shard.command(submission("d", tenant="other"))
    shard.run("a")
    assert only(shard.command(submission("c2")), JobsSubmitted).offsets == [4]


def test_jobs_and_bytes_beyond_the_shards_bounds_are_refused() -> None:
    shard = Shard(pending_jobs_max=10, pending_bytes_max=8)
    refused = only(shard.command(*(submission(key) for key in "abc")), CommandsRefused)
    assert refused.codes == ["shard_over_limit"]
    assert shard.state.load.spec_bytes == 8


def test_a_repeat_is_a_repeat_even_beyond_the_bound() -> None:
    shard = Shard(tenant_pending_jobs_max=1)
    shard.command(submission("a"))
    assert not [e for e in shard.command(submission("a")) if isinstance(e, CommandsRefused)]
