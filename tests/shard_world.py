"""A small world for the log protocol: several processes, one log, any faults, on fake time.

`ShardWorld(seed).run()` draws one schedule and checks at its end what the protocol promises. The
processes are a model engine around the real `Ownership` and `ShardDriver`: its state is a count
and a checksum of the inputs consumed, and each decision says on which state it was made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from zlib import crc32

from infra.log import Fault, MemoryLog, MemoryPartition, read_record
from schemas.envelope import Claim, Consumed, Decision, EncodedEvent, Input
from stream_processors.domain.counting import GENESIS, Chain, judge
from stream_processors.log_clock import Reading
from stream_processors.ownership import Ownership
from stream_processors.ownership_effects import Counted, Discard, Owning, Signal, SteppedDown
from stream_processors.shard_driver import ShardDriver

WALL_US = 1_800_000_000_000_000
TURN_US = 100_000
CALM_TURNS = 100
FAULTS = dict.fromkeys(Fault, 1) | {Fault.NONE: 8, Fault.HOLD: 3}


@dataclass(frozen=True)
class Folded:
    """The model engine's state: how many inputs it consumed, and what they came to."""

    count: int = 0
    checksum: int = 0

    def after(self, start: int, stop: int) -> Folded:
        return Folded(stop, crc32(b"%d:%d" % (start, stop), self.checksum))

    def fold(self, record: Claim | Decision) -> Folded:
        if isinstance(record, Claim):
            return self
        start, stop, count, checksum = map(int, record.events[0].data.split(b":"))
        assert self == Folded(count, checksum), "decided on another state than what counted"
        return self.after(start, stop)


@dataclass(frozen=True)
class Fact:
    """One record of the reference history: what any reader finds that folds from the beginning."""

    offset: int
    record: Claim | Decision
    chain: Chain
    state: Folded


@dataclass
class Mutation:
    """A way to break the protocol; the default breaks nothing."""

    ownership: type[Ownership] = Ownership
    keeps_optimistic_state: bool = False
    seeks_back: bool = True
    snapshots_optimistic: bool = False


@dataclass
class Process:
    """One start of a process: it dies with its memory, its sends live on in the network."""

    world: ShardWorld
    owner: bytes
    alive: bool = True
    state: Folded = Folded()
    position: int = 0
    may_decide: bool = False
    history: list[tuple[int, Claim | Decision]] = field(default_factory=list)
    effects: list[int] = field(default_factory=list)

    heard: int = 0

    def __post_init__(self) -> None:
        self.heard = len(self.world.marks)
        self.log = MemoryLog(self.world.partition)
        self.ownership = self.world.mutation.ownership(self.owner)
        self.driver = ShardDriver(self.ownership, self.log)
        if self.world.snapshot and self.world.chance.random() < 0.5:
            chain, self.state = self.world.snapshot
            self.ownership.restore(chain)

    def take(self, signals: list[Signal]) -> None:
        for signal in signals:
            if isinstance(signal, Counted):
                self._counted(signal)
            elif isinstance(signal, Discard):
                if not self.world.mutation.keeps_optimistic_state:
                    self.state = self.world.refold(signal.chain)
                self.may_decide = False
            elif isinstance(signal, Owning):
                self.may_decide = True
                if self.world.mutation.seeks_back:
                    self.position = signal.chain.consumed.commands
            elif isinstance(signal, SteppedDown):
                self.may_decide = False

    def _counted(self, signal: Counted) -> None:
        self.history.append((signal.offset, signal.record))
        if signal.token is None:
            self.state = self.state.fold(signal.record)
        if signal.own and isinstance(signal.record, Decision):
            self.effects.append(signal.offset)

    def decide(self) -> None:
        start = self.position
        stop = min(start + self.world.chance.randint(1, 3), self.world.inputs)
        if not self.may_decide or not self.ownership.can_append or start == stop:
            return
        now = self.world.now()
        basis = b"%d:%d:%d:%d" % (start, stop, self.state.count, self.state.checksum)
        self.state, self.position = self.state.after(start, stop), stop
        consumed = (Consumed(Input.COMMANDS, start, stop),)
        at = self.ownership.log_time(now)
        self.driver.append((EncodedEvent(1, basis),), consumed, at, now)

    def follow(self) -> None:
        """What another wrote comes by itself, and so do its marks."""
        if self.may_decide:
            self.world.marks.append((self.ownership.counted.epoch, self.owner))
        else:
            stands = self.ownership.counted.next_offset
            entries = self.world.partition.entries[stands:]
            self.take(self.driver.follow(entries, self.world.now()))
            for epoch, owner in self.world.marks[self.heard :]:
                self.driver.heard(epoch, owner)
        self.heard = len(self.world.marks)

    def take_snapshot(self) -> None:
        if not self.ownership.in_flight or self.world.mutation.snapshots_optimistic:
            self.world.snapshot = (self.ownership.counted, self.state)


