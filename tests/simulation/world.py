"""Fake time, simulated processes and hosts: one scheduler in one OS thread.

Every simulated process runs product code in a greenlet and gives control back wherever it waits.
What happens when is drawn from the seed alone, so one seed is one run, bit for bit. Knows nothing
of the product; what can go wrong at which step is `faults.py`, the servers are `kafka.py`,
`postgres.py` and `redis.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from random import Random

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]  # it has no stubs

from tests.simulation.faults import Fault, Plan

SECOND = 1_000_000
"""Microseconds, as all times of the world are."""
WALL0 = 1_800_000_000 * SECOND
MILLION = 1_000_000


class Violation(BaseException):
    """An invariant does not hold. No product code may catch it, so it is no `Exception`."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail


class Crashed(BaseException):
    """Thrown into a process that dies."""


class Host:
    """A machine with clocks of its own. Its boot-time clock goes on while it is suspended."""

    def __init__(self, name: str, drift_ppm: int, boot_us: int, wall_off_us: int) -> None:
        self.name = name
        self.drift_ppm = drift_ppm
        self.booted_at = boot_us
        self.wall_off_us = wall_off_us
        self.suspended_until = 0
        self.slept_us = 0

    def boot_us(self, now: int) -> int:
        """The boot-time clock, in microseconds."""
        return self.booted_at + now + now * self.drift_ppm // MILLION

    def wall_us(self, now: int) -> int:
        """The wall clock, UTC microseconds."""
        return WALL0 + now + self.wall_off_us

    def true_us(self, boot_us: int) -> int:
        """The first moment of the world at which the boot-time clock shows this or more."""
        passed = boot_us - self.booted_at
        guess = passed * MILLION // (MILLION + self.drift_ppm)
        while self.boot_us(guess) < boot_us:
            guess += 1
        return guess


class Process:
    """One start of a process: a greenlet that dies with its memory."""

    def __init__(self, world: World, name: str, host: Host, main: Callable[[], None]) -> None:
        self.world = world
        self.name = name
        self.host = host
        self.alive = True
        self.frozen_until = 0
        self.cut: dict[str, int] = {}
        self.on_death: list[Callable[[], None]] = []
        self.failed: BaseException | None = None
        self.was_killed = False
        self._threads: list[Process] = []
        self._main = main
        self._ticket = 0
        self._can_wake = False
        self._greenlet = greenlet(self._run, world.hub)
        world.processes.append(self)
        world.at(0, lambda: self._resume(0))

    def _run(self) -> None:
        try:
            self._main()
        except Crashed:
            self.was_killed = True
        except Violation as violation:
            self.world.violation = self.world.violation or violation
        except Exception as error:  # noqa: BLE001 - whoever started it judges how it ended
            self.failed = error
        self._end()

    def _end(self) -> None:
        self.alive = False
        if self in self.world.processes:
            self.world.processes.remove(self)
        for thread in self._threads:
            thread.crash()
        for call in self.on_death:
            call()
        self.on_death = []

    def spawn_thread(self, name: str, main: Callable[[], None]) -> None:
        """A thread of this process: dies with it."""
        self._threads = [thread for thread in self._threads if thread.alive]
        self._threads.append(Process(self.world, f"{self.name}/{name}", self.host, main))

    def crash(self) -> None:
        """Kill -9. From inside the process itself it does not return."""
        if not self.alive:
            return
        self.world.note(self.name, "dies", "")
        self.alive = False
        if self.world.current is self:
            raise Crashed
        self.world.at(0, self._kill)

    def _kill(self) -> None:
        if self._greenlet:
            before, self.world.current = self.world.current, self
            self._greenlet.throw(Crashed)
            self.world.current = before
        if self in self.world.processes:
            self.was_killed = True
            self._end()

    def end(self) -> None:
        """The world is over."""
        self.alive = False
        self._kill()

    def freeze(self, us: int) -> None:
        """SIGSTOP for so long; time goes on without it."""
        self.frozen_until = max(self.frozen_until, self.world.now_us + us)
        for thread in self._threads:
            thread.frozen_until = self.frozen_until

    def thaw(self) -> None:
        """SIGCONT."""
        self.frozen_until = 0

    def wait(self, us: int, *, wakeable: bool = False) -> None:
        """Let so much time pass; `wake` ends a wakeable wait."""
        if not self.alive:
            raise Crashed
        self._can_wake = wakeable
        ticket = self._ticket
        self.world.at(us, lambda: self._resume(ticket))
        self.world.hub.switch()
        self._can_wake = False

    def wake(self) -> None:
        """Something has come for it."""
        if self._can_wake and self.alive:
            self._can_wake = False
            ticket = self._ticket
            self.world.at(50, lambda: self._resume(ticket))

    def _resume(self, ticket: int) -> None:
        if ticket != self._ticket or not self.alive:
            return
        world = self.world
        until = max(self.frozen_until, self.host.suspended_until)
        if until > world.now_us:
            world.at(until - world.now_us, lambda: self._resume(ticket))
            return
        self._ticket += 1
        world.current = self
        self._greenlet.switch()
        world.current = None

    def is_cut(self, server: str) -> bool:
        """Whether the network keeps it from a server now."""
        return self.cut.get(server, 0) > self.world.now_us


