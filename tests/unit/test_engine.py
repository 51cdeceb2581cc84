"""The engine of one shard over a log with faults: effects follow what counted, and nothing else."""

from __future__ import annotations

from infra.log import Fault
from schemas.terms import FailureClass, JobState
from stream_processors.domain.draft import Policy
from stream_processors.domain.fingerprint import fingerprint
from stream_processors.engine import EngineOptions
from tests.cluster import cancel, heartbeat, node, submission
from tests.engine_world import Process, World


def started_jobs(world: World) -> list[int]:
    return [no for mail in world.mail for no in mail.starts.job_nos]


def ready_world(*keys: str) -> tuple[World, Process]:
    world = World()
    process = Process(world, 1)
    process.settle()
    world.reports.append(node())
    world.commands.extend(submission(key) for key in keys)
    return world, process


def test_a_submission_becomes_a_start_for_its_node_once_the_record_counts() -> None:
    world, process = ready_world("a")
    process.settle()
    assert started_jobs(world) == [1]
    assert fingerprint(world.fold().state) == fingerprint(process.engine.state)


def test_no_mail_leaves_while_the_record_is_not_known_to_count() -> None:
    world, process = ready_world("a")
    process.log.faults.append(Fault.DELAY_ACK)
    process.settle()
    assert process.engine.state.jobs
    assert started_jobs(world) == []
    process.log.answer(process.log.open_tokens[0])
    process.settle()
    assert started_jobs(world) == [1]


def test_the_next_batch_is_decided_while_the_last_is_in_flight() -> None:
    world, process = ready_world("a")
    process.log.faults.extend([Fault.DELAY_ACK, Fault.DELAY_ACK])
    process.turn()
    world.commands.append(submission("b"))
    process.turn()
    assert len(process.log.open_tokens) == 2
    for token in list(process.log.open_tokens):
        process.log.answer(token)
    process.settle()
    assert started_jobs(world) == [1, 2]


def test_an_unknown_outcome_whose_record_counted_has_its_effects_once() -> None:
    world, process = ready_world("a")
    process.log.faults.append(Fault.DROP_ACK)
    process.settle()
    assert started_jobs(world) == [1]


def test_a_lost_record_is_folded_away_and_its_inputs_are_decided_again() -> None:
    world, process = ready_world("a", "b")
    process.log.faults.append(Fault.LOSE)
    process.settle()
    assert sorted(started_jobs(world)) == [1, 2]
    assert fingerprint(world.fold().state) == fingerprint(process.engine.state)
    assert world.fold().chain.consumed.commands == 2


def test_a_lost_record_after_a_snapshot_is_folded_from_the_snapshot() -> None:
    world = World()
    options = EngineOptions(Policy(shards=1), snapshot_records=1)
    process = Process(world, 1, options)
    process.settle()
    world.commands.append(submission("a"))
    process.settle()
    assert process.saved
    process.log.faults.append(Fault.LOSE)
    world.commands.append(submission("b"))
    process.settle()
    assert len(process.engine.state.jobs) == 2
    assert fingerprint(world.fold().state) == fingerprint(process.engine.state)


def test_a_new_owner_goes_on_where_the_log_stands_and_sends_again_what_is_open() -> None:
    world, process = ready_world("a")
    process.settle()
    world.mail.clear()
    successor = Process(world, 2)
    successor.settle()
    assert started_jobs(world) == [1]
    assert world.mail[0].epoch == 2
    world.commands.append(cancel("a"))
    successor.settle()
    assert world.mail[-1].stops.job_nos == [1]


def test_a_superseded_owner_that_wakes_up_changes_nothing() -> None:
    world, process = ready_world("a")
    process.settle()
    successor = Process(world, 2)
    successor.settle()
    world.commands.append(submission("b"))
    world.mail.clear()
    process.turn()
    successor.settle()
    process.turn(decides=False)
    assert started_jobs(world) == [2]
    assert [job.state for job in world.fold().state.jobs.values()] == [JobState.SCHEDULED] * 2