class ShardWorld:
    """Three places for processes, one log, one clock; every choice is drawn from the seed."""

    def __init__(self, seed: int, mutation: Mutation | None = None, actions: int = 150) -> None:
        self.chance = Random(seed)
        self.mutation = mutation or Mutation()
        self.actions = actions
        self.partition = MemoryPartition(now=WALL_US)
        self.inputs = 0
        self.elapsed_us = 0
        self.snapshot: tuple[Chain, Folded] | None = None
        self.marks: list[tuple[int, bytes]] = []
        self.processes: list[Process] = []
        self.places = [self._start() for _ in range(3)]

    def now(self) -> Reading:
        return Reading(self.elapsed_us, WALL_US + self.elapsed_us)

    def history(self) -> list[Fact]:
        """The one history of the log, folded from its beginning."""
        chain, state, facts = GENESIS, Folded(), []
        for entry in self.partition.entries:
            record = read_record(entry.value)
            chain, verdict = judge(chain, record, entry.value, entry.offset)
            if record is not None and verdict.counts:
                state = state.fold(record)
                facts.append(Fact(entry.offset, record, chain, state))
        return facts

    def refold(self, chain: Chain) -> Folded:
        """The state at a chain, from the snapshot where it is not past it, as an engine would."""
        stands, state = GENESIS, Folded()
        if self.snapshot and self.snapshot[0].next_offset <= chain.next_offset:
            stands, state = self.snapshot
        for entry in self.partition.entries[stands.next_offset : chain.next_offset]:
            record = read_record(entry.value)
            stands, verdict = judge(stands, record, entry.value, entry.offset)
            if record is not None and verdict.counts:
                state = state.fold(record)
        assert stands.value == chain.value, "a process counted another history"
        return state

    def run(self) -> None:
        """Draw a schedule with faults, let the faults end, and check everything."""
        acts: list[tuple[Callable[[], None], int]] = [
            (self._step, 40),
            (self._follow, 15),
            (self._decide, 30),
            (self._network, 15),
            (self._submit, 8),
            (self._assign, 5),
            (self._revoke, 2),
            (self._crash, 1),
            (self._snapshot, 2),
            (self._pause, 1),
        ]
        drawn = self.chance.choices(
            [act for act, _ in acts], [weight for _, weight in acts], k=self.actions
        )
        for act in drawn:
            self._pass_time(self.chance.randrange(50_000))
            act()
        self._calm()
        self._check()

    # What can happen.

    def _start(self) -> Process:
        process = Process(self, self.chance.randbytes(16))
        self.processes.append(process)
        return process

    def _any(self) -> Process:
        return self.chance.choice(self.places)

    def _pass_time(self, by_us: int) -> None:
        self.elapsed_us += by_us
        self.partition.now = WALL_US + self.elapsed_us

    def _plan_fault(self, process: Process) -> None:
        if not process.log.faults:
            process.log.faults.extend(self.chance.choices(list(FAULTS), list(FAULTS.values())))

    def _step(self) -> None:
        process = self._any()
        self._plan_fault(process)
        process.take(process.driver.step(self.now()))

    def _follow(self) -> None:
        self._any().follow()

    def _decide(self) -> None:
        process = self._any()
        self._plan_fault(process)
        process.decide()

    def _network(self) -> None:
        """Something of what was ever sent arrives late, arrives again, or is answered."""
        log = self.chance.choice(self.processes).log
        for token in log.open_tokens:
            self.chance.choice([log.answer, log.give_up, lambda _: None])(token)
        if log.sent_tokens and self.chance.random() < 0.5:
            log.land(self.chance.choice(log.sent_tokens[-3:]))

    def _submit(self) -> None:
        self.inputs += self.chance.randint(1, 4)

    def _assign(self) -> None:
        process = self._any()
        process.take(process.driver.assigned(self.now()))

    def _revoke(self) -> None:
        process = self._any()
        process.take(process.driver.revoked(self.now()))

    def _crash(self) -> None:
        place = self.chance.randrange(len(self.places))
        self.places[place].alive = False
        self.places[place] = self._start()

    def _snapshot(self) -> None:
        self._any().take_snapshot()

    def _pause(self) -> None:
        self._pass_time(30_000_000)

    # The end.

    def _calm(self) -> None:
        """No more faults: all inputs must be consumed before long, and then one owner stays.

        The group may give the shard to one, or to nobody any more (then the silence tells), and may
        leave others in the belief that it is theirs.
        """
        for process in self.processes:
            process.log.faults.clear()
            for token in process.log.open_tokens:
                self.chance.choice([process.log.answer, process.log.give_up])(token)
        given = self.chance.choice([None, *self.places])
        for process in self.places:
            if process is given:
                process.take(process.driver.assigned(self.now()))
            elif self.chance.random() < 0.5:
                process.take(process.driver.revoked(self.now()))
        self.inputs += 1
        self._live(CALM_TURNS)
        settled = len([fact for fact in self.history() if isinstance(fact.record, Claim)])
        self.inputs += 1
        self._live(CALM_TURNS)
        claims = len([fact for fact in self.history() if isinstance(fact.record, Claim)])
        assert claims == settled, "ownership goes to and fro between processes that all live"

    def _live(self, turns: int) -> None:
        for _ in range(turns):
            for process in self.places:
                process.take(process.driver.step(self.now()))
                process.follow()
                process.decide()
            self._pass_time(TURN_US)

    def _check(self) -> None:
        facts = self.history()
        decisions = [fact for fact in facts if isinstance(fact.record, Decision)]
        assert facts[-1].state.count == self.inputs, "inputs were not consumed: no progress"
        self._check_dense(facts)
        for process in self.processes:
            known = [(fact.offset, fact.record) for fact in facts]
            skipped = known.index(process.history[0]) if process.history else 0
            assert process.history == known[skipped : skipped + len(process.history)], (
                "a process saw another history"
            )
            mine = [fact.offset for fact in decisions if fact.record.owner == process.owner]
            if not process.alive:
                mine = mine[: len(process.effects)]
            assert process.effects == mine, "effects are not those of its records that counted"

    def _check_dense(self, facts: list[Fact]) -> None:
        """Counted by hand: dense, inputs consumed once, nothing of one who lost, time onwards."""
        claim: Claim | None = None
        seq, consumed, at = 0, 0, 0
        for fact in facts:
            record = fact.record
            if isinstance(record, Claim):
                assert record.epoch == (claim.epoch + 1 if claim else 1)
                claim = record
                continue
            assert claim is not None
            assert (record.epoch, record.owner) == (claim.epoch, claim.owner)
            assert record.seq == seq + 1
            assert record.consumed[0].start == consumed
            assert record.at >= at
            seq, consumed, at = record.seq, record.consumed[0].stop, record.at
