"""A node's machine: task processes, their supervisors, and what survives an agent.

`SimExecutor` is the executor port of one agent's run. Each task stands under a supervisor of its
own (`workers/supervisor.py`): it kills its task when the lease's deadline passes on the boot-time
clock, or when the agent dies, and lives on while the agent is frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tests.simulation.world import Host, Process, World
from workers.executor import (
    Cause,
    Ended,
    Prepared,
    Rendezvous,
    Started,
    TaskKey,
    TaskNews,
    TaskOrder,
)

MS = 1_000
SIGKILLED = -9
SIGTERMED = -15


@dataclass(eq=False)
class Task:
    """One task's process. `run` is the executor that started it."""

    key: TaskKey
    order: TaskOrder
    run: SimExecutor
    incarnation: int
    exit_code: int
    heeds_sigterm: bool
    is_alive: bool = True
    is_stopped: bool = False


class Witness(Protocol):
    """Who is told the truth about processes."""

    def started(self, machine: Machine, task: Task) -> None:
        """A task's process runs."""

    def ended(self, machine: Machine, task: Task, code: int, *, by_itself: bool) -> None:
        """It is dead."""

    def deadline(self, machine: Machine, incarnation: int, until_us: int) -> None:
        """A lease's deadline was moved."""

    def resumed(self, machine: Machine) -> None:
        """A suspended machine goes on."""


class Machine(Host):
    """A host that runs tasks. The journal lies on its disk; None where there is none."""

    def __init__(self, world: World, host: Host, witness: Witness) -> None:
        super().__init__(host.name, host.drift_ppm, host.booted_at, host.wall_off_us)
        self.world = world
        self.witness = witness
        self.tasks: list[Task] = []
        self.journal: int | None = None
        self.journaled: list[Task] = []

    def clock_us(self) -> int:
        """The clock that agent and supervisors go by."""
        return self.boot_us(self.world.now_us)

    def suspend(self, us: int) -> None:
        """Everything on it stands still for so long, its boot-time clock goes on."""
        if self.suspended_until > self.world.now_us:
            return
        self.suspended_until = self.world.now_us + us
        self.world.at(us, lambda: self._resume(us))

    def _resume(self, us: int) -> None:
        self.slept_us += us
        for task in list(self.tasks):
            task.run.look_at_deadline()
        self.witness.resumed(self)

    def when(self, clock_us: int, act: Callable[[], None]) -> None:
        """Do this once the boot-time clock shows so much and the machine is awake."""
        self.world.at(self.true_us(clock_us) - self.world.now_us, lambda: self._due(clock_us, act))

    def _due(self, clock_us: int, act: Callable[[], None]) -> None:
        if self.suspended_until > self.world.now_us:
            wait_us = self.suspended_until - self.world.now_us
            self.world.at(wait_us, lambda: self._due(clock_us, act))
        elif self.clock_us() < clock_us:
            self.world.at(clock_us - self.clock_us() + 1, lambda: self._due(clock_us, act))
        else:
            act()

    def clear_leftovers(self, run: SimExecutor) -> None:
        """A starting agent kills what the journal names of earlier ones."""
        for task in list(self.journaled):
            if task.run is not run:
                self.kill(task, Cause.STOPPED)
        self.journaled.clear()

    def kill(self, task: Task, cause: Cause) -> None:
        """SIGKILL; dead at once."""
        self.end(task, SIGKILLED, cause)

    def end(self, task: Task, code: int, cause: Cause) -> None:
        """The process is dead; who started it hears of it."""
        if not task.is_alive:
            return
        task.is_alive = False
        self.tasks.remove(task)
        if task in self.journaled:
            self.journaled.remove(task)
        by_itself = cause is Cause.EXITED
        self.witness.ended(self, task, code, by_itself=by_itself)
        task.run.tell(Ended(task.key, cause, code, cause.value))

    def crash(self) -> None:
        """Power is lost: nothing on it lives."""
        for task in list(self.tasks):
            self.kill(task, Cause.STOPPED)


