"""An agent's incarnations: how they register, what ends them, and what must never start."""

from __future__ import annotations

from itertools import pairwise

import pytest

from schemas.reports import DrainNode, Heartbeat, RegisterNode
from schemas.terms import FailureClass, TaskState
from tests.agent_world import AgentWorld, options, starts, stops
from workers.agent import Stage
from workers.executor import TaskKey
from workers.memory_executor import Script
from workers.messages import (
    DispatchLost,
    DrainAsked,
    HaltAsked,
    KillAll,
    PersistIncarnation,
    Positioned,
    SeekDispatchEnd,
    Send,
    SetLeaseDeadline,
    Start,
)

KEY = TaskKey(7, 1, 0)


def test_the_incarnation_is_persisted_and_the_reader_positioned_before_it_registers() -> None:
    world = AgentWorld()
    world.begin(last_incarnation=5)
    assert [type(effect) for effect in world.effects] == [PersistIncarnation, SeekDispatchEnd]
    world.feed(Positioned())
    (registration,) = world.messages(RegisterNode)
    assert registration.incarnation == world.persisted[-1] > 5


def test_an_incarnation_is_higher_than_the_last_one_even_if_the_wall_clock_went_back() -> None:
    world = AgentWorld()
    ahead = 9_000_000_000_000_000
    world.begin(last_incarnation=ahead)
    assert world.agent.incarnation == ahead + 1


def test_without_a_journal_one_lease_passes_before_anything_is_done() -> None:
    world = AgentWorld()
    world.begin(wait=True)
    world.wait(world.options.lease_s - 0.1)
    assert world.seeks == 0
    world.wait(0.2)
    assert world.seeks == 1
    assert world.agent.stage is Stage.POSITIONING


def test_registration_is_sent_again_until_it_is_acknowledged_by_a_dispatch() -> None:
    world = AgentWorld()
    world.begin()
    world.feed(Positioned())
    world.wait(7)
    assert len(world.messages(RegisterNode)) == 4
    world.dispatch(registered=True)
    world.wait(7)
    assert len(world.messages(RegisterNode)) == 4
    assert world.agent.stage is Stage.SERVING


def test_nothing_is_started_before_the_registration_is_acknowledged() -> None:
    world = AgentWorld()
    world.begin()
    world.feed(Positioned())
    world.ack()
    world.dispatch(starts=starts(KEY))
    world.pump()
    assert world.executor.started == []
    world.dispatch(registered=True, starts=starts(KEY))
    assert [order.key for order, _ in world.executor.started] == [KEY]


def test_a_dispatch_may_come_before_the_brokers_own_acknowledgement() -> None:
    world = AgentWorld()
    world.begin()
    world.feed(Positioned())
    world.dispatch(registered=True, starts=starts(KEY))
    assert world.agent.stage is Stage.SERVING
    assert len(world.executor.started) == 1


@pytest.mark.parametrize(
    "change", [{"incarnation": 1}, {"node": "n2"}, {"shard": 4}], ids=["old", "other", "shard"]
)
def test_a_start_for_someone_else_is_refused(change: dict[str, object]) -> None:
    world = AgentWorld()
    world.serve()
    world.dispatch(starts=starts(KEY), **change)
    assert world.executor.started == []


def test_a_lower_epoch_is_refused_and_an_equal_one_obeyed() -> None:
    world = AgentWorld()
    world.serve()
    world.dispatch(epoch=4)
    world.dispatch(epoch=3, starts=starts(KEY))
    assert world.executor.started == []
    world.dispatch(epoch=4, starts=starts(KEY))
    assert len(world.executor.started) == 1


def test_the_epoch_is_remembered_across_incarnations() -> None:
    world = AgentWorld()
    world.serve()
    world.dispatch(epoch=4, register_again=True)
    world.feed(Positioned())
    world.ack()
    world.dispatch(epoch=3, registered=True)
    assert world.agent.stage is Stage.REGISTERING


@pytest.mark.parametrize("how", ["register_again", "offset"])
def test_what_ends_an_incarnation_kills_all_and_a_higher_one_registers(how: str) -> None:
    world = AgentWorld()
    world.serve()
    first = world.agent.incarnation
    world.dispatch(starts=starts(KEY))
    world.pump()
    if how == "offset":
        world.feed(DispatchLost())
    else:
        world.dispatch(register_again=True)
    assert KillAll() in world.effects
    world.wait(0.1)
    assert world.states(KEY)[-1] is TaskState.ENDED
    assert world.failure(KEY) is FailureClass.NODE_LOST
    world.serve()
    assert world.agent.incarnation > first


def test_a_new_incarnation_waits_until_every_end_of_the_old_one_is_acknowledged() -> None:
    world = AgentWorld()
    world.serve()
    world.dispatch(starts=starts(KEY))
    world.pump()
    world.ack()
    seeks = world.seeks
    world.dispatch(register_again=True)
    world.pump()
    assert world.seeks == seeks
    assert world.states(KEY)[-1] is TaskState.ENDED
    world.ack()
    assert world.seeks == seeks + 1


def test_an_old_incarnations_orders_do_nothing_in_the_new_one() -> None:
    world = AgentWorld()
    world.serve()
    old = world.agent.incarnation
    world.dispatch(register_again=True)
    world.serve()
    world.dispatch(incarnation=old, register_again=True)
    world.dispatch(incarnation=old, starts=starts(KEY))
    assert world.agent.stage is Stage.SERVING
    assert world.executor.started == []


