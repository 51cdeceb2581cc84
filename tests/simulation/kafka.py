"""Kafka in the simulated world: partitions, producers whose sends go astray, readers, a group.

Sends of one producer land in their order, unless one is held or comes twice. What is not known to
its sender may still have landed, or land later. Readers see each partition in order, but may see
one much later than another. Implements what `infra.kafka` and `infra.log` promise, no more.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from infra.kafka_port import KafkaUnavailable, OffsetOutOfRange
from infra.log import Entry
from schemas.terms import Micros
from schemas.topics import LOG
from tests.simulation.faults import KAFKA, Fault
from tests.simulation.world import SECOND, WALL0, Process, World

Place = tuple[str, int]
OnResult = Callable[[int | None, str | None], None]
T = TypeVar("T")
ASK_US = 300_000
"""How long a request to a server that does not answer takes."""


@dataclass(slots=True)
class Part:
    """One partition: dense records from `start` on; `readers` are woken by what lands."""

    start: int = 0
    entries: list[Entry] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    readers: dict[Process, None] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The offset that the next record gets."""
        return self.start + len(self.entries)

    def read(self, offset: int, stop: int) -> list[Entry]:
        """Records from `offset` to before `stop`."""
        return self.entries[offset - self.start : stop - self.start]

    def trim(self, offset: int) -> None:
        """Let go of what lies before."""
        if offset > self.start:
            del self.entries[: offset - self.start]
            del self.keys[: offset - self.start]
            self.start = offset


def call(world: World, step: str, effect: Callable[[], T], error: type[Exception]) -> T:
    """A request to the step's server and its answer, with whatever goes wrong on the way."""
    if world.current is None:  # whoever checks asks without going through the network
        return effect()
    process, server = world.me(), world.plan.server_of(step)
    fault = world.begin(step)
    process.wait(world.latency())
    if process.is_cut(server) or fault is Fault.ERROR:
        process.wait(ASK_US)
        raise error(f"{server} does not answer")
    if fault is Fault.HOLD:
        world.at(world.between(0.2, 6), lambda: _late(effect))
        process.wait(ASK_US)
        raise error(f"{server} did not answer in time")
    answer = effect()
    if fault is None:
        return answer
    world.finish(fault)
    if fault is Fault.DUPLICATE:
        answer = effect()
    if fault is Fault.LOSE_ANSWER:
        process.wait(ASK_US)
        raise error(f"the answer of {server} was lost")
    return answer


def _late(effect: Callable[[], object]) -> None:
    """A request that comes when nobody waits for its answer any more."""
    with suppress(Exception):
        effect()


class Kafka:
    """All topics of the installation."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.parts: dict[Place, Part] = {}
        self.on_land: dict[str, Callable[[int, Entry], None]] = {}
        self._last_us: dict[tuple[Process, Place], int] = {}
        self._ambush: dict[Place, tuple[int, tuple[Place, str], bytes]] = {}
        self._lays_next: set[tuple[Process, Place]] = set()

    def part(self, place: Place) -> Part:
        """A partition, made where it is not there yet."""
        found = self.parts.get(place)
        if found is None:
            found = self.parts[place] = Part()
        return found

    def land(self, place: Place, key: str, value: bytes) -> int:
        """Put a record at the end of its partition."""
        part = self.part(place)
        entry = Entry(part.end, value, Micros(WALL0 + self.world.now_us))
        part.entries.append(entry)
        part.keys.append(key)
        told = self.on_land.get(place[0])
        if told is not None:
            told(place[1], entry)
        for reader in list(part.readers):
            reader.wake()
        ambush = self._ambush.get(place)
        if ambush is not None and ambush[0] <= self.world.now_us:
            del self._ambush[place]
            self.world.at(int(self.world.random() * 1_500), lambda: self._land(*ambush[1:], None))
        return entry.offset

    def send(
        self,
        step: str,
        where: tuple[Place, str],
        value: bytes,
        on_result: OnResult,
        timeout_s: float,
    ) -> None:
        """Produce a record; `on_result` is called between the process's steps, then it is woken."""
        world = self.world
        process = world.me()
        fault = world.begin(step)
        timeout_us = int(timeout_s * SECOND)
        due = max(world.now_us + world.latency(), self._last_us.get((process, where[0]), 0) + 1)
        answer = partial(self._answer, process, on_result)
        if fault is Fault.ERROR or process.is_cut(KAFKA):
            world.at(timeout_us, lambda: answer(None, "no answer in time"))
            if fault is not Fault.ERROR and world.random() < 0.3:
                world.at(world.between(0.3, 8), lambda: self._land(where, value, None))
            return
        lays = (process, where[0]) in self._lays_next
        if fault is Fault.HOLD or lays:
            self._hold((process, where), value, lays=lays, timeout_us=timeout_us)
            world.at(timeout_us, lambda: answer(None, "no answer in time"))
            return
        self._last_us[process, where[0]] = due
        wait_us = due - world.now_us
        if fault is Fault.LOSE_ANSWER:
            world.at(wait_us, lambda: self._land(where, value, None))
            world.at(timeout_us, lambda: answer(None, "the answer was lost"))
        else:
            lag_us = world.between(0.05, timeout_s) if fault is Fault.DELAY else world.latency()
            vague = fault is Fault.NO_PLACE

            def land() -> None:
                offset = self.land(*where, value)
                world.at(lag_us, lambda: answer(None if vague else offset, None))

            world.at(wait_us, land)
        if fault is Fault.DUPLICATE:
            world.at(wait_us + world.between(0, 6), lambda: self._land(where, value, None))
        world.finish(fault)

    def _hold(
        self, sent: tuple[Process, tuple[Place, str]], value: bytes, *, lays: bool, timeout_us: int
    ) -> None:
        """A record of which nobody knows lands much later, or right behind one that comes then.

        Of two that are under way, the first may be lost and the second held.
        """
        (process, where), world = sent, self.world
        self._lays_next.discard((process, where[0]))
        draw = world.random()
        if lays or (where[0][0] == LOG.name and draw < 0.3):
            self._ambush[where[0]] = (world.now_us + timeout_us, where, value)
        elif where[0][0] == LOG.name and draw < 0.7:
            self._lays_next.add((process, where[0]))
            world.at(timeout_us, lambda: self._lays_next.discard((process, where[0])))
        else:
            world.at(world.between(0.3, 9), lambda: self._land(where, value, None))

    def copy_late(self, topic: str) -> None:
        """Records of the last seconds come once more, as from a producer that was stopped."""
        chance = self.world.chance
        places = [place for place, part in self.parts.items() if place[0] == topic and part.entries]
        if not places:
            return
        place = chance.choice(places)
        part = self.part(place)
        for _ in range(chance.randint(1, 4)):
            back = min(len(part.entries), chance.randint(1, 25))
            self.land(place, part.keys[-back], part.entries[-back].value)

    def _land(self, where: tuple[Place, str], value: bytes, _: None) -> None:
        self.land(*where, value)

    def _answer(
        self, process: Process, on_result: OnResult, offset: int | None, error: str | None
    ) -> None:
        if process.alive:
            on_result(offset, error)
            process.wake()


