"""The core against a naive model: whatever happens, both say the same of every job and device.

Every step also checks (in `tests.cluster.Shard`) that folding the decided events gives the decided
state, that resources never go below zero, and that no job leaves a terminal state.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infra.state_codec import Snapshot, decode_snapshot, encode_snapshot
from schemas.commands import PutPool
from schemas.ids import parse_job_id
from schemas.terms import (
    ENDED_STATES,
    Condition,
    FailureClass,
    JobState,
    QueueState,
    Switch,
    TaskState,
)
from stream_processors.domain.counting import GENESIS
from stream_processors.domain.fingerprint import fingerprint
from stream_processors.domain.state import TaskPhase
from tests.cluster import Shard, cancel, node, put_queue, submission, uid
from tests.naive_model import Model, ModelJob

SHAPES: list[dict[str, Any]] = [
    {"cpu_milli": 1000, "memory_mib": 100},
    {"cpu_milli": 3000, "memory_mib": 300},
    {"cpu_milli": 100, "memory_mib": 100, "gpu_milli": 300},
    {"cpu_milli": 100, "memory_mib": 100, "gpu_milli": 2000},
]
FORMS: list[dict[str, Any]] = [{}, {}, {"tasks": 3}, {"tasks": 2, "min_members": 2}]
POLICIES: list[dict[str, Any]] = [
    {"max_retries": 1, "backoff_s": 0},
    {"max_retries": 0, "backoff_s": 2, "timeout_s": 20, "start_timeout_s": 10},
    {"max_retries": 3, "backoff_s": 1, "start_timeout_s": 4, "deadline_s": 25},
]
PHASES = {
    "placed": TaskPhase.PLACED,
    "ready": TaskPhase.READY,
    "started": TaskPhase.STARTED,
    "ended": TaskPhase.ENDED,
}


class CoreMachine(RuleBasedStateMachine):
    """Draws commands, reports, losses and time."""

    def __init__(self) -> None:
        """One shard with two queues, and the model of it."""
        super().__init__()
        self.shard = Shard()
        self.model = Model()
        self.keys: list[str] = []
        self.ended: dict[int, JobState] = {}
        self.shard.command(put_queue("side"))

    def _step(self) -> None:
        self.model.step(self.shard.now)

    @rule(
        shape=st.sampled_from(SHAPES),
        form=st.sampled_from(FORMS),
        policy=st.sampled_from(POLICIES),
        priority=st.sampled_from([10, 50]),
        queue=st.sampled_from(["default", "side"]),
        data=st.data(),
    )
    def submit(
        self,
        *,
        shape: dict[str, Any],
        form: dict[str, Any],
        policy: dict[str, Any],
        priority: int,
        queue: str,
        data: st.DataObject,
    ) -> None:
        key = f"job{len(self.keys)}"
        terms = {**shape, **form, **policy, "queue": queue}
        needs: dict[int, bool] = {}
        if self.keys and data.draw(st.integers(0, 3)) == 0:
            other = data.draw(st.sampled_from(self.keys))
            succeeds = data.draw(st.booleans())
            state = self.shard.job(other).state
            if not (succeeds and state in ENDED_STATES and state is not JobState.SUCCEEDED):
                condition = Condition.SUCCEEDED if succeeds else Condition.ENDED
                terms["depends_on"] = [(uid(other), condition)]
                needs[self.shard.job(other).no] = succeeds
        self.shard.command(submission(key, priority, **terms))
        self.keys.append(key)
        job = self.shard.job(key)
        raw = parse_job_id(uid(key))
        assert raw is not None
        self.model.jobs[job.no] = ModelJob(job.no, raw, job.terms, priority, needs, self.shard.now)
        self._step()

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.keys))
        job = self.shard.job(key)
        if job.state not in ENDED_STATES and job.cancel is None:
            self.model.cancel(job.no)
        self.shard.command(cancel(key))
        self._step()

    @rule(name=st.sampled_from(["n1", "n2", "n3"]), gpus=st.sampled_from([0, 2]))
    def register(self, name: str, gpus: int) -> None:
        incarnation = self.shard.state.incarnations.get(name, 0) + 1
        if name in self.model.nodes:
            self.model.lose(name)
        self.model.nodes[name] = (4000, 1000, gpus)
        has = {"cpu_milli": 4000, "memory_mib": 1000, "gpus": ["A"] * gpus}
        self.shard.report(node(name, incarnation, **has))
        self._step()

    @precondition(lambda self: self.model.nodes)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.nodes)))
        self.model.lose(name)
        self.shard.lose(name)
        self._step()

    @rule(queue=st.sampled_from(["default", "side"]), paused=st.booleans())
    def pause(self, queue: str, paused: bool) -> None:
        (self.model.paused.add if paused else self.model.paused.discard)(queue)
        self.shard.command(put_queue(queue, QueueState.PAUSED if paused else QueueState.OPEN))
        self._step()

    @rule(switch=st.sampled_from([Switch.ON, Switch.OFF]))
    def switch_retries(self, switch: Switch) -> None:
        self.model.retries_on = switch is Switch.ON
        self.shard.command(PutPool("default", "", "someone", switch))
        self._step()

    @rule(seconds=st.sampled_from([0, 1, 5, 25]))
    def wait(self, seconds: int) -> None:
        self.shard.wait(seconds)
        self._step()

    def _living(self) -> list[tuple[str, int]]:
        return [
            (key, index)
            for key in self.keys
            for index, task in self.shard.job(key).tasks.items()
            if task.phase is not TaskPhase.ENDED
        ]

    @precondition(lambda self: self._living())
    @rule(
        data=st.data(),
        said=st.sampled_from([TaskState.STARTED, TaskState.ENDED, TaskState.ENDED]),
        failure=st.sampled_from(
            [
                FailureClass.NONE,
                FailureClass.NONE,
                FailureClass.USER_ERROR,
                FailureClass.IMAGE_ERROR,
                FailureClass.CANCELLED,
                FailureClass.OUT_OF_MEMORY,
                FailureClass.INFRASTRUCTURE,
            ]
        ),
    )
    def report(self, data: st.DataObject, said: TaskState, failure: FailureClass) -> None:
        key, index = data.draw(st.sampled_from(self._living()))
        job = self.shard.job(key)
        task = self.model.jobs[job.no].tasks[index]
        failure = failure if said is TaskState.ENDED else FailureClass.NONE
        if said is TaskState.STARTED and job.terms.is_gang and task.phase == "placed":
            said = TaskState.READY
        task.reached = task.phase if said is TaskState.ENDED else task.reached
        task.phase = said.value
        task.failure = failure
        self.shard.says(key, said, index, failure)
        self._step()

    @invariant()
    def both_say_the_same_of_every_job(self) -> None:
        for key in self.keys:
            job = self.shard.job(key)
            told = self.model.jobs[job.no]
            assert job.state is told.state, key
            assert job.attempt == told.attempt, key
            assert job.retries_used == told.used, key
            real = {
                index: (self.shard.state.nodes[task.node_no].name, task.devices, task.phase)
                for index, task in job.tasks.items()
                if task.phase is not TaskPhase.ENDED
            }
            assert real == {
                index: (task.node, task.devices, PHASES[task.phase])
                for index, task in told.tasks.items()
                if task.phase != "ended"
            }

    @invariant()
    def free_amounts_are_what_the_tasks_leave(self) -> None:
        for real in self.shard.state.nodes.values():
            free = self.model.free(real.name)
            assert (real.cpu_free, real.memory_free, real.gpu_free) == free

    @invariant()
    def an_ended_job_stays_ended(self) -> None:
        for job in self.shard.state.jobs.values():
            if job.no in self.ended:
                assert job.state is self.ended[job.no]
            elif job.state in ENDED_STATES:
                self.ended[job.no] = job.state

    @invariant()
    def depths_are_what_counting_gives(self) -> None:
        for (_, name), queue in self.shard.state.queues.items():
            states = [j.state for j in self.shard.state.jobs.values() if j.terms.queue == name]
            assert queue.waiting == states.count(JobState.QUEUED)
            active = states.count(JobState.SCHEDULED) + states.count(JobState.RUNNING)
            assert queue.active == active

    @invariant()
    def loads_are_what_counting_gives(self) -> None:
        living = [j for j in self.shard.state.jobs.values() if j.state not in ENDED_STATES]
        assert self.shard.state.load.jobs == len(living)
        assert self.shard.state.load.spec_bytes == sum(len(job.spec) for job in living)
        assert ("default" in self.shard.state.loads) == bool(living)

    @invariant()
    def a_restored_snapshot_is_the_same_state(self) -> None:
        data = encode_snapshot(Snapshot(0, GENESIS, self.shard.state))
        assert fingerprint(decode_snapshot(data).state) == fingerprint(self.shard.state)


TestCoreMachine = CoreMachine.TestCase
TestCoreMachine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
