"""Bounds of the domain: odd amounts, what is heard in time, and records that stay small enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.codec import encode, encode_event
from schemas.commands import SubmitJobs
from schemas.events import (
    AttemptsEnding,
    CommandsRefused,
    Event,
    JobsCancelled,
    JobsSubmitted,
    SubmissionsRepeated,
)
from schemas.terms import DEFAULT_TERMS, Condition, Extra, JobState, JobTerms, TaskState
from schemas.topics import MAX_COMMAND_BYTES, MAX_RECORD_BYTES
from stream_processors.domain import defaults
from stream_processors.domain.decide import decide, has_work
from stream_processors.domain.draft import Command, CommandAt, Inputs, Policy
from stream_processors.domain.limits import ACTOR_MAX, ROWS_MAX
from stream_processors.domain.state import State, initial_state
from tests.cluster import SECOND, Shard, cancel, node, submission, uid

POLICY = Policy(shards=1)
WAITERS = 12_000


def fresh_state() -> State:
    state = initial_state(0)
    decide(state, Inputs(), 1_000 * SECOND, POLICY)
    return state


def give(state: State, *commands: Command) -> tuple[Event, ...]:
    """Decide these without checking the fold: for batches too big to be copied each time."""
    received = tuple(CommandAt(at, 1_000 * SECOND, command) for at, command in enumerate(commands))
    return decide(state, Inputs(commands=received), state.at + 1, POLICY).events


def size_of(events: tuple[Event, ...]) -> int:
    return sum(len(encode_event(event).data) for event in events)


def rows(count: int, actor: str, queue: str = "default") -> SubmitJobs:
    return SubmitJobs(
        terms=[JobTerms(queue=queue)],
        terms_of=[0] * count,
        idempotency_keys=[f"{row:x}" for row in range(count)],
        priorities=[50] * count,
        key_id=0,
        actor=actor,
        spec_schema_id=44,
        specs=[b""] * count,
    )


def codes_of(events: tuple[Event, ...]) -> list[str]:
    return [code for event in events if isinstance(event, CommandsRefused) for code in event.codes]


def cancelled_in(events: tuple[Event, ...]) -> int:
    return sum(len(event.job_nos) for event in events if isinstance(event, JobsCancelled))


@pytest.mark.parametrize(
    "extras", [(Extra("license", 0),), (Extra("license", 3), Extra("license", 3))]
)
def test_extras_of_nothing_or_named_twice_are_refused(extras: tuple[Extra, ...]) -> None:
    shard = Shard()
    shard.report(replace(node(), extras=(Extra("license", 4),)))
    assert codes_of(shard.command(submission("a", extras=extras))) == ["invalid_terms"]
    assert shard.state.nodes[1].extras_free == {"license": 4}
    shard.command(submission("b", extras=(Extra("license", 3),)))
    assert shard.states("b") == [JobState.SCHEDULED]


def test_a_success_heard_in_the_decision_in_which_time_is_up_is_a_success() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(submission("a", timeout_s=60, max_retries=0))
    shard.says("a", TaskState.STARTED)
    shard.now += 61 * SECOND
    shard.says("a", TaskState.ENDED)
    assert shard.states("a") == [JobState.SUCCEEDED]


def test_a_start_heard_in_the_decision_in_which_start_time_is_up_is_a_start() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(submission("a", start_timeout_s=60))
    shard.now += 61 * SECOND
    events = shard.says("a", TaskState.STARTED)
    assert not any(isinstance(event, AttemptsEnding) for event in events)
    assert shard.states("a") == [JobState.RUNNING]


def test_time_that_is_up_with_nothing_heard_ends_the_attempt() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(submission("a", timeout_s=60))
    shard.says("a", TaskState.STARTED)
    assert any(isinstance(event, AttemptsEnding) for event in shard.wait(61))


def test_the_biggest_batch_with_the_longest_actor_fits_into_a_record() -> None:
    command = rows(ROWS_MAX, "a" * ACTOR_MAX)
    assert len(encode(command)) <= MAX_COMMAND_BYTES
    events = give(fresh_state(), command)
    assert len(next(e for e in events if isinstance(e, JobsSubmitted)).terms_of) == ROWS_MAX
    assert size_of(events) <= MAX_RECORD_BYTES


def test_a_batch_with_too_long_an_actor_is_refused_in_a_record_that_fits() -> None:
    events = give(fresh_state(), rows(ROWS_MAX, "a" * 1_000))
    assert codes_of(events) == ["malformed"] * ROWS_MAX
    assert size_of(events) <= MAX_RECORD_BYTES


def test_the_biggest_batch_refused_row_by_row_fits_into_a_record() -> None:
    events = give(fresh_state(), rows(ROWS_MAX, "a", queue="q" * 63))
    assert codes_of(events) == ["queue_not_found"] * ROWS_MAX
    assert size_of(events) <= MAX_RECORD_BYTES


def test_a_batch_of_too_many_rows_is_refused_as_a_whole() -> None:
    command = rows(80_000, "a")
    assert len(encode(command)) <= MAX_COMMAND_BYTES
    assert codes_of(give(fresh_state(), command)) == ["too_many_rows"]


def with_waiters() -> State:
    state = fresh_state()
    give(state, submission("root"))
    on_root = ((uid("root"), Condition.SUCCEEDED),)
    give(state, *(submission(f"d{n}", depends_on=on_root) for n in range(WAITERS)))
    return state


def test_all_who_wait_for_a_failed_job_are_cancelled_by_the_next_decisions() -> None:
    state = with_waiters()
    events = give(state, cancel("root"))
    ended, decisions = cancelled_in(events), 1
    while has_work(state, state.at, POLICY, fires_timers=True):
        assert size_of(events) <= MAX_RECORD_BYTES
        events = decide(state, Inputs(), state.at + 1, POLICY).events
        ended, decisions = ended + cancelled_in(events), decisions + 1
        assert decisions < 10, "it never comes to an end"
    assert (ended, decisions) == (WAITERS + 1, 3)
    assert {job.state for job in state.jobs.values()} == {JobState.CANCELLED}
    assert not state.doomed
    assert not state.dependents


def test_waiters_that_are_left_over_are_cancelled_beside_new_commands() -> None:
    state = with_waiters()
    give(state, cancel("root"))
    for later in range(3):
        give(state, submission(f"later{later}"))
    left = [job for job in state.jobs.values() if job.state is not JobState.CANCELLED]
    assert [job.state for job in left] == [JobState.QUEUED] * 3


def test_a_waiter_left_over_that_is_cancelled_by_hand_is_cancelled_once() -> None:
    state = with_waiters()
    ended = cancelled_in(give(state, cancel("root")))
    ended += cancelled_in(give(state, cancel(f"d{WAITERS - 1}")))
    ended += cancelled_in(give(state))
    assert ended == WAITERS + 1
    assert not state.doomed


def test_a_job_is_not_forgotten_before_its_waiters_that_are_left_over() -> None:
    state = with_waiters()
    give(state, cancel("root"))
    long_after = state.at + POLICY.retain_finished_s * SECOND + 1
    for _ in range(3):
        decide(state, Inputs(), max(state.at, long_after), POLICY)
    assert not state.doomed
    assert {job.state for job in state.jobs.values()} <= {JobState.CANCELLED}


def test_a_repeat_is_a_repeat_though_a_default_has_changed_between_releases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shard = Shard()
    shard.command(submission("a"))
    monkeypatch.setattr(defaults, "DEFAULT_TERMS", replace(DEFAULT_TERMS, memory_mib=2048))
    monkeypatch.setattr(defaults, "_FILLED", {})
    events = shard.command(submission("a"))
    assert [type(event) for event in events] == [SubmissionsRepeated]
