"""Whatever the engine, Kafka and the clock do: nothing runs without a lease, or twice, or unseen.

Hypothesis plays engine (right and wrong epochs, incarnations, repeats, stops before starts), Kafka
(acknowledgements late, lost, in any order) and time (small steps and long suspends).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.reports import RegisterNode, TasksReported
from schemas.terms import TaskState
from tests.agent_world import SECOND_NS, AgentWorld, releases, starts, stops
from workers.agent import Stage
from workers.executor import TaskKey
from workers.memory_executor import Script
from workers.messages import (
    Delivered,
    DispatchLost,
    Positioned,
    Prepare,
    Send,
    Start,
    Tick,
    Undelivered,
)

KEYS = st.builds(TaskKey, st.integers(0, 1), st.just(1), st.integers(0, 1))
SCRIPTS = st.builds(
    Script,
    runs_s=st.sampled_from([0.0, 1.0, 1000.0]),
    exit_code=st.integers(0, 1),
    is_found=st.booleans(),
    heeds_sigterm=st.booleans(),
    progress_at_s=st.sampled_from([(), (2.0,), (2.0, 4.0, 6.0)]),
)


def seq_of(key: TaskKey) -> int:
    """The record that placed it: a task is placed once."""
    return 5 + key.job_no * 10


class AnyWeather(RuleBasedStateMachine):
    """One agent in a hostile world."""

    @initialize(script=SCRIPTS)
    def begin(self, script: Script) -> None:
        self.world = AgentWorld(script=script)
        self.launched: Counter[tuple[int, TaskKey]] = Counter()
        self.ended: set[tuple[int, TaskKey]] = set()
        self.looked_at = 0
        self.world.begin()
        self.world.serve()

    def _note_ends(self, report: TasksReported) -> None:
        keys = map(TaskKey, report.job_nos, report.attempts, report.tasks)
        for key, state in zip(keys, report.states, strict=True):
            if state is TaskState.ENDED:
                self.ended.add((report.incarnation, key))

    def _check_effects(self) -> None:
        """What was ordered since the last look was ordered by an incarnation that may."""
        world = self.world
        for effect in world.effects[self.looked_at :]:
            if isinstance(effect, Start | Prepare):
                assert world.agent.stage is Stage.SERVING
                assert world.agent._lease.is_live(world.now_ns)
            if isinstance(effect, Send) and isinstance(effect.message, TasksReported):
                self._note_ends(effect.message)
            if isinstance(effect, Start):
                assert (world.agent.incarnation, effect.order.key) not in self.ended
                self.launched[world.agent.incarnation, effect.order.key] += 1
        self.looked_at = len(world.effects)

    @rule(
        keys=st.lists(KEYS, min_size=1, max_size=3, unique=True),
        gang=st.booleans(),
        old=st.sampled_from([False, False, True]),
        progress_timeout_s=st.sampled_from([-1, 0, 3]),
    )
    def start_tasks(
        self, keys: list[TaskKey], gang: bool, old: bool, progress_timeout_s: int
    ) -> None:
        incarnation = self.world.agent.incarnation - old
        parts = starts(*keys, gang=2 if gang else 0, progress_timeout_s=progress_timeout_s)
        parts = replace(parts, seqs=[seq_of(key) for key in keys])
        for effect in self.world.dispatch(incarnation=incarnation, starts=parts):
            if isinstance(effect, Start | Prepare):
                assert not old
                assert seq_of(effect.order.key) >= self.world.agent._ledger._floor
        self._check_effects()

    @rule(
        keys=st.lists(KEYS, min_size=1, max_size=3, unique=True),
        grace_s=st.integers(0, 20),
        epoch=st.integers(0, 1),
    )
    def stop_tasks(self, keys: list[TaskKey], grace_s: int, epoch: int) -> None:
        parts = stops(*keys, grace_s=grace_s)
        parts = replace(parts, seqs=[seq_of(key) for key in keys])
        self.world.dispatch(epoch=epoch, stops=parts)
        self._check_effects()

    @rule(key=KEYS)
    def release_a_member(self, key: TaskKey) -> None:
        self.world.dispatch(releases=releases(key))
        self._check_effects()

    @rule(floor=st.sampled_from([0, 5, 6, 20]))
    def raise_the_floor(self, floor: int) -> None:
        self.world.dispatch(floor=floor)
        self._check_effects()

    @rule()
    def ask_an_old_incarnation_to_register_again(self) -> None:
        before = self.world.agent.incarnation
        self.world.dispatch(incarnation=before - 1, register_again=True)
        assert self.world.agent.incarnation == before
        self._check_effects()

    @rule(kind=st.sampled_from(["register_again", "offset", "suspend"]), is_over=st.booleans())
    def meet_with_disaster(self, kind: str, is_over: bool) -> None:
        if kind == "register_again":
            self.world.dispatch(register_again=True)
        elif kind == "offset":
            self.world.feed(DispatchLost())
        else:
            self.world.now_ns += 4000 * SECOND_NS
            self.world.feed(Tick())
        self._check_effects()
        if is_over:
            self.world.wait(1)
            self.let_the_reader_be_positioned_and_the_engine_answer()

    @rule()
    def let_the_reader_be_positioned_and_the_engine_answer(self) -> None:
        self.world.feed(Positioned())
        self.world.dispatch(registered=True)
        self._check_effects()

    @rule(data=st.data(), arrived=st.booleans())
    def answer_a_send(self, data: st.DataObject, arrived: bool) -> None:
        if self.world.unanswered:
            number = data.draw(st.integers(0, len(self.world.unanswered) - 1))
            ref = self.world.unanswered.pop(number).ref
            self.world.feed(Delivered(ref) if arrived else Undelivered(ref, "lost"))
            self._check_effects()

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.0, 7.0]), acked=st.booleans())
    def let_time_pass(self, seconds: float, acked: bool) -> None:
        self.world.wait(seconds, acked=acked)
        self._check_effects()

    @rule()
    def hear_the_executor(self) -> None:
        self.world.pump()
        self._check_effects()

    @invariant()
    def nothing_was_started_twice_by_one_incarnation(self) -> None:
        # A task that was forgotten below the floor cannot come again: its number is refused.
        assert all(count == 1 for count in self.launched.values())

    @invariant()
    def what_runs_runs_under_a_lease_that_lives_or_is_being_killed(self) -> None:
        world = self.world
        if world.executor._tasks and world.agent.stage is Stage.SERVING:
            assert world.agent._lease.fence_at_ns is not None
            assert world.executor._deadline_ns == world.agent._lease.fence_at_ns

    @invariant()
    def a_new_incarnation_has_nothing_of_the_old_one(self) -> None:
        world = self.world
        if world.agent.stage in (Stage.POSITIONING, Stage.REGISTERING):
            assert not world.executor._tasks
            assert not world.executor._prepared
            assert not world.agent._outbox

    @invariant()
    def incarnations_only_rise(self) -> None:
        numbers = [offer.incarnation for offer in self.world.messages(RegisterNode)]
        assert numbers == sorted(numbers)
        assert self.world.persisted == sorted(set(self.world.persisted))

    @invariant()
    def only_one_batch_of_reports_is_under_way(self) -> None:
        flying = [send for send in self.world.unanswered if isinstance(send.message, TasksReported)]
        assert len(flying) <= 1

    def teardown(self) -> None:
        """With Kafka well again, everything that was launched ends and its end is reported."""
        world = self.world
        world.dispatch(register_again=True)
        world.wait(60)
        ended = {key for key, state, _ in world.rows if state is TaskState.ENDED}
        assert {key for _, key in self.launched} <= ended
        assert not world.executor._tasks
        assert len(world.agent._outbox) == 0


AnyWeather.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestAnyWeather = AnyWeather.TestCase