def test_a_silent_node_is_lost_only_after_lease_margin_and_a_probe_that_was_read() -> None:
    world, process = ready_world("a")
    process.settle()
    world.pass_time(9)
    world.reports.append(heartbeat())
    process.settle()
    world.pass_time(10)
    process.settle()
    assert process.engine.state.nodes
    world.holds_probes = True
    world.pass_time(3)
    process.settle()
    assert len(world.probes) == 1
    assert process.engine.state.nodes, "the probe has not been read yet"
    world.reports.extend(world.probes)
    process.settle()
    assert not process.engine.state.nodes
    job = process.engine.state.jobs[1]
    assert (job.state, [one.failure for one in job.history]) == (
        JobState.QUEUED,
        [FailureClass.NODE_LOST],
    )


def test_a_heartbeat_before_the_probe_saves_the_node() -> None:
    world, process = ready_world()
    process.settle()
    world.pass_time(12)
    world.reports.append(heartbeat())
    process.settle()
    assert process.engine.state.nodes


def test_a_registration_said_again_is_a_sign_of_life_as_it_is_for_its_agent() -> None:
    world, process = ready_world()
    process.settle()
    for _ in range(3):
        world.pass_time(9)
        world.reports.append(node())
        process.settle()
    assert process.engine.state.nodes


def test_a_new_owner_counts_every_lease_from_its_claim() -> None:
    world, process = ready_world("a")
    process.settle()
    world.pass_time(1_000)
    successor = Process(world, 2)
    successor.settle()
    assert successor.engine.state.nodes


def test_heartbeats_alone_write_no_records_but_progress_is_recorded_in_time() -> None:
    world, process = ready_world()
    process.settle()
    records = len(world.partition.entries)
    for _ in range(3):
        world.pass_time(1)
        world.reports.append(heartbeat())
        process.settle()
    assert len(world.partition.entries) == records
    world.pass_time(3)
    world.reports.append(heartbeat())
    process.settle()
    assert len(world.partition.entries) == records + 1
    assert world.fold().chain.consumed.reports == len(world.reports)


def test_what_no_agent_confirms_is_sent_again_from_time_to_time() -> None:
    world, process = ready_world("a")
    process.settle()
    world.mail.clear()
    for _ in range(2):
        world.pass_time(4)
        world.reports.append(heartbeat())
        process.settle()
    assert started_jobs(world) == [1]


def test_an_own_record_that_appears_after_it_was_given_up_has_its_effects_too() -> None:
    world, process = ready_world("a")
    process.log.faults.append(Fault.HOLD)
    process.turn()
    token = process.log.open_tokens[0]
    process.log.give_up(token)
    process.turn(decides=False)
    process.turn(decides=False)
    assert not process.engine.state.jobs, "what was in doubt is folded away"
    process.log.land(token)
    world.pass_time(6)
    process.turn(decides=False)
    process.turn(decides=False)
    assert set(started_jobs(world)) == {1}
    process.settle()
    assert set(started_jobs(world)) == {1}
    assert fingerprint(world.fold().state) == fingerprint(process.engine.state)


def test_an_idle_owner_gives_signs_of_life_which_do_not_make_the_log_grow() -> None:
    world = World()
    process = Process(world, 1)
    process.settle()
    records, marks = len(world.partition.entries), len(world.reports)
    for _ in range(200):
        world.pass_time(0.1)
        process.turn()
    assert 35 <= len(world.reports) - marks <= 45, "two a second"
    assert len(world.partition.entries) == records
    world.pass_time(300)
    process.settle()
    assert len(world.partition.entries) == records + 1
    assert world.fold().chain.consumed.reports >= marks + 35, "so that they may be deleted"


def test_an_owner_that_decides_all_the_time_gives_no_other_sign() -> None:
    world = World()
    process = Process(world, 1)
    process.settle()
    marks = len(world.reports)
    for number in range(50):
        world.pass_time(0.1)
        world.commands.append(submission(f"job{number}"))
        process.turn()
    assert len(world.reports) == marks


def test_a_snapshot_waits_until_it_is_worth_more_than_folding_anew() -> None:
    world = World()
    process = Process(world, 1, EngineOptions(Policy(shards=1), snapshot_bytes=4_000))
    for number in range(3):
        world.commands.append(submission(f"early{number}"))
        process.settle()
    assert process.saved == []
    for number in range(30):
        world.commands.append(submission(f"job{number}"))
        process.settle(3)
    assert 1 <= len(process.saved) <= 3
