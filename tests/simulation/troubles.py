"""What goes wrong at any moment: crashes, pauses, partitions, machines, servers that lose data.

Faults at steps of the protocol are `faults.py`. When trouble ends, every process runs again and
every line is whole; what is still under way in the network arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.topics import COMMANDS, DISPATCH, LOG, REPORTS
from tests.simulation.faults import AT_ANY_TIME, KAFKA, POSTGRES, REDIS, THEMES
from tests.simulation.world import SECOND, Process

if TYPE_CHECKING:
    from tests.simulation.system import System


class Troubles:
    """One seed's troubles."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.world = system.world
        self.is_on = True

    def plan(self, span_us: int) -> None:
        """Draw when what happens."""
        chance = self.world.chance
        drawn = chance.choices(AT_ANY_TIME, k=chance.randint(4, 8))
        themed = THEMES[self.world.plan.theme][1]
        for what in drawn + [chance.choice(themed) for _ in range(4) if themed]:
            at_us = 2 * SECOND + int(self.world.random() * (span_us - 3 * SECOND))
            self.world.at(at_us, lambda what=what: self.make(what))

    def now(self) -> None:
        """Something, at once."""
        self.make(self.world.chance.choice(AT_ANY_TIME))

    def make(self, what: str) -> None:
        """This happens."""
        if not self.is_on:
            return
        self.world.note("fate", what, "***")
        self.world.plan.happen(what)
        name = "_" + what.replace(" ", "_")
        getattr(self, name)()

    def end(self) -> None:
        """From here on nothing goes wrong any more."""
        self.is_on = False
        self.world.plan.is_on = False
        self.world.note("fate", "trouble ends", "***")
        for process in self.world.processes:
            process.cut.clear()
            process.thaw()

    def _any(self) -> Process:
        return self.world.chance.choice(list(self.system.running.values()))

    def _crash_of_a_process(self) -> None:
        self._any().crash()

    def _pause_of_a_process(self) -> None:
        self._any().freeze(self.world.pause_us())

    def _crash_of_a_host(self) -> None:
        machine = self.world.chance.choice(self.system.machines)
        if machine.suspended_until <= self.world.now_us:
            machine.crash()
            process = self.system.running.get(machine.name)
            if process is not None:
                process.crash()

    def _suspend_of_a_host(self) -> None:
        self.world.chance.choice(self.system.machines).suspend(self.world.pause_us())

    def _partition_of_a_process(self) -> None:
        server = self.world.chance.choice((KAFKA, KAFKA, POSTGRES, REDIS))
        process = self._any()
        process.cut[server] = self.world.now_us + self.world.between(0.5, 8)

    def _second_writer_of_a_view(self) -> None:
        name = self.world.chance.choice(("audit", "hot", "relay"))
        first = self.system.running.get(name)
        if first is not None:
            first.freeze(self.world.between(0.2, 3))
        self.system.start(name, "'")

    def _rebalance_of_the_group(self) -> None:
        self.system.group.swaps += 1

    def _tail_of_redis_lost(self) -> None:
        self.system.redis.lose_tail(self.world.chance.randint(1, 12))

    def _redis_emptied(self) -> None:
        self.system.redis.lose_all()

    def _wall_clock_stepped(self) -> None:
        world, roles = self.world, self.system.roles
        far = world.random() < 0.3
        names = [name for name in roles if not far or name.startswith("engine")]
        host, _ = roles[world.chance.choice(names)]
        step_us = (
            world.between(70, 150) * world.chance.choice((-1, 1)) if far else world.between(-3, 3)
        )
        before = host.wall_off_us
        host.wall_off_us += step_us
        if far and world.random() < 0.5:  # so that a claim is made meanwhile
            self._rebalance_of_the_group()

        def back() -> None:
            host.wall_off_us = before

        world.at(world.between(1, 6), back)

    def _journal_of_an_agent_lost(self) -> None:
        machine = self.world.chance.choice(self.system.machines)
        machine.journal = None
        machine.journaled.clear()
        if self.world.random() < 0.4:
            machine.wall_off_us -= self.world.between(1, 60)  # a new disk, and a clock set anew
        process = self.system.running.get(machine.name)
        if process is not None:
            process.crash()

    def _late_copies_of_dispatches(self) -> None:
        for _ in range(3):
            self.system.kafka.copy_late(DISPATCH.name)

    def _late_copies_of_reports(self) -> None:
        for _ in range(3):
            self.system.kafka.copy_late(REPORTS.name)

    def _late_copies_of_commands(self) -> None:
        self.system.kafka.copy_late(COMMANDS.name)

    def _late_copies_of_log_records(self) -> None:
        self.system.kafka.copy_late(LOG.name)
