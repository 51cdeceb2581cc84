"""What really happens on machines, and what of it must never happen.

Told of every start and end of a task's process at the moment it takes place, of every lease that
the broker has granted, and asked by the histories when a record says that something is dead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.machines import Machine, Task
from tests.simulation.world import SECOND, Violation, World

TaskName = tuple[int, int, int, int]
"""Shard, job number, attempt, task."""
Incarnation = tuple[str, int]


@dataclass(slots=True)
class Fate:
    """One start of a task: where, and how it ended."""

    node: str
    incarnation: int
    is_alive: bool = True
    code: int | None = None
    by_itself: bool = False


@dataclass
class Truth:
    """The processes of all machines. `shard_of` is each node's; `placed` asks the logs."""

    world: World
    lease_us: int
    shard_of: dict[str, int] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    signs: dict[tuple[int, bytes], tuple[str, int, int]] = field(default_factory=dict)
    fates: dict[TaskName, Fate] = field(default_factory=dict)
    alive: dict[tuple[int, int], dict[TaskName, None]] = field(default_factory=dict)
    granted: dict[Incarnation, int] = field(default_factory=dict)
    deadlines: dict[Incarnation, int] = field(default_factory=dict)
    lost: dict[Incarnation, None] = field(default_factory=dict)
    placed: Callable[[TaskName, Incarnation], str] = lambda _name, _incarnation: ""

    def started(self, machine: Machine, task: Task) -> None:
        """A process begins: once, for what was placed there, and alone."""
        shard = self.shard_of[machine.name]
        name = (shard, *task.key)
        here = (machine.name, task.incarnation)
        self.world.note(machine.name, "task starts", str(name))
        if name in self.fates:
            raise Violation("each task starts at most once an attempt", f"{name} on {machine.name}")
        others = [
            other
            for other in self.alive.get(name[:2], {})
            if other[2] != name[2] and not self._stands_still(other)
        ]
        if others:
            raise Violation("no job has two attempts alive", f"{name} starts beside {others}")
        if problem := self.placed(name, here):
            raise Violation("only what the log has placed is started", f"{name}: {problem}")
        self.fates[name] = Fate(*here)
        self.alive.setdefault(name[:2], {})[name] = None

    def _stands_still(self, name: TaskName) -> bool:
        """Whether its machine is suspended: it does nothing, and dies when the machine wakes."""
        return self.machines[self.fates[name].node].suspended_until > self.world.now_us

    def ended(self, machine: Machine, task: Task, code: int, *, by_itself: bool) -> None:
        """A process is dead, in time."""
        name = (self.shard_of[machine.name], *task.key)
        self.world.note(machine.name, "task ends", f"{name} {code}")
        fate = self.fates[name]
        fate.is_alive, fate.code, fate.by_itself = False, code, by_itself
        del self.alive[name[:2]][name]
        here = (machine.name, task.incarnation)
        end_us = self.granted.get(here, 0)
        # A suspended machine runs nothing: what dies as it wakes up dies in time.
        late_us = machine.boot_us(self.world.now_us) - end_us
        if late_us > 0 and machine.suspended_until != self.world.now_us:
            raise Violation("no task lives past its lease", f"{name}: {late_us / SECOND:.3f} s")

    def renewed(self, machine: Machine, incarnation: int, until_us: int) -> None:
        """An agent decides to let its tasks live until then."""
        here = (machine.name, incarnation)
        before = self.deadlines.get(here)
        if before is not None and before < machine.boot_us(self.world.now_us):
            raise Violation("a lease that ran out is not revived", f"{here}")
        self.deadlines[here] = until_us

    def deadline(self, machine: Machine, incarnation: int, until_us: int) -> None:
        """The supervisors let the tasks live until then."""
        here = (machine.name, incarnation)
        if until_us > self.granted.get(here, 0):
            raise Violation("no lease is longer than was granted", f"{here}")

    def reported(self, shard: int, value: bytes) -> None:
        """A record landed in the reports topic; a sign of life grants a lease from its sending."""
        sign = self.signs.get((shard, value))
        if sign is not None:
            node, incarnation, sent_us = sign
            here = (node, incarnation)
            self.granted[here] = max(self.granted.get(here, 0), sent_us + self.lease_us)

    def resumed(self, machine: Machine) -> None:
        """A suspended machine goes on: its supervisors have looked at the clock first."""
        for task in machine.tasks:
            if (machine.name, task.incarnation) in self.lost:
                raise Violation("a lost incarnation runs nothing", f"{task.key} on {machine.name}")

    def node_is_lost(self, here: Incarnation) -> None:
        """A record that counts says so of an incarnation: nothing of it may run."""
        self.lost[here] = None
        machine = self.machines[here[0]]
        if machine.suspended_until > self.world.now_us:
            return
        for task in machine.tasks:
            if task.incarnation == here[1]:
                raise Violation("a lost incarnation runs nothing", f"{task.key} on {here}")

    def is_said_dead(self, name: TaskName) -> None:
        """A record that counts says that a task has ended."""
        fate = self.fates.get(name)
        if fate is not None and fate.is_alive:
            raise Violation("what is said to be dead is dead", f"{name}")

    def is_said_well(self, name: TaskName) -> None:
        """A record that counts says that a task has succeeded."""
        fate = self.fates.get(name)
        if fate is None or not fate.by_itself or fate.code != 0:
            raise Violation("only what succeeded is said to", f"{name}: {fate}")