class World:
    """The scheduler. `chance` is the only source of chance there is."""

    def __init__(self, seed: int, *, keeps_trace: bool = False) -> None:
        self.chance = Random(seed)
        self.random = self.chance.random
        self.now_us = 0
        self.steps = 0
        self.processes: list[Process] = []
        self.current: Process | None = None
        self.violation: Violation | None = None
        self.plan = Plan(self.chance)
        self.trace: list[str] | None = [] if keeps_trace else None
        self.hub = getcurrent()
        self._digest = blake2b(digest_size=16)
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0

    def at(self, delay_us: int, act: Callable[[], None]) -> None:
        """Do this so much later."""
        self._order += 1
        heappush(self._heap, (self.now_us + max(delay_us, 0), self._order, act))

    def run(self, is_over: Callable[[], bool], until_us: int) -> None:
        """Let everything happen in its order until it is over, or so late, or broken."""
        heap = self._heap
        try:
            while heap and self.violation is None and not is_over():
                if heap[0][0] > until_us:
                    break
                self.now_us, _, act = heappop(heap)
                self.steps += 1
                act()
        except Violation as violation:
            self.violation = violation

    def close(self) -> None:
        """End every process, so that nothing of this world runs on in another."""
        for process in list(self.processes):
            process.end()

    def me(self) -> Process:
        """The process that runs now."""
        assert self.current is not None, "only processes do this"
        return self.current

    def latency(self) -> int:
        """How long a message travels: mostly short, sometimes not."""
        draw = self.random()
        return 200 + int(draw * 2_500) if draw < 0.97 else int(self.random() * 60_000)

    def between(self, low_s: float, high_s: float) -> int:
        """So many microseconds, by chance."""
        return int((low_s + (high_s - low_s) * self.random()) * SECOND)

    def note(self, who: str, what: str, about: str) -> None:
        """One line of the trace; all of them together are the run's fingerprint."""
        line = f"{self.now_us} {who} {what} {about}"
        self._digest.update(line.encode())
        if self.trace is not None:
            self.trace.append(f"{self.now_us / SECOND:11.6f}  {who:<14} {what:<28} {about}")

    def fingerprint(self) -> str:
        """Equal for equal runs."""
        return f"{self._digest.hexdigest()}:{self.steps}"

    # What goes wrong.

    def begin(self, step: str) -> Fault | None:
        """The present process comes to a step: it may die or stop here, or learn what goes wrong."""
        process = self.me()
        fault = self.plan.draw(step, process.name)
        if fault is None:
            return None
        self.note(process.name, step, f"*** {fault.value}")
        if fault is Fault.CRASH_BEFORE:
            process.crash()
        if fault is Fault.FREEZE:
            # Somewhere around the step: before it, within it, or just after.
            pause_us = self.pause_us()
            self.at(int(self.random() * 4_000), lambda: process.freeze(pause_us))
            process.wait(int(self.random() * 4_000))
        elif fault is Fault.DELAY:
            process.wait(self.between(0.05, 1.2))
        elif fault is Fault.CUT:
            server = self.plan.server_of(step)
            process.cut[server] = self.now_us + self.between(0.3, 7)
        return fault

    def pause_us(self) -> int:
        """For how long something stands still: half of the time longer than a lease."""
        if self.random() < 0.5:
            return self.between(0.05, 2.5)
        return self.between(3.5, 8)

    def finish(self, fault: Fault | None) -> None:
        """The step has taken place."""
        if fault is Fault.CRASH_AFTER:
            self.me().crash()
