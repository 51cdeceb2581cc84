"""What an agent does with starts, releases and stops: each thing once, each end reported."""

from __future__ import annotations

from schemas.codec import encode_body
from schemas.reports import TasksReported
from schemas.terms import EnvVar, FailureClass, JobSpec, TaskState
from tests.agent_world import AgentWorld, releases, starts, stops
from workers.executor import Rendezvous, TaskKey
from workers.memory_executor import Script
from workers.messages import Prepare, Start, Stop

KEY = TaskKey(7, 1, 0)
RANK_0, RANK_1, RANK_3 = TaskKey(9, 1, 0), TaskKey(9, 1, 1), TaskKey(9, 1, 3)
S, R, E = TaskState.STARTED, TaskState.READY, TaskState.ENDED


def serving(script: Script | None = None) -> AgentWorld:
    world = AgentWorld(script=script)
    world.serve()
    return world


def test_a_task_is_started_at_once_and_its_start_and_end_are_reported() -> None:
    world = serving(Script(runs_s=2))
    world.dispatch(starts=starts(KEY))
    world.wait(3)
    assert world.states(KEY) == [S, E]
    assert world.failure(KEY) is FailureClass.NONE


def test_an_order_carries_what_was_submitted_and_placed() -> None:
    world = serving()
    spec = JobSpec("training", command=("a", "b"), env=(EnvVar("X", "1"),), config='{"lr":1}')
    world.dispatch(starts=starts(KEY, spec=encode_body(spec)[1]))
    (order, rendezvous) = world.executor.started[0]
    assert rendezvous is None
    assert order.command == ("a", "b")
    assert order.env == (("X", "1"),)
    assert order.config == '{"lr":1}'
    assert order.job_id == "00000000-0000-0000-0000-000000000007"
    assert order.memory_mib == 512


def test_a_start_seen_before_is_answered_with_the_present_state() -> None:
    world = serving(Script(runs_s=5))
    world.dispatch(starts=starts(KEY))
    world.wait(1)
    world.dispatch(starts=starts(KEY))
    world.ack()
    assert world.states(KEY) == [S, S]
    world.wait(5)
    world.dispatch(starts=starts(KEY))
    world.ack()
    assert world.states(KEY) == [S, S, E, E]
    assert len(world.executor.started) == 1


def test_a_stop_before_its_start_leaves_a_tombstone_and_both_are_reported_ended() -> None:
    world = serving()
    world.dispatch(stops=stops(KEY))
    world.ack()
    assert world.states(KEY) == [E]
    assert world.failure(KEY) is FailureClass.CANCELLED
    world.dispatch(starts=starts(KEY))
    world.ack()
    assert world.states(KEY) == [E, E]
    assert world.executor.started == []


def test_a_start_and_its_stop_in_one_record_never_run() -> None:
    world = serving()
    world.dispatch(starts=starts(KEY), stops=stops(KEY))
    world.ack()
    assert world.states(KEY)[-1] is E
    assert world.executor.started == []


def test_a_running_task_is_stopped_with_grace_and_called_by_the_stops_reason() -> None:
    world = serving(Script(runs_s=100, heeds_sigterm=False))
    world.dispatch(starts=starts(KEY))
    world.wait(1)
    world.dispatch(stops=stops(KEY, grace_s=4, why="timeout"))
    world.wait(3.9)
    assert world.states(KEY) == [S]
    world.wait(0.2)
    assert world.failure(KEY) is FailureClass.TIMEOUT


def test_a_stop_said_again_shortens_the_grace_but_never_prolongs_it() -> None:
    world = serving()
    world.dispatch(starts=starts(KEY))
    world.pump()
    assert Stop(KEY, 10) in world.dispatch(stops=stops(KEY, grace_s=10))
    assert not [e for e in world.dispatch(stops=stops(KEY, grace_s=20)) if isinstance(e, Stop)]
    assert Stop(KEY, 0) in world.dispatch(stops=stops(KEY, grace_s=0))


def test_a_task_that_ended_by_itself_is_not_called_stopped() -> None:
    world = serving(Script(runs_s=1))
    world.dispatch(starts=starts(KEY))
    world.wait(2)
    world.dispatch(stops=stops(KEY))
    world.ack()
    assert world.failure(KEY) is FailureClass.NONE


def test_ends_are_called_by_their_evidence() -> None:
    world = serving()
    missing, failing = TaskKey(1, 1, 0), TaskKey(2, 1, 0)
    world.scripts[missing] = Script(is_found=False)
    world.scripts[failing] = Script(runs_s=1, exit_code=3, lines=["it broke"])
    world.dispatch(starts=starts(missing, failing))
    world.wait(2)
    assert world.states(missing) == [E]
    assert world.failure(missing) is FailureClass.IMAGE_ERROR
    assert world.failure(failing) is FailureClass.USER_ERROR
    reports = world.messages(TasksReported)
    assert reports[-1].exit_codes == [3]
    assert reports[-1].messages == ["exit code 3"]
    assert (reports[-1].tail_rows, reports[-1].tails) == ([0], ["it broke"])


