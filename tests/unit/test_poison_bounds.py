"""However hostile or many, inputs make decisions that fit into a record, and state stays bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from infra.kafka_port import Message
from schemas.codec import encode, encode_event
from schemas.commands import CancelJob, PutPool, PutQueue, SubmitJobs
from schemas.events import (
    CommandsRefused,
    Event,
    InputsParked,
    JobsCancelled,
    NodeRegistered,
    NodesDraining,
    ReportsRefused,
)
from schemas.reports import DrainNode, TasksReported
from schemas.terms import (
    NO_DEFAULTS,
    FailureClass,
    JobState,
    JobTerms,
    Label,
    Micros,
    QueueDefaults,
    QueueState,
    RetryRule,
    TaskState,
)
from schemas.topics import COMMANDS, MAX_RECORD_BYTES, PARKED_BYTES_MAX, REPORTS
from stream_processors.domain import defaults, hearing, placement, steering
from stream_processors.domain.decide import Decided, decide, has_work
from stream_processors.domain.draft import Command, CommandAt, Inputs, Policy, Report, Unreadable
from stream_processors.domain.limits import ACTOR_MAX, ROWS_MAX, RULED, TEXT_MAX
from stream_processors.domain.state import State, initial_state
from stream_processors.inputs import HEADER_BYTES_MAX, command_of, report_of
from stream_processors.weights import command_weight, report_weight
from tests.cluster import SECOND, Shard, cancel, heartbeat, node, submission, uid
from tests.engine_world import Process, World

POLICY = Policy(shards=1)
EMOJI = "\N{PILE OF POO}"
CROWD = 3_000


def message(topic: str, value: bytes, offset: int = 0) -> Message:
    headers = [(f"{number}" * 1_000, b"h" * 1_000) for number in range(200)]
    return Message(topic, 0, offset, b"k" * 5_000, value, headers, 7)


def size_of(events: tuple[Event, ...]) -> int:
    return sum(len(encode_event(event).data) for event in events)


def refusals(events: tuple[Event, ...]) -> list[tuple[str, str]]:
    return [
        pair
        for event in events
        if isinstance(event, CommandsRefused)
        for pair in zip(event.codes, event.messages, strict=True)
    ]


def go_on(state: State, *commands: Command, before: Decided | None = None) -> Decided:
    """A decision without the check of the fold, which copies the state."""
    received = tuple(CommandAt(at, state.at, command) for at, command in enumerate(commands))
    unsettled = before.unsettled if before else ()
    return decide(state, Inputs(received, unsettled=unsettled), state.at + 1, POLICY)


# What cannot be read.


def test_a_parked_record_is_kept_with_key_headers_and_the_reason() -> None:
    found = command_of(Message(COMMANDS.name, 3, 9, b"\xff", b"{}", [("a\0", b"\0")], 7))
    assert isinstance(found, Unreadable)
    record = found.record
    assert record is not None
    assert (record.input, record.offset, record.at, record.code) == ("commands", 9, 7, "malformed")
    assert (record.key, record.value, record.size) == (b"\xff", b"{}", 2)
    assert [(header.name, header.value) for header in record.headers] == [("a\ufffd", b"\0")]
    assert "not framed" in record.message


@pytest.mark.parametrize("size", [0, 5, 5_000_000, PARKED_BYTES_MAX, MAX_RECORD_BYTES])
def test_what_is_parked_weighs_no_less_than_it_takes_in_the_record(size: int) -> None:
    command = command_of(message(COMMANDS.name, b"\xff" * size))
    report = report_of(message(REPORTS.name, b"\xff" * size))
    for read, weigh, at in (
        (command, command_weight(size, command), Inputs((CommandAt(0, 0, command),))),
        (report, report_weight(size, report), Inputs(reports=((0, report),))),
    ):
        assert isinstance(read, Unreadable)
        state = initial_state(0)
        decide(state, Inputs(), 1, POLICY)
        events = decide(state, at, 2, POLICY).events
        assert any(isinstance(event, InputsParked) for event in events)
        assert size_of(events) <= weigh
        assert weigh < MAX_RECORD_BYTES - HEADER_BYTES_MAX


def test_the_biggest_poison_of_both_inputs_never_meets_in_one_record() -> None:
    """Nor do they starve each other: each has its decision in turn."""
    world = World()
    engine = Process(world, 1)
    engine.settle()
    garbage = b"\xff" * PARKED_BYTES_MAX
    for offset in range(3):
        engine.engine.receive_command(
            CommandAt(offset, 0, command_of(message(COMMANDS.name, garbage, offset))), len(garbage)
        )
        report = report_of(message(REPORTS.name, garbage, offset))
        place = engine.engine.read_positions.reports
        engine.runner.receive_report(place, len(garbage), report, engine.now)
    before = len(world.partition.entries)
    assert engine.runner.is_full is (engine.engine.backlog_bytes > 64 * 1024 * 1024)
    engine.settle()
    found = [entry for entry in world.partition.entries[before:] if len(entry.value) > 1_000_000]
    assert len(found) == 6
    assert max(len(entry.value) for entry in found) <= MAX_RECORD_BYTES
    assert engine.engine.backlog_bytes == 0


def test_reading_stops_while_much_waits_to_be_decided() -> None:
    engine = Process(World(), 1)
    engine.settle()
    garbage = b"\xff" * PARKED_BYTES_MAX
    for offset in range(12):
        read = command_of(message(COMMANDS.name, garbage, offset))
        engine.engine.receive_command(CommandAt(offset, 0, read), len(garbage))
    assert engine.runner.is_full
    engine.settle()
    assert not engine.runner.is_full


# Many and long rows.


def test_the_worst_legal_batch_fits_into_a_record() -> None:
    rules = tuple(
        RetryRule(failure, 1_000, 31_000_000, 100_000, 31_000_000) for failure in sorted(RULED)
    )
    worst = QueueDefaults(86_400, 86_400, 86_400, 1_000, 86_400, 100_000, 31_000_000)
    state = initial_state(0)
    go_on(state)
    put = PutQueue("default", "q", QueueState.OPEN, "", "me", (replace(worst, retry_rules=rules),))
    go_on(state, put)
    count = ROWS_MAX
    command = SubmitJobs(
        terms=[JobTerms(queue="q", cpu_milli=row) for row in range(count)],
        terms_of=list(range(count)),
        idempotency_keys=[f"{row:x}" for row in range(count)],
        priorities=[50] * count,
        key_id=2**63 - 1,
        actor=EMOJI * ACTOR_MAX,
        spec_schema_id=2**63 - 1,
        specs=[b"s" * 50] * count,
    )
    assert len(encode(command)) <= 1_200_000
    received = (CommandAt(2**40, 2**50, command),)
    events = decide(state, Inputs(received, fill_record=True), state.at + 1, POLICY).events
    assert len(state.jobs) == count
    assert size_of(events) <= MAX_RECORD_BYTES


def crowd() -> State:
    """Jobs that run, each on its way to an end with a long story."""
    state = initial_state(0)
    state.at = 1_000 * SECOND
    go_on(state)
    big = node("n1", cpu_milli=2**40, memory_mib=2**40)
    decide(state, Inputs(reports=((0, big),)), state.at + 1, POLICY)
    go_on(state, *(submission(f"j{n}", max_retries=0, tasks=1) for n in range(CROWD)))
    while has_work(state, state.at, POLICY, fires_timers=True):
        go_on(state)
    return state


def ended(state: State, failure: FailureClass, text: str) -> TasksReported:
    jobs = [job for job in state.jobs.values() if job.tasks]
    count = len(jobs)
    return TasksReported(
        node="n1",
        pool="default",
        incarnation=1,
        job_nos=[job.no for job in jobs],
        attempts=[job.attempt for job in jobs],
        tasks=[0] * count,
        states=[TaskState.ENDED] * count,
        ats=[0] * count,
        exit_codes=[1] * count,
        failures=[failure] * count,
        messages=[text] * count,
        endpoints=[""] * count,
    )


def finish(state: State, inputs: Inputs) -> int:
    """Decide until nothing is left to say; how many decisions that took."""
    decided = decide(state, inputs, state.at + 1, POLICY)
    count = 1
    while decided.unsettled:
        assert size_of(decided.events) <= MAX_RECORD_BYTES
        decided = go_on(state, before=decided)
        count += 1
        assert count < 100, "it never comes to an end"
    return count


def test_many_cancelled_jobs_with_long_reasons_end_over_several_records() -> None:
    state = crowd()
    for job in list(state.jobs.values()):
        go_on(state, CancelJob(uid(f"j{job.no - 1}"), EMOJI * TEXT_MAX, "me"))
    report = ended(state, FailureClass.CANCELLED, "")
    assert finish(state, Inputs(reports=((0, report),))) > 10
    assert {job.state for job in state.jobs.values()} == {JobState.CANCELLED}


def test_what_a_lost_node_held_moves_on_over_several_records() -> None:
    state = crowd()
    assert finish(state, Inputs(expired=(1,))) >= 1
    assert {job.state for job in state.jobs.values()} == {JobState.QUEUED}
    lost = [[one.failure for one in job.history] for job in state.jobs.values()]
    assert lost == [[FailureClass.NODE_LOST]] * len(lost)


def test_jobs_that_have_no_room_yet_are_neither_timed_out_nor_placed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_processors.domain.attempts.SETTLED_BYTES_MAX", 40)
    shard = Shard()
    shard.report(node())
    shard.command(*(submission(key, timeout_s=60, cpu_milli=1_000) for key in "abc"))
    for key in "abc":
        shard.says(key, TaskState.STARTED)
    while shard.unsettled:
        shard.wait(0)
    shard.now += 61 * SECOND
    shard.report(*(shard.row(key, TaskState.ENDED) for key in "abc"))
    assert shard.unsettled
    while shard.unsettled:
        shard.wait(1)
    assert shard.states("a", "b", "c") == [JobState.SUCCEEDED] * 3


def test_an_owner_that_begins_moves_on_what_its_predecessor_had_no_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_processors.domain.attempts.SETTLED_BYTES_MAX", 0)
    world = World()
    first = Process(world, 1)
    first.settle()
    world.reports += [node()]
    world.commands += [submission("a")]
    first.settle()
    told = Shard()
    told.state = first.engine.state
    world.reports += [told.row("a", TaskState.STARTED), told.row("a", TaskState.ENDED)]
    first.settle(3)
    assert world.fold().state.jobs[1].state is JobState.SCHEDULED
    monkeypatch.undo()
    second = Process(world, 2)
    second.settle()
    assert world.fold().state.jobs[1].state is JobState.SUCCEEDED


# Texts.


@pytest.mark.parametrize("text", ["\0" * 1_000_000, EMOJI * 250_000, "\U0010ffff" * 250_000])
def test_a_long_hostile_name_makes_a_short_refusal(text: str) -> None:
    shard = Shard()
    hostile: tuple[Command, ...] = (
        PutQueue(text, "q", QueueState.OPEN, "", ""),
        PutQueue("default", text, QueueState.OPEN, "", ""),
        PutPool(text, "", ""),
        CancelJob(text, "", ""),
        submission("a", tenant=text),
        submission("a", pool=text),
        submission("a", queue=text),
        submission("a", node_selector=(Label(text, text),)),
        submission(text),
        replace(submission("a"), actor=text),
        Unreadable("malformed", text),
    )
    found = refusals(shard.command(*hostile))
    assert len(found) == len(hostile)
    assert all(len(message) <= TEXT_MAX and "\0" not in message for _, message in found)


def test_what_will_be_refused_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    filled: dict[tuple[JobTerms, QueueDefaults], JobTerms] = {}
    monkeypatch.setattr(defaults, "_FILLED", filled)
    Shard().command(submission("a", tenant="x" * 1_000), submission("b"))
    assert [terms for terms, of_queue in filled if of_queue == NO_DEFAULTS] == [JobTerms()]


def test_a_drain_with_a_hostile_reason_is_told_in_plain_text() -> None:
    shard = Shard()
    shard.report(node())
    events = shard.report(DrainNode("n1", "default", 1, "\0" + "x" * 100_000, Micros(0)))
    (draining,) = [event for event in events if isinstance(event, NodesDraining)]
    assert len(draining.reasons[0]) == TEXT_MAX
    assert "\0" not in draining.reasons[0]


# Many of everything.


def test_a_flood_of_heartbeats_of_unknown_nodes_gets_few_answers() -> None:
    shard = Shard()
    shard.report(node())
    flood: list[Report] = [heartbeat(f"stranger-{number}") for number in range(500)]
    shard.report(*flood, heartbeat("x" * 1_000), heartbeat(""), heartbeat("a\0"))
    assert len(shard.mail) == hearing.STRANGERS_MAX
    shard.report(*flood, heartbeat("n1", 0))
    assert "n1" in {mail.node for mail in shard.mail}, "a known name is always told"
    assert not shard.report(*flood)


def test_names_of_nodes_are_bounded_and_known_ones_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hearing, "NODE_NAMES_MAX", 2)
    shard = Shard()
    shard.report(node("a", 1), node("b", 1), node("c", 1))
    (refused,) = [event for event in shard.events if isinstance(event, ReportsRefused)]
    assert refused.codes == ["too_many_nodes"]
    shard.report(node("a", 2))
    assert sorted(shard.state.node_nos) == ["a", "b"]


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": (Label("zone", "a"), Label("zone", "b"))},
        {"labels": (Label("", "a"),)},
        {"node": ""},
        {"node": EMOJI * 33},
        {"cpu_milli": 2**63 - 1},
        {"memory_mib": -1},
        {"lease_s": 0},
        {"incarnation": 2**63 - 1},
        {"incarnation": -(2**63)},
    ],
)
def test_an_absurd_registration_is_refused(changes: dict[str, Any]) -> None:
    shard = Shard()
    events = shard.report(replace(node(), **changes))
    assert not any(isinstance(event, NodeRegistered) for event in events)
    assert any(isinstance(event, ReportsRefused) for event in events)


def test_queues_and_clusters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "QUEUES_MAX", 2)
    monkeypatch.setattr(steering, "POOLS_MAX", 1)
    shard = Shard()
    put = [PutQueue("default", name, QueueState.OPEN, "", "") for name in ("q1", "q2", "q1")]
    events = shard.command(*put, PutPool("other", "", ""), PutPool("default", "known", ""))
    assert [code for code, _ in refusals(events)] == ["too_many_queues", "too_many_clusters"]


def test_shapes_that_never_fitted_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "BLOCKED_SPARE", 5)
    shard = Shard()
    shard.report(node())
    for number in range(20):
        shard.command(submission(f"j{number}", cpu_milli=1_000_000 + number))
        shard.command(cancel(f"j{number}"))
    assert len(shard.state.pools["default"].blocked) <= 7


def test_an_empty_batch_is_refused() -> None:
    command = SubmitJobs([], [], [], [], 0, "me", 44, [])
    assert [code for code, _ in refusals(Shard().command(command))] == ["malformed"]


def test_cancelled_at_the_door_of_a_full_record_is_still_one_answer() -> None:
    state = initial_state(0)
    go_on(state)
    go_on(state, submission("a"))
    received = (CommandAt(5, state.at, cancel("a")),)
    decided = decide(state, Inputs(received, fill_record=True), state.at + 1, POLICY)
    assert [type(event) for event in decided.events] == [JobsCancelled]