class SimExecutor:
    """The executor of one agent's run. What a task does is in its command: see `workload.py`."""

    def __init__(self, machine: Machine, process: Process) -> None:
        self.machine = machine
        self.process = process
        self.incarnation = 0
        self.news: list[TaskNews] = []
        self.is_orphaned = False
        self._deadline_us = 0
        self._prepared: dict[TaskKey, TaskOrder] = {}
        self._tasks: dict[TaskKey, Task] = {}
        self._port = 20_000
        process.on_death.append(self._agent_died)

    def tell(self, news: TaskNews) -> None:
        """Something for the agent."""
        if not self.is_orphaned:
            self.news.append(news)
            self.process.wake()

    def prepare(self, order: TaskOrder) -> None:
        """A gang member's place."""
        self._prepared[order.key] = order
        self._port += 1
        endpoint = f"{self.machine.name}:{self._port}" if order.key.task == 0 else ""
        self.tell(Prepared(order.key, endpoint))

    def start(self, order: TaskOrder, rendezvous: Rendezvous | None) -> None:
        """Run: `command` is (run, milliseconds, exit codes of the attempts, heeds SIGTERM)."""
        del rendezvous
        self._prepared.pop(order.key, None)
        if self.is_past_deadline():
            self.tell(Ended(order.key, Cause.LEASE, SIGKILLED, "its supervisor did not let it go"))
            return
        _, length_ms, codes, heeds = order.command
        number = min(order.key.attempt, len(codes)) - 1
        task = Task(order.key, order, self, self.incarnation, int(codes[number]), heeds == "1")
        machine, world = self.machine, self.machine.world
        machine.tasks.append(task)
        machine.journaled.append(task)
        self._tasks[order.key] = task
        machine.witness.started(machine, task)
        fork_us = 1 * MS + int(world.random() * 8 * MS)
        machine.when(machine.clock_us() + fork_us, lambda: self._announce(task))
        work_us = fork_us + int(length_ms) * MS
        machine.when(
            machine.clock_us() + work_us, lambda: machine.end(task, task.exit_code, Cause.EXITED)
        )

    def _announce(self, task: Task) -> None:
        if task.is_alive:
            self.tell(Started(task.key))

    def stop(self, key: TaskKey, grace_s: float) -> None:
        """SIGTERM, grace, SIGKILL."""
        if self._prepared.pop(key, None) is not None:
            self.tell(Ended(key, Cause.STOPPED, detail="stopped before it started"))
        task = self._tasks.get(key)
        if task is None or not task.is_alive:
            return
        machine = self.machine
        if grace_s <= 0:
            machine.kill(task, Cause.STOPPED)
            return
        gently = task.heeds_sigterm
        grace_us = 5 * MS if gently else int(grace_s * 1_000 * MS)
        code = SIGTERMED if gently else SIGKILLED
        machine.when(machine.clock_us() + grace_us, lambda: machine.end(task, code, Cause.STOPPED))

    def kill_all(self) -> None:
        """SIGKILL to everything."""
        for key in [*self._prepared, *self._tasks]:
            self.stop(key, 0)

    def set_deadline(self, boot_ns: int) -> None:
        """What every supervisor reads."""
        until_us = boot_ns // 1000
        self.machine.witness.deadline(self.machine, self.incarnation, until_us)
        self._deadline_us = until_us
        self.machine.when(until_us, self.look_at_deadline)

    def is_past_deadline(self) -> bool:
        """What a supervisor asks before it lets its task go, and whenever its timer fires."""
        return self.machine.clock_us() >= self._deadline_us

    def look_at_deadline(self) -> None:
        """Each task's supervisor looks at the clock."""
        if self.is_past_deadline():
            for task in list(self._tasks.values()):
                if task.is_alive:
                    self.machine.kill(task, Cause.LEASE)

    def poll(self) -> list[TaskNews]:
        """What happened since."""
        news, self.news = self.news, []
        for one in news:
            if isinstance(one, Ended):
                self._tasks.pop(one.key, None)
        return news

    def _agent_died(self) -> None:
        """Every supervisor sees its connection close, a little later, and kills its task."""
        self.is_orphaned = True
        world = self.machine.world
        for task in list(self._tasks.values()):
            self.machine.when(
                self.machine.clock_us() + world.between(0, 1.5),
                lambda task=task: self.machine.kill(task, Cause.STOPPED),
            )
