"""The whole system in one thread: processes, servers, faults, and whether all is well in the end.

`run_seed(seed)` lives one life of two shards: users, engines, agents on machines, projectors and
relay, while things go wrong; then nothing goes wrong any more, and everything must come to rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from infra.kafka_port import KafkaUnavailable, OffsetOutOfRange
from infra.log import Entry
from infra.snapshots import SnapshotStore
from infra.state_codec import Snapshot, decode_snapshot
from projections.audit import AuditView
from projections.hot import HotView
from projections.loop import ViewOptions, run_view
from projections.pipeline import StaleWriter, View, ViewUnavailable
from projections.relay import run_relay
from schemas.ids import partition_of
from schemas.terms import QueueState
from schemas.topics import COMMANDS, LOG, REPORTS
from stream_processors.domain.fingerprint import STATE_VERSION
from tests.simulation.agents import LEASE_S, AgentRun, agent_options
from tests.simulation.engines import SHARDS, SimShelf, run_engine
from tests.simulation.history import History
from tests.simulation.kafka import Group, Kafka, Place
from tests.simulation.machines import Machine
from tests.simulation.postgres import Postgres
from tests.simulation.redis import Redis
from tests.simulation.surroundings import simulated
from tests.simulation.troubles import Troubles
from tests.simulation.views import PublicSide, SimLogs, ViewChecks
from tests.simulation.witness import Truth
from tests.simulation.workload import Client, Workload
from tests.simulation.world import SECOND, Host, Process, Violation, World

DRIFT_PPM = 24_000
"""Two hosts drift apart by less than the 50 thousandths that the product allows."""
SPAN_US = 13 * SECOND
"""In so much time users send their commands."""
TROUBLE_US = 19 * SECOND
LATEST_US = 10 * SECOND
"""What was sent in trouble has landed so long after it."""
REST_US = 150 * SECOND
LOOK_US = SECOND // 2
LEAST = {"steps": 1_000, "jobs": 30, "gangs": 3, "shards": 2, "faults": 5}
DIES_LOUDLY = (StaleWriter, ViewUnavailable, KafkaUnavailable)
"""With these a process ends and is started again; anything else is a bug."""


@dataclass
class Result:
    """What became of one seed."""

    seed: int
    violation: Violation | None
    fingerprint: str
    size: dict[str, int]
    came: Counter[tuple[str, str]]
    trace: list[str] = field(default_factory=list)


class System:
    """One installation. Everything that outlives a process is here."""

    def __init__(self, seed: int, *, keeps_trace: bool = False) -> None:
        self.world = World(seed, keeps_trace=keeps_trace)
        world = self.world
        self.kafka = Kafka(world)
        self.postgres = Postgres(world)
        self.redis = Redis(world)
        self.group = Group(world, SHARDS)
        self.shelf = SimShelf(world)
        self.truth = Truth(world, LEASE_S * SECOND)
        self.histories = [self._history(shard) for shard in range(SHARDS)]
        self.truth.placed = lambda name, here: self.histories[name[0]].ledger.placed(name, here)
        self.public = PublicSide(world, self.histories)
        self.checks = ViewChecks(self.postgres, self.redis, self.histories)
        self.kafka.on_land[LOG.name] = self._log_grew
        self.kafka.on_land[REPORTS.name] = lambda shard, entry: self.truth.reported(
            shard, entry.value
        )
        self.pools = ["default", _other_pool()]
        self.machines: list[Machine] = []
        self.roles: dict[str, tuple[Host, Callable[[], None]]] = {}
        self.running: dict[str, Process] = {}
        wishes = Workload(world.chance, self.pools, SHARDS, SPAN_US).plan()
        pool_of = {partition_of(pool, SHARDS): pool for pool in self.pools}
        self.client = Client(self.kafka, wishes, pool_of)

    def _history(self, shard: int) -> History:
        return History(shard, self.truth, lambda: self.kafka.part((LOG.name, shard)).entries)

    def _log_grew(self, shard: int, entry: Entry) -> None:
        history = self.histories[shard]
        self.world.note(f"log {shard}", "holds", history.land(entry))

    def snapshot_made(self, shard: int, data: bytes) -> None:
        """An engine has encoded a snapshot."""
        self.histories[shard].check_snapshot(data)

    def trim(self, place: Place, offset: int) -> None:
        """Records before the offset are let go of; the log must have consumed them."""
        topic, shard = place
        consumed = self.histories[shard].follower.chain.consumed
        stands = consumed.commands if topic == COMMANDS.name else consumed.reports
        if offset > stands:
            raise Violation("inputs are kept until consumed", f"{place} before {offset}")
        self.kafka.part(place).trim(offset)

    def host(self, name: str) -> Host:
        """A machine with clocks of its own."""
        chance = self.world.chance
        return Host(
            name,
            chance.randint(-DRIFT_PPM, DRIFT_PPM),
            chance.randint(1, 1_000_000) * SECOND,
            chance.randint(-SECOND, SECOND),
        )

    def set_up(self) -> None:
        """Everything is started."""
        for number in range(self.world.chance.choice((2, 2, 2, 2, 3))):
            self._add(f"engine{number}", run_engine)
        for number, pool in enumerate(self.pools * 2):
            self._add_agent(f"node{number}", pool, gpus=2 if number < 2 else 1)
        self._add("audit", lambda: self._view("audit", AuditView("simulated")))
        self._add("hot", lambda: self._view("hot", HotView("simulated")))
        self._add("relay", self._relay)
        self._add("client", self.client.run)
        for name in self.roles:
            self.start(name)

    def _add(self, name: str, main: Callable[[], None], host: Host | None = None) -> None:
        self.roles[name] = (host or self.host(name), main)

    def _add_agent(self, name: str, pool: str, gpus: int) -> None:
        machine = Machine(self.world, self.host(name), self.truth)
        self.machines.append(machine)
        shard = partition_of(pool, SHARDS)
        self.truth.shard_of[name] = shard
        self.truth.machines[name] = machine
        options = agent_options(name, pool, gpus)

        def main() -> None:
            AgentRun(self.kafka, machine, options, shard, self.truth).run()

        self._add(name, main, machine)

    # Processes, and their starting again.

    def start(self, name: str, suffix: str = "") -> Process:
        """Start a role, beside one that may still be there."""
        host, main = self.roles[name]
        process = Process(self.world, name + suffix, host, main)
        self.world.note(process.name, "begins", "")
        self.running[name] = process
        process.on_death.append(lambda: self._ended(name, process))
        return process

    def _ended(self, name: str, process: Process) -> None:
        error = process.failed
        is_bug = not isinstance(error, DIES_LOUDLY) or isinstance(error, OffsetOutOfRange)
        if error is not None and is_bug:
            self.world.violation = self.world.violation or Violation(
                "no process stops on a bug", f"{process.name}: {error!r}"
            )
        is_over = error is None and not process.was_killed
        if self.running.get(name) is not process or is_over:
            return
        del self.running[name]
        self.world.at(self.world.between(0.1, 2), lambda: self._restart(name))

    def _restart(self, name: str) -> None:
        if name not in self.running:
            self.start(name)

    def _view(self, name: str, view: View) -> None:
        options = ViewOptions(name=name, batch_records=40, retry_for_s=4.0, breath_s=0.06)
        run_view(view, SimLogs(self.kafka, SHARDS), options, _never, self._find_snapshot)

    def _relay(self) -> None:
        run_relay(self.public, SimLogs(self.kafka, SHARDS), _never, self._find_snapshot)

    def _find_snapshot(self, shard: int, before: int | None) -> Snapshot | None:
        """As `foldline/serve.py` finds them."""
        store = SnapshotStore(self.shelf)
        max_seq: int | None = None
        while found := store.load(shard, state_version=STATE_VERSION, max_seq=max_seq):
            manifest, data = found
            if before is None or manifest.offset < before:
                return decode_snapshot(data)
            max_seq = manifest.seq - 1
        return None

    # Rest.

    @property
    def is_at_rest(self) -> bool:
        """Whether everything has ended and everybody knows."""
        return self.unrest() == ""

    def unrest(self) -> str:
        """What is not done yet; "" where all is."""
        if not self.client.is_done:
            return "commands are not acknowledged"
        if any(machine.suspended_until > self.world.now_us for machine in self.machines):
            return "a host is suspended, with what ran on it"
        for history in self.histories:
            shard, end = history.shard, history.follower.chain.next_offset
            left = history.ledger.unfinished()
            if left:
                return f"jobs {left} of shard {shard} have not ended"
            if history.follower.chain.consumed.commands < self._commands_end(shard):
                return f"commands of shard {shard} are not consumed"
            audit = self.postgres.positions.get(shard)
            if audit is None or audit[3] < history.follower.chain.seq:
                return f"the audit view of shard {shard} stands at {audit and audit[0]} of {end}"
            if not self.checks.hot_is_at(shard, history.follower.chain.seq):
                return f"the hot view of shard {shard} is behind {end}"
            names = history.public_before(end)
            if any(name not in self.public.told for name in names):
                return f"the relay has not told all of shard {shard}"
        return self._idle_nodes()

    def _idle_nodes(self) -> str:
        """A node whose agent runs and that nothing can be placed on."""
        for machine in self.machines:
            state = self.histories[self.truth.shard_of[machine.name]].follower.state
            no = state.node_nos.get(machine.name)
            taken_in = None if no is None else state.nodes[no].incarnation
            if taken_in is None or taken_in != machine.journal:
                return f"{machine.name} is not registered: {machine.journal}, not {taken_in}"
        return ""

    def _commands_end(self, shard: int) -> int:
        return self.kafka.part((COMMANDS.name, shard)).end

    def run(self) -> None:
        """Trouble, then peace, then rest."""
        world = self.world
        self.set_up()
        troubles = Troubles(self)
        troubles.plan(TROUBLE_US)
        world.run(lambda: False, TROUBLE_US)
        while world.violation is None and sum(world.plan.came.values()) < LEAST["faults"]:
            troubles.now()
            world.run(lambda: False, world.now_us + 2 * SECOND)
        troubles.end()
        world.at(LATEST_US, self._open_queues)
        end_us = world.now_us + REST_US
        while world.violation is None and not self.is_at_rest:
            if world.now_us >= end_us:
                world.violation = Violation("everything comes to rest", self.unrest())
                break
            world.run(lambda: False, world.now_us + LOOK_US)
        if world.violation is None:
            self._check_end()

    def _open_queues(self) -> None:
        for pool in self.pools:
            shard = partition_of(pool, SHARDS)
            queue = self.histories[shard].follower.state.queues.get((pool, "research"))
            if queue is not None and queue.state is QueueState.PAUSED:
                self.client.open_queue(pool, shard)

    def _check_end(self) -> None:
        try:
            self.checks.check_all()
            self._check_submissions()
            self._check_machines()
        except Violation as violation:
            self.world.violation = violation

    def _check_submissions(self) -> None:
        for wish in self.client.wishes:
            ledger = self.histories[wish.shard].ledger
            is_known = wish.job_id in ledger.numbers or wish.job_id in ledger.refused
            if wish.key and not is_known:
                raise Violation("no accepted submission is lost", wish.key)

    def _check_machines(self) -> None:
        alive = [task for machine in self.machines for task in machine.tasks]
        if alive:
            raise Violation("what has ended is dead", f"{[task.key for task in alive]}")

    def size(self) -> dict[str, int]:
        """How big this run was."""
        ledgers = [history.ledger for history in self.histories]
        return {
            "steps": self.world.steps,
            "jobs": sum(len(ledger.jobs) for ledger in ledgers),
            "gangs": sum(ledger.gangs for ledger in ledgers),
            "shards": sum(bool(ledger.jobs) for ledger in ledgers),
            "faults": sum(self.world.plan.came.values()),
        }


def _never() -> bool:
    return False


def _other_pool() -> str:
    """A pool that lives on the other shard than the default one."""
    taken = partition_of("default", SHARDS)
    names = (f"pool{number}" for number in range(100))
    return next(name for name in names if partition_of(name, SHARDS) != taken)


def run_seed(seed: int, *, keeps_trace: bool = False) -> Result:
    """Live one seed."""
    system = System(seed, keeps_trace=keeps_trace)
    with simulated(system):
        try:
            system.run()
        finally:
            system.world.close()
    world, size = system.world, system.size()
    if world.violation is None:
        small = {name: size[name] for name, least in LEAST.items() if size[name] < least}
        if small:
            world.violation = Violation("a seed is no toy", f"{small}")
    return Result(
        seed, world.violation, world.fingerprint(), size, world.plan.came, world.trace or []
    )
