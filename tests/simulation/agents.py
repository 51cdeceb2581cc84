"""A node agent in the simulated world: the real state machine with simulated hands.

The loop is that of `workers/driver.py`: dispatches, executor's news, acknowledgements, time. What
it is told by a superseded engine must move it to nothing but a note; that is checked here.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from infra.kafka_port import KafkaUnavailable, OffsetOutOfRange
from schemas.codec import decode, encode
from schemas.dispatch import Dispatch
from schemas.ids import partition_of
from schemas.reports import DrainNode, Heartbeat, RegisterNode, TasksReported
from schemas.terms import GpuDevice
from schemas.topics import DISPATCH, REPORTS
from tests.simulation.kafka import Kafka, Reader, call
from tests.simulation.machines import Machine, SimExecutor
from tests.simulation.witness import Truth
from tests.simulation.world import SECOND, Violation
from workers.agent import Agent
from workers.messages import (
    Began,
    Delivered,
    DispatchLost,
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

LEASE_S = 3
HEARTBEAT_S = 1.0
TIMEOUT_S = 1.4
IDLE_US = SECOND
STEP_OF: dict[type, str] = {
    RegisterNode: "register",
    Heartbeat: "heartbeat",
    TasksReported: "report",
    DrainNode: "report",
}


def agent_options(node: str, pool: str, gpus: int) -> AgentOptions:
    """A small node with a short lease."""
    return AgentOptions(
        node=node,
        pool=pool,
        address=node,
        data_dir=Path("/nowhere"),
        cpu_milli=4_000,
        memory_mib=8_192,
        gpus=tuple(GpuDevice("A100", 81_920) for _ in range(gpus)),
        lease_s=LEASE_S,
        heartbeat_s=HEARTBEAT_S,
        drain_s=5.0,
    )


class AgentRun:
    """One start of a node's agent."""

    def __init__(
        self, kafka: Kafka, machine: Machine, options: AgentOptions, shard: int, truth: Truth
    ) -> None:
        self.kafka = kafka
        self.world = kafka.world
        self.machine = machine
        self.options = options
        self.shard = shard
        self.truth = truth
        self.agent = Agent(options, shard)
        self.place = (DISPATCH.name, partition_of(options.node, DISPATCH.partitions))
        self._landed: deque[Delivered | Undelivered] = deque()
        self._seek_asked = False
        self._is_over = False
        self._epoch = 0

    def run(self) -> None:
        """From start to exit."""
        self.process = self.world.me()
        self.executor = SimExecutor(self.machine, self.process)
        self.reader = Reader(self.kafka, self.process, "poll dispatch")
        fault = self.world.begin("clear leftovers")
        last = self.machine.journal
        self.clear_leftovers()
        self.world.finish(fault)
        self._feed(Began(last or 0, wait=last is None))
        while not self._is_over:
            self._turn()

    def clear_leftovers(self) -> None:
        """What an earlier agent left running is dead before this one goes on."""
        self.machine.clear_leftovers(self.executor)

    def _now(self) -> Moment:
        return Moment(self.machine.clock_us() * 1_000, self.machine.wall_us(self.world.now_us))

    def _turn(self) -> None:
        if self._seek_asked:
            self._seek()
        for message in self._letters():
            self._feed(message)
        for news in self.executor.poll():
            self._feed(news)  # type: ignore[arg-type]  # this executor writes no lines
        while self._landed:
            self._feed(self._landed.popleft())
        if self._now().boot_ns >= self.agent.next_wake_ns():
            self._feed(Tick())
        self.process.wait(200)

    def _seek(self) -> None:
        part = self.kafka.part(self.place)
        try:
            end = call(self.world, "seek dispatch", lambda: part.end, KafkaUnavailable)
        except KafkaUnavailable:
            return
        self._seek_asked = False
        self.reader.assign({self.place: end})
        self._feed(Positioned())

    def _letters(self) -> list[DispatchRead | DispatchLost]:
        """What has come; waits for something to come, or for the next thing that is due."""
        due_us = self.agent.next_wake_ns() // 1_000 - self.machine.clock_us()
        is_idle = not (self._landed or self.executor.news or self._seek_asked)
        patience_us = max(0, min(due_us, IDLE_US)) if is_idle else 0
        if not self.reader.positions or self._seek_asked:
            self.process.wait(patience_us, wakeable=True)
            return []
        try:
            found = self.reader.poll(patience_us / SECOND, 100)
        except OffsetOutOfRange:
            return [DispatchLost()]
        except KafkaUnavailable:
            if self.world.random() < 0.5:
                return []
            self.reader.assign({})
            return [DispatchLost()]
        return [
            DispatchRead(decode(entry.value)) for _, entry, key in found if key == self.options.node
        ]

    def _feed(self, message: Input) -> None:
        if isinstance(message, DispatchRead):
            self._check_epoch(message.dispatch)
            is_stale = self._is_for_us(message.dispatch) and message.dispatch.epoch < self._epoch
            if is_stale:
                self._feed(Tick())
        else:
            is_stale = False
        effects = self.agent.handle(message, self._now())
        if is_stale and any(not isinstance(effect, Note) for effect in effects):
            raise Violation("a superseded engine is not obeyed", f"{message} led to {effects}")
        for effect in effects:
            if isinstance(effect, SetLeaseDeadline):
                until_us = effect.boot_ns // 1_000
                self.truth.renewed(self.machine, self.agent.incarnation, until_us)
        for effect in effects:
            self._perform(effect)

    def _is_for_us(self, dispatch: Dispatch) -> bool:
        return dispatch.node == self.options.node and dispatch.shard == self.shard

    def _check_epoch(self, dispatch: Dispatch) -> None:
        if self._is_for_us(dispatch):
            self._epoch = max(self._epoch, dispatch.epoch)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(effect)
            case PersistIncarnation():
                self._local("journal", lambda: self._persist(effect.incarnation))
            case SeekDispatchEnd():
                self._seek_asked = True
            case Prepare():
                self._local("prepare task", lambda: self.executor.prepare(effect.order))
            case Start():
                start = effect
                self._local(
                    "start task", lambda: self.executor.start(start.order, start.rendezvous)
                )
            case Stop():
                stop = effect
                self._local("stop task", lambda: self.executor.stop(stop.key, stop.grace_s))
            case KillAll():
                self._local("kill all", self.executor.kill_all)
            case SetLeaseDeadline():
                self._local("set deadline", lambda: self.executor.set_deadline(effect.boot_ns))
            case Note():
                self.world.note(self.options.node, "notes", effect.text)
            case Exit():
                self._is_over = True

    def _local(self, step: str, act: object) -> None:
        fault = self.world.begin(step)
        assert callable(act)
        act()
        self.world.finish(fault)

    def _persist(self, incarnation: int) -> None:
        self.machine.journal = incarnation
        self.executor.incarnation = incarnation

    def _send(self, effect: Send) -> None:
        message = effect.message
        value = encode(message)
        if isinstance(message, Heartbeat | RegisterNode):
            sign = (message.node, message.incarnation, self.machine.boot_us(self.world.now_us))
            self.truth.signs[self.shard, value] = sign

        def on_result(_offset: int | None, error: str | None) -> None:
            ref = effect.ref
            self._landed.append(Delivered(ref) if error is None else Undelivered(ref, error))

        where = ((REPORTS.name, self.shard), self.options.pool)
        self.kafka.send(STEP_OF[type(message)], where, value, on_result, TIMEOUT_S)