class Reader:
    """A consumer without a group: reads its partitions from where it was told."""

    def __init__(self, kafka: Kafka, process: Process, step: str) -> None:
        self.kafka = kafka
        self.world = kafka.world
        self.process = process
        self.step = step
        self.positions: dict[Place, int] = {}
        self._lag: dict[Place, tuple[int, int]] = {}

    def assign(self, offsets: dict[Place, int]) -> None:
        """Read these partitions, each from its offset."""
        for place in self.positions:
            self.kafka.part(place).readers.pop(self.process, None)
        self.positions = dict(offsets)
        for place in offsets:
            self.kafka.part(place).readers[self.process] = None
        self._lag.clear()

    def poll(self, timeout_s: float, most: int) -> list[tuple[Place, Entry, str]]:
        """Records that are at hand, in each partition's order; else those that come in time."""
        if not self._has_news() and timeout_s > 0:
            self.process.wait(int(timeout_s * SECOND), wakeable=True)
        if not self._has_news():
            return []
        fault = self.world.begin(self.step)
        if fault is Fault.CUT and self.world.random() < 0.6:
            del self.process.cut[KAFKA]
            self._stall(list(self.positions))
        if fault is Fault.ERROR or self.process.is_cut(KAFKA):
            self.process.wait(ASK_US)
            raise KafkaUnavailable("Kafka does not answer")
        if fault is Fault.LAG:
            self._stall([self.world.chance.choice(list(self.positions))])
        if fault is Fault.DUPLICATE:
            for place, position in self.positions.items():
                start = self.kafka.part(place).start
                self.positions[place] = max(start, position - self.world.chance.randint(1, 5))
        found = self._take(most)
        self.world.finish(fault)
        return found

    def _stall(self, places: list[Place]) -> None:
        """Nothing new comes from these for a while, and nobody is told why."""
        until = self.world.now_us + self.world.pause_us()
        for place in places:
            self._lag[place] = (until, self.positions[place])
        self.world.at(until - self.world.now_us + 1, self.process.wake)

    def _take(self, most: int) -> list[tuple[Place, Entry, str]]:
        found: list[tuple[Place, Entry, str]] = []
        for place, position in self.positions.items():
            part = self.kafka.part(place)
            if position < part.start:
                raise OffsetOutOfRange(f"{place}: {position} is before {part.start}")
            stop = min(self._visible(place), position + most - len(found))
            if position < stop:
                found.extend(
                    (place, entry, part.keys[entry.offset - part.start])
                    for entry in part.read(position, stop)
                )
                self.positions[place] = stop
        return found

    def _visible(self, place: Place) -> int:
        lag = self._lag.get(place)
        if lag is not None and lag[0] > self.world.now_us and self.world.plan.is_on:
            return lag[1]
        return self.kafka.part(place).end

    def _has_news(self) -> bool:
        return any(
            self._visible(place) > at or at < self.kafka.part(place).start
            for place, at in self.positions.items()
        )


class Group:
    """A consumer group's coordinator: suggests which engine process should own which shard."""

    SESSION_US = 2 * SECOND

    def __init__(self, world: World, shards: int) -> None:
        self.world = world
        self.shards = shards
        self.swaps = 0
        self._seen: dict[Process, int] = {}

    def poll(self, process: Process) -> set[int]:
        """The shards that this member is given."""
        if process.is_cut(KAFKA):
            return self._share(process)
        self._seen[process] = self.world.now_us
        return self._share(process)

    def _share(self, process: Process) -> set[int]:
        late = self.world.now_us - self.SESSION_US
        members = [one for one, at in self._seen.items() if one.alive and at >= late]
        self._seen = {one: at for one, at in self._seen.items() if one.alive}
        if process not in members:
            return set()
        mine = members.index(process)
        return {
            shard for shard in range(self.shards) if (shard + self.swaps) % len(members) == mine
        }
