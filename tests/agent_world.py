"""A world for one agent: fake time, an in-memory executor, a Kafka that obeys the test.

Drives the same state machine as `workers.driver`. Sends wait in `unanswered` until the test
acknowledges or fails them; time moves only by `wait`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from schemas.codec import encode_body
from schemas.dispatch import NO_RELEASES, NO_STARTS, NO_STOPS, Dispatch, Releases, Starts, Stops
from schemas.reports import TasksReported
from schemas.terms import FailureClass, JobSpec, JobTerms, TaskState
from workers.agent import Agent, Stage
from workers.executor import TaskKey, TaskOrder, Wrote
from workers.memory_executor import MemoryExecutor, Script
from workers.messages import (
    Began,
    Delivered,
    DispatchRead,
    Effect,
    Exit,
    Input,
    KillAll,
    Moment,
    Note,
    PersistIncarnation,
    Positioned,
    Prepare,
    SeekDispatchEnd,
    Send,
    SetLeaseDeadline,
    Start,
    Stop,
    Tick,
    Undelivered,
)
from workers.options import AgentOptions

SECOND_NS = 1_000_000_000
T = TypeVar("T")
SHARD = 3
SPEC_ID, SPEC = encode_body(JobSpec(job_type="training", command=("run",), config="{}"))


def options(**changes: Any) -> AgentOptions:
    """A node that nothing is special about."""
    values: dict[str, Any] = {
        "node": "n1",
        "pool": "default",
        "address": "10.0.0.1",
        "data_dir": Path("/nowhere"),
        "cpu_milli": 4000,
        "memory_mib": 8192,
    }
    return AgentOptions(**(values | changes))


def starts(
    *keys: TaskKey, gang: int = 0, seq: int = 10, spec: bytes = SPEC, progress_timeout_s: int = -1
) -> Starts:
    """Starts of these tasks; `gang` is the number of members, 0 for no gang."""
    count = len(keys)
    terms = JobTerms(
        tasks=max(gang, 1),
        min_members=gang,
        cpu_milli=1000,
        memory_mib=512,
        grace_s=5,
        progress_timeout_s=progress_timeout_s,
    )
    return Starts(
        job_nos=[key.job_no for key in keys],
        job_ids=b"".join(key.job_no.to_bytes(16, "big") for key in keys),
        attempts=[key.attempt for key in keys],
        tasks=[key.task for key in keys],
        seqs=[seq] * count,
        terms=[terms],
        terms_of=[0] * count,
        devices=[b""] * count,
        key_ids=[0] * count,
        spec_schema_ids=[SPEC_ID] * count,
        specs=[spec] * count,
    )


def stops(*keys: TaskKey, grace_s: int = 5, why: str = "cancelled", seq: int = 10) -> Stops:
    """Stops of these tasks."""
    count = len(keys)
    return Stops(
        [key.job_no for key in keys],
        [key.attempt for key in keys],
        [key.task for key in keys],
        [seq] * count,
        [grace_s] * count,
        [why] * count,
    )


def releases(*keys: TaskKey, endpoint: str = "10.0.0.1:20001") -> Releases:
    """Releases of these gang members."""
    return Releases(
        [key.job_no for key in keys],
        [key.attempt for key in keys],
        [key.task for key in keys],
        [endpoint] * len(keys),
    )


class AgentWorld:
    """One agent and everything around it."""

    def __init__(self, given: AgentOptions | None = None, script: Script | None = None) -> None:
        self.options = given or options()
        self.script = script or Script(runs_s=1000)
        self.scripts: dict[TaskKey, Script] = {}
        self.now_ns = 100 * SECOND_NS
        self.agent = Agent(self.options, SHARD)
        self.executor = MemoryExecutor(self._script_of, lambda: self.now_ns)
        self.unanswered: list[Send] = []
        self.sent: list[object] = []
        self.rows: list[tuple[TaskKey, TaskState, FailureClass]] = []
        self.seeks = 0
        self.persisted: list[int] = []
        self.notes: list[str] = []
        self.effects: list[Effect] = []
        self.exit_code: int | None = None

    def _script_of(self, order: TaskOrder) -> Script:
        return self.scripts.get(order.key, self.script)

    def now(self) -> Moment:
        return Moment(self.now_ns, 1_700_000_000_000_000 + self.now_ns // 1000)

    def feed(self, message: Input) -> list[Effect]:
        """Give the machine one input and do what it says, but answer no sends."""
        effects = self.agent.handle(message, self.now())
        self.effects += effects
        for effect in effects:
            self._perform(effect)
        return effects

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send():
                self.unanswered.append(effect)
                self.sent.append(effect.message)
                if isinstance(effect.message, TasksReported):
                    self._note_rows(effect.message)
            case Prepare():
                self.executor.prepare(effect.order)
            case Start():
                self.executor.start(effect.order, effect.rendezvous)
            case Stop():
                self.executor.stop(effect.key, effect.grace_s)
            case KillAll():
                self.executor.kill_all()
            case SetLeaseDeadline():
                self.executor.set_deadline(effect.boot_ns)
            case SeekDispatchEnd():
                self.seeks += 1
            case PersistIncarnation():
                self.persisted.append(effect.incarnation)
            case Note():
                self.notes.append(effect.text)
            case Exit():
                self.exit_code = effect.code

    def _note_rows(self, report: TasksReported) -> None:
        keys = map(TaskKey, report.job_nos, report.attempts, report.tasks)
        self.rows += zip(keys, report.states, report.failures, strict=True)

    def pump(self) -> None:
        """Let the executor's news reach the machine until there are none."""
        while news := self.executor.poll(0):
            for item in news:
                if not isinstance(item, Wrote):
                    self.feed(item)

    def wait(self, seconds: float, *, acked: bool = True) -> None:
        """Let time pass, with a tick whenever the machine wants one; `acked`: Kafka answers."""
        until = self.now_ns + int(seconds * SECOND_NS)
        while self.now_ns < until:
            self.pump()
            if acked:
                self.ack()
            wake = min(self.agent.next_wake_ns(), self.executor.next_news_ns())
            self.now_ns = min(until, max(wake, self.now_ns + SECOND_NS // 1000))
            self.feed(Tick())
            self.pump()
            if acked:
                self.ack()

    def ack(self) -> None:
        """Acknowledge everything that was sent, and what that makes the machine send."""
        while self.unanswered:
            self.feed(Delivered(self.unanswered.pop(0).ref))

    def fail(self) -> None:
        """The outcome of everything under way stays unknown."""
        for send in self.take_unanswered():
            self.feed(Undelivered(send.ref, "timed out"))

    def take_unanswered(self) -> list[Send]:
        """What is under way, to be answered later."""
        taken, self.unanswered = self.unanswered, []
        return taken

    def dispatch(self, **changes: Any) -> list[Effect]:
        """A dispatch for the present incarnation, with these parts."""
        values: dict[str, Any] = {
            "shard": SHARD,
            "epoch": 1,
            "node": "n1",
            "incarnation": self.agent.incarnation,
            "floor": 0,
            "registered": False,
            "register_again": False,
            "starts": NO_STARTS,
            "releases": NO_RELEASES,
            "stops": NO_STOPS,
        }
        return self.feed(DispatchRead(Dispatch(**(values | changes))))

    def begin(self, last_incarnation: int = 0, *, wait: bool = False) -> None:
        """Start the agent."""
        self.feed(Began(last_incarnation, wait))

    def serve(self) -> None:
        """Bring the agent to serve a new incarnation."""
        if self.agent.stage is Stage.NEW:
            self.begin()
        self.feed(Positioned())
        self.ack()
        self.dispatch(registered=True)
        self.ack()
        assert self.agent.stage is Stage.SERVING

    def messages(self, kind: type[T]) -> list[T]:
        """Everything of one kind that was sent."""
        return [message for message in self.sent if isinstance(message, kind)]

    def states(self, key: TaskKey) -> list[TaskState]:
        """What was reported of a task, in order."""
        return [state for row, state, _ in self.rows if row == key]

    def failure(self, key: TaskKey) -> FailureClass:
        """What a task's end was called."""
        found = [fail for row, state, fail in self.rows if row == key and state is TaskState.ENDED]
        assert found, f"{key} was not reported ended"
        return found[-1]