def test_a_node_whose_incarnations_are_refused_jumps_until_one_is_high_enough() -> None:
    world = AgentWorld()
    world.begin()
    numbers = []
    for _ in range(6):
        numbers.append(world.agent.incarnation)
        world.feed(Positioned())
        world.ack()
        world.dispatch(register_again=True)
    steps = [after - before for before, after in pairwise(numbers)]
    assert steps[-1] >= 16_000_000


def test_heartbeats_come_at_once_and_then_at_their_pace() -> None:
    world = AgentWorld()
    world.serve()
    world.dispatch(starts=starts(KEY))
    world.wait(8.5)
    beats = world.messages(Heartbeat)
    assert len(beats) == 5
    assert beats[-1].running == 1


def test_draining_takes_nothing_new_and_leaves_when_what_runs_has_ended() -> None:
    world = AgentWorld()
    world.scripts[KEY] = Script(runs_s=20)
    world.serve()
    world.dispatch(starts=starts(KEY))
    world.pump()
    world.feed(DrainAsked())
    late = TaskKey(8, 1, 0)
    world.dispatch(starts=starts(late))
    world.wait(10)
    assert len(world.messages(DrainNode)) == 1
    assert [order.key for order, _ in world.executor.started] == [KEY]
    assert world.failure(late) is FailureClass.PREEMPTED
    assert world.exit_code is None
    world.wait(11)
    assert world.failure(KEY) is FailureClass.NONE
    assert world.exit_code == 0


def test_a_drain_stops_with_grace_what_runs_longer_than_its_bound() -> None:
    world = AgentWorld(options(drain_s=3), Script(runs_s=1000, heeds_sigterm=False))
    world.serve()
    world.dispatch(starts=starts(KEY))
    world.pump()
    world.feed(DrainAsked())
    world.wait(7.5)
    assert world.exit_code is None
    world.wait(1)
    assert world.failure(KEY) is FailureClass.PREEMPTED
    assert world.exit_code == 0


def test_a_second_signal_stops_at_once_without_grace() -> None:
    world = AgentWorld(script=Script(runs_s=1000, heeds_sigterm=False))
    world.serve()
    world.dispatch(starts=starts(KEY))
    world.pump()
    world.feed(DrainAsked())
    world.feed(HaltAsked())
    world.wait(0.1)
    assert world.failure(KEY) is FailureClass.PREEMPTED
    assert world.exit_code == 0


def test_an_agent_that_nobody_acknowledges_leaves_after_a_bound_and_says_so() -> None:
    world = AgentWorld(options(drain_s=1))
    world.serve()
    world.dispatch(starts=starts(KEY))
    world.pump()
    world.feed(DrainAsked())
    world.wait(40, acked=False)
    assert world.exit_code == 1


def test_an_agent_that_is_not_registered_leaves_at_once() -> None:
    world = AgentWorld()
    world.begin(wait=True)
    world.feed(DrainAsked())
    assert world.exit_code == 0


def test_unacknowledged_registrations_and_drains_are_sent_again() -> None:
    world = AgentWorld()
    world.begin()
    world.feed(Positioned())
    world.fail()
    world.wait(0.3)
    assert len(world.messages(RegisterNode)) == 2
    world.dispatch(registered=True)
    world.ack()
    world.feed(DrainAsked())
    world.fail()
    world.wait(0.3, acked=False)
    assert len(world.messages(DrainNode)) == 2


def test_a_gone_agent_does_nothing_more() -> None:
    world = AgentWorld()
    world.serve()
    world.feed(DrainAsked())
    world.ack()
    assert world.exit_code == 0
    assert world.dispatch(starts=starts(KEY), stops=stops(KEY)) == []


def test_sends_and_starts_never_share_a_number_or_an_order() -> None:
    world = AgentWorld()
    world.serve()
    world.dispatch(starts=starts(KEY, TaskKey(8, 1, 0)))
    world.wait(5)
    refs = [effect.ref for effect in world.effects if isinstance(effect, Send)]
    assert len(refs) == len(set(refs))
    assert len([effect for effect in world.effects if isinstance(effect, Start)]) == 2


def test_an_answer_that_comes_after_a_lease_without_acknowledgements_is_too_late() -> None:
    world = AgentWorld()
    world.begin()
    world.feed(Positioned())
    offered = world.agent.incarnation
    lease_s = world.options.lease_s
    for _ in range(3):  # the engine has read one, and has lost the incarnation since
        world.wait(lease_s / 2, acked=False)
        world.fail()
    world.wait(0.3, acked=False)
    world.ack()
    world.dispatch(incarnation=offered, registered=True)
    assert world.agent.stage is not Stage.SERVING
    assert world.agent.incarnation > offered


def test_registrations_that_are_acknowledged_keep_the_incarnation_until_an_engine_answers() -> None:
    world = AgentWorld()
    world.begin()
    world.feed(Positioned())
    offered = world.agent.incarnation
    world.wait(world.options.lease_s * 3)
    world.dispatch(registered=True)
    assert (world.agent.stage, world.agent.incarnation) == (Stage.SERVING, offered)
    assert any(isinstance(effect, SetLeaseDeadline) for effect in world.effects)
