"""The lease: from the sending of an acknowledged heartbeat, never revived, fenced in time."""

from __future__ import annotations

import pytest

from schemas.reports import Heartbeat
from schemas.terms import FailureClass, TaskState
from tests.agent_world import SECOND_NS, AgentWorld, options, starts
from workers.agent import Stage
from workers.executor import TaskKey
from workers.lease import Lease
from workers.memory_executor import Script
from workers.messages import Delivered, KillAll, SetLeaseDeadline, Tick
from workers.options import DRIFT_MILLI

KEY = TaskKey(7, 1, 0)


def test_the_lease_runs_from_the_sending_not_from_the_acknowledgement() -> None:
    lease = Lease(10 * SECOND_NS)
    assert lease.renew(sent_ns=100 * SECOND_NS, now_ns=103 * SECOND_NS)
    assert lease.fence_at_ns == 100 * SECOND_NS + lease.length_ns - lease.margin_ns


def test_the_margin_is_more_than_twice_the_drift_over_one_lease() -> None:
    lease = Lease(10 * SECOND_NS)
    assert lease.margin_ns > 2 * DRIFT_MILLI * lease.length_ns // 1000


def test_a_lease_that_has_not_begun_is_neither_live_nor_over() -> None:
    lease = Lease(10 * SECOND_NS)
    assert not lease.is_live(0)
    assert not lease.is_over(1 << 60)


def test_a_late_acknowledgement_does_not_revive_a_lease_that_ran_out() -> None:
    lease = Lease(10 * SECOND_NS)
    lease.renew(0, 1)
    assert not lease.renew(sent_ns=7 * SECOND_NS, now_ns=8 * SECOND_NS)
    assert lease.is_over(8 * SECOND_NS)


def test_an_acknowledgement_of_an_older_heartbeat_never_shortens_the_lease() -> None:
    lease = Lease(10 * SECOND_NS)
    lease.renew(5 * SECOND_NS, 5 * SECOND_NS)
    assert not lease.renew(4 * SECOND_NS, 6 * SECOND_NS)
    assert lease.fence_at_ns == 13 * SECOND_NS


def test_supervisors_learn_every_new_deadline() -> None:
    world = AgentWorld()
    world.serve()
    world.wait(4.5)
    deadlines = [e.boot_ns for e in world.effects if isinstance(e, SetLeaseDeadline)]
    assert deadlines == sorted(deadlines)
    assert deadlines[-1] == world.now_ns - SECOND_NS // 2 + 8 * SECOND_NS


def test_without_acknowledgements_all_tasks_are_killed_before_the_lease_ends() -> None:
    world = AgentWorld(script=Script(runs_s=1000, heeds_sigterm=False))
    world.serve()
    world.dispatch(starts=starts(KEY))
    world.pump()
    world.ack()
    world.wait(7.9, acked=False)
    assert KillAll() not in world.effects
    world.wait(0.2, acked=False)
    assert KillAll() in world.effects
    assert world.agent.stage is Stage.ENDING
    world.ack()
    assert world.failure(KEY) is FailureClass.NODE_LOST
    assert world.agent.stage is Stage.POSITIONING


def test_an_acknowledgement_that_comes_after_the_end_revives_nothing() -> None:
    world = AgentWorld()
    world.serve()
    first = world.agent.incarnation
    world.wait(2.1, acked=False)
    late = world.take_unanswered()
    assert any(isinstance(send.message, Heartbeat) for send in late)
    world.now_ns += 10 * SECOND_NS
    for send in late:
        world.feed(Delivered(send.ref))
    assert world.agent.incarnation != first


def test_a_suspended_host_that_wakes_up_late_kills_first_and_listens_later() -> None:
    world = AgentWorld()
    world.serve()
    world.dispatch(starts=starts(KEY))
    world.pump()
    world.ack()
    world.now_ns += 3600 * SECOND_NS
    other = TaskKey(8, 1, 0)
    world.dispatch(starts=starts(other))
    assert KillAll() in world.effects
    assert [order.key for order, _ in world.executor.started] == [KEY]


def test_a_success_that_was_told_before_the_kill_stays_a_success() -> None:
    world = AgentWorld(script=Script(runs_s=5))
    world.serve()
    world.dispatch(starts=starts(KEY))
    world.wait(4, acked=False)
    world.now_ns += 3 * SECOND_NS // 2
    world.pump()
    world.now_ns += 5 * SECOND_NS
    world.feed(Tick())
    world.pump()
    world.ack()
    assert world.states(KEY)[-1] is TaskState.ENDED
    assert world.failure(KEY) is FailureClass.NONE


@pytest.mark.parametrize(
    "change", [{"heartbeat_s": 4.0}, {"lease_s": 0}, {"node": ""}], ids=["beat", "lease", "name"]
)
def test_options_that_would_break_a_guarantee_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        options(**change)