def test_gang_members_wait_at_their_barrier_and_start_on_release() -> None:
    world = serving(Script(runs_s=5))
    effects = world.dispatch(starts=starts(RANK_0, RANK_1, RANK_3, gang=4))
    assert [type(effect) for effect in effects if isinstance(effect, Prepare | Start)] == [
        Prepare
    ] * 3
    world.wait(30)
    assert world.states(RANK_0) == world.states(RANK_3) == [R]
    reports = world.messages(TasksReported)
    endpoints = [endpoint for report in reports for endpoint in report.endpoints]
    assert endpoints[0].startswith("127.0.0.1:")
    assert endpoints[1:] == ["", ""]
    world.dispatch(releases=releases(RANK_0, RANK_1, RANK_3))
    world.wait(1)
    meetings = {order.key: rendezvous for order, rendezvous in world.executor.started}
    assert meetings == {
        key: Rendezvous("10.0.0.1:20001", place)
        for place, key in enumerate((RANK_0, RANK_1, RANK_3))
    }
    assert world.states(RANK_3) == [R, S]


def test_a_repeated_start_or_release_of_a_member_changes_nothing() -> None:
    world = serving()
    world.dispatch(starts=starts(RANK_0, gang=2))
    world.wait(1)
    world.dispatch(starts=starts(RANK_0, gang=2))
    world.wait(1)
    assert world.states(RANK_0) == [R, R]
    world.dispatch(releases=releases(RANK_0))
    world.wait(1)
    world.dispatch(releases=releases(RANK_0))
    world.wait(1)
    assert world.states(RANK_0) == [R, R, S, S]
    assert len(world.executor.started) == 1


def test_a_member_stopped_at_its_barrier_ends_and_a_late_release_starts_nothing() -> None:
    world = serving()
    world.dispatch(starts=starts(RANK_0, gang=2))
    world.wait(1)
    world.dispatch(stops=stops(RANK_0, why="start_timeout"))
    world.wait(1)
    world.dispatch(releases=releases(RANK_0))
    world.wait(1)
    assert world.states(RANK_0) == [R, E]
    assert world.failure(RANK_0) is FailureClass.START_TIMEOUT
    assert world.executor.started == []


def test_a_release_of_something_unknown_starts_nothing() -> None:
    world = serving()
    world.dispatch(releases=releases(RANK_0))
    assert world.executor.started == []


def test_a_start_below_the_floor_is_refused_without_a_report() -> None:
    world = serving()
    world.dispatch(floor=20)
    world.dispatch(starts=starts(KEY, seq=19))
    world.wait(1)
    assert world.executor.started == []
    assert world.states(KEY) == []


def test_what_lies_below_the_floor_is_forgotten() -> None:
    world = serving(Script(runs_s=1))
    world.dispatch(starts=starts(KEY, seq=10))
    world.wait(2)
    world.dispatch(floor=11)
    assert world.agent._ledger._held == {}
    world.dispatch(stops=stops(KEY, seq=10))
    world.ack()
    assert world.states(KEY) == [S, E, E]
    assert world.agent._ledger._held == {}


def test_the_floor_never_falls() -> None:
    world = serving()
    world.dispatch(floor=20)
    world.dispatch(floor=5, starts=starts(KEY, seq=10))
    assert world.executor.started == []


def test_a_living_task_below_the_floor_is_an_orphan_and_is_killed() -> None:
    world = serving(Script(runs_s=100, heeds_sigterm=False))
    world.dispatch(starts=starts(KEY, seq=10))
    world.wait(1)
    world.dispatch(floor=11)
    world.wait(0.1)
    assert world.states(KEY) == [S, E]


def test_a_spec_that_cannot_be_read_ends_its_task_only() -> None:
    world = serving()
    bad = TaskKey(8, 1, 0)
    world.dispatch(starts=starts(bad, spec=b"\xff\xff"))
    world.dispatch(starts=starts(KEY))
    world.wait(1)
    assert world.failure(bad) is FailureClass.POISON
    assert world.states(KEY) == [S]


def test_a_job_without_a_command_fails_with_a_clear_message() -> None:
    world = serving()
    world.dispatch(starts=starts(KEY, spec=encode_body(JobSpec("training"))[1]))
    world.ack()
    assert world.failure(KEY) is FailureClass.IMAGE_ERROR
    report = world.sent[-1]
    assert isinstance(report, TasksReported)
    assert "no command" in report.messages[0]


def test_reports_are_sent_again_in_order_until_acknowledged() -> None:
    world = serving(Script(runs_s=0.1))
    world.dispatch(starts=starts(KEY))
    world.wait(1, acked=False)
    assert world.states(KEY) == [S]
    world.fail()
    world.wait(0.3, acked=False)
    assert world.states(KEY) == [S, S, E]
    world.ack()
    world.wait(5)
    assert world.states(KEY) == [S, S, E]


def test_reports_gather_while_a_batch_is_in_flight() -> None:
    world = serving(Script(runs_s=0.01))
    keys = [TaskKey(number, 1, 0) for number in range(50)]
    world.dispatch(starts=starts(keys[0]))
    world.pump()
    world.dispatch(starts=starts(*keys[1:]))
    world.pump()
    world.ack()
    sizes = [len(r.job_nos) for r in world.messages(TasksReported)]
    assert sizes[:2] == [1, 49]
