"""Chooses what happens when: every kind of fault once, in a drawn order, then by weight.

Up to three faults at a time, never two on one target. A fault that must be alone waits until the
others are over and jobs flow in every pool. The choices follow from the seed; their moments do not,
for the machine takes its own time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Thread

from tests.chaos.faults import FAULTS, Fault, Happening, Scene
from tests.chaos.options import HERE_POOL, NODES, Options
from tests.chaos.world import boot_s

AT_ONCE = 3
WELL_WITHIN_S = 90.0
STEADY_S = 2.0
FRESH_S = 1.5
TAIL_BYTES = 32 * 1024


@dataclass
class Storm:
    """`happenings` is what was done; `problems` what did not come back in time."""

    scene: Scene
    options: Options
    tell: Callable[[str], None]
    happenings: list[Happening] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._running: dict[str, Thread] = {}
        disks = self.scene.world.disks
        self.faults = [
            fault
            for fault in FAULTS
            if (disks or not fault.needs_disks)
            and (not self.options.only or fault.name in self.options.only)
        ]

    def rage(self) -> None:
        """Until the time is over; returns when the last fault has been undone."""
        end = time.monotonic() + self.options.minutes * 60
        plan = self._plan()
        while time.monotonic() < end:
            time.sleep(self.scene.draw(*self.options.gap_s))
            fault = next(plan)
            if fault.alone:
                self._wait_calm()
                self._wait_well()
            target = self._target(fault)
            if target is None or time.monotonic() > end:
                continue
            self._begin(fault, target)
            while len(self._running) >= AT_ONCE or (fault.alone and self._running):
                self._reap()
        self._wait_calm()

    def _plan(self) -> Iterator[Fault]:
        """What must be alone comes first, while all is well."""
        first = self.faults.copy()
        self.scene.chance.shuffle(first)
        yield from sorted(first, key=lambda fault: not fault.alone)
        while True:
            weights = [fault.weight for fault in self.faults]
            yield self.scene.chance.choices(self.faults, weights)[0]

    def _target(self, fault: Fault) -> str | None:
        targets = list(fault.targets)
        self.scene.chance.shuffle(targets)
        self._reap()
        return next((one for one in targets if one not in self._running), None)

    def _begin(self, fault: Fault, target: str) -> None:
        happening = Happening(fault.name, target, boot_s())
        self.happenings.append(happening)

        def do() -> None:
            try:
                fault.act(self.scene, happening)
            except AssertionError as error:
                self.problems.append(str(error))
            happening.ended = boot_s()
            took = happening.ended - happening.began
            back = f", back after {happening.back_s:.1f} s" if happening.back_s else ""
            note = f" ({happening.note})" if happening.note else ""
            self.tell(f"{fault.name}: {happening.target}{note}, {took:.1f} s{back}")

        thread = Thread(target=do, name=fault.name, daemon=True)
        self._running[target] = thread
        thread.start()

    def _reap(self) -> None:
        time.sleep(0.1)
        self._running = {name: one for name, one in self._running.items() if one.is_alive()}

    def _wait_calm(self) -> None:
        while self._running:
            self._reap()

    def _wait_well(self) -> None:
        """Until tasks have been starting for a while in the pool that is to be hurt."""
        nodes = {node for node, pool in NODES.items() if pool == HERE_POOL}
        deadline = time.monotonic() + WELL_WITHIN_S
        fresh_since = 0.0
        while time.monotonic() < deadline:
            fresh = bool(self._started_lately() & nodes)
            if not fresh:
                fresh_since = 0.0
            fresh_since = fresh_since or (time.monotonic() if fresh else 0.0)
            if fresh and time.monotonic() - fresh_since > STEADY_S:
                return
            time.sleep(0.2)
        self.problems.append(f"jobs did not flow in pool {HERE_POOL} again in {WELL_WITHIN_S:g} s")

    def _started_lately(self) -> set[str]:
        """Nodes on which a task started a moment ago."""
        with self.scene.world.journal.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().decode().splitlines()[1:]
        now = boot_s()
        found = set()
        for line in lines:
            words = line.split()
            if len(words) == 6 and words[0] == "start" and now - float(words[4]) < FRESH_S:
                found.add(words[5])
        return found
