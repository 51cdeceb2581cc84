"""Everything that a chaos run does to the system. Each fault is a function that does one and undoes it.

It answers with a note. What it must not do is leave anything behind that the next one would find:
whatever it stopped goes on, whatever it filled is free again. When and how often: `storm.py`.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.chaos.load import Load
from tests.chaos.options import (
    DEVS,
    HERE_POOL,
    LEASE_S,
    NODES,
    PARTS,
    SERVERS,
    SKEWED,
)
from tests.chaos.task import TaskKey
from tests.chaos.watch import Witness
from tests.chaos.world import Silence, World, boot_s
from tests.live_stack import wait_until

BACK_WITHIN_S = 90.0
DEV_BACK_WITHIN_S = 150.0
"""A `foldline dev` waits 90 s for the views' servers before it says that it goes on without them."""
DAY_S = 86_400.0
WALL_JUMPS_S = (-365 * DAY_S, -3600.0, -60.0, 60.0, 3600.0, 400 * DAY_S)
SHOWS_WITHIN_S = 30.0
FEELS = {"kafka": "kafka", "postgres": "postgres", "valkey": "hot"}
"""Whose log says that a server's disk is full: Valkey says it only to who writes."""


@dataclass(slots=True)
class Happening:
    """One fault that was done: boot clock seconds. `signals` counts kills, stops and restarts.

    `back_s` is how long what was hurt took to be there again; `victims` are tasks of a killed node
    that must run elsewhere.
    """

    fault: str
    target: str
    began: float
    ended: float = 0.0
    note: str = ""
    signals: int = 0
    back_s: float | None = None
    victims: tuple[TaskKey, ...] = ()


@dataclass(slots=True)
class Scene:
    """What faults act on."""

    world: World
    witness: Witness
    load: Load
    chance: random.Random
    is_long: bool

    def draw(self, least: float, most: float) -> float:
        return self.chance.uniform(least, most)


Act = Callable[[Scene, Happening], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault. `alone`: nothing else may happen with it, and the system is well before."""

    name: str
    weight: float
    targets: tuple[str, ...]
    act: Act
    alone: bool = False
    needs_disks: bool = False


def _process(scene: Scene, name: str) -> psutil.Process:
    def found() -> psutil.Process | None:
        pid = scene.world.pid(name)
        try:
            return psutil.Process(pid) if pid is not None else None
        except psutil.NoSuchProcess:
            return None

    process = wait_until(f"{name} runs", found, BACK_WITHIN_S)
    assert process is not None
    return process


def _wait_back(scene: Scene, happening: Happening, old: int) -> None:
    """Until another process has taken the place; a server must answer too."""
    name, began = happening.target, boot_s()

    def is_back() -> bool:
        pid = scene.world.pid(name)
        if pid is None or pid == old:
            return False
        return scene.world.answers(name)

    within_s = DEV_BACK_WITHIN_S if name in DEVS else BACK_WITHIN_S
    wait_until(f"{name} is back after {happening.fault}", is_back, within_s)
    happening.back_s = boot_s() - began


@contextmanager
def _silence(scene: Scene, name: str) -> Iterator[None]:
    """No heartbeat leaves the node meanwhile; nothing to note for what is no node."""
    if name not in NODES:
        yield
        return
    silence = Silence(name, boot_s())
    scene.world.silences.append(silence)
    try:
        yield
    finally:
        silence.ended = boot_s()


def kill(scene: Scene, happening: Happening) -> None:
    """kill -9."""
    process = _process(scene, happening.target)
    with _silence(scene, happening.target):
        process.kill()
        happening.signals += 1
        _wait_back(scene, happening, process.pid)


def restart(scene: Scene, happening: Happening) -> None:
    """Asked to stop, in its own orderly way."""
    name = happening.target
    process = _process(scene, name)
    process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
    happening.signals += 1
    _wait_back(scene, happening, process.pid)


def stop(scene: Scene, happening: Happening) -> None:
    """SIGSTOP, and SIGCONT after more than a lease; Kafka up to 45 s."""
    name = happening.target
    seconds = scene.draw(1.2 * LEASE_S, 3 * LEASE_S)
    if name == "kafka":
        seconds = scene.draw(5.0, 45.0)
    process = _process(scene, name)
    stopped = [process]
    if name == "postgres":
        stopped += process.children(recursive=True)
    happening.note = f"{seconds:.0f} s"
    with _silence(scene, name):
        for one in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.suspend()
        happening.signals += 1
        time.sleep(seconds)
    for one in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):  # killed meanwhile
            one.resume()


def kill_node(scene: Scene, happening: Happening) -> None:
    """A node's agent, supervisors and tasks at once; it stays away until its jobs run elsewhere."""
    asked = {job.id for job in scene.load.ask_long(HERE_POOL)}

    def running() -> dict[str, list[TaskKey]]:
        found: dict[str, list[TaskKey]] = {}
        for one in scene.witness.alive():
            if one.key[0] in asked and boot_s() - one.started > 1.0:
                found.setdefault(one.node, []).append(one.key)
        return found if sum(map(len, found.values())) >= len(asked) else {}

    nodes = wait_until("long jobs run", running, 60.0)
    node = max(sorted(nodes), key=lambda name: len(nodes[name]))
    happening.target = node
    world = scene.world
    with _silence(scene, node):
        world.fleet.hold(node)
        happening.began = boot_s()
        happening.signals += world.fleet.kill_tree(node) > 0
        happening.victims = tuple(sorted(set(nodes[node])))
        happening.note = f"{len(happening.victims)} long jobs ran there"
        time.sleep(2 * LEASE_S + 6)
        world.fleet.release(node)
        wait_until(f"{node} is back", lambda: world.fleet.pid(node), BACK_WITHIN_S)


def kill_fork_server(scene: Scene, happening: Happening) -> None:
    """The process that starts and buries all supervisors of a node."""
    children = _process(scene, happening.target).children()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
            happening.signals += 1


def kill_supervisor(scene: Scene, happening: Happening) -> None:
    """The watchdog of one running task; nothing where no task runs, as while Kafka is frozen."""

    def supervisors() -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            agent = _process(scene, happening.target)
            return [one for child in agent.children() for one in child.children()]
        return []

    until = time.monotonic() + SHOWS_WITHIN_S
    while not (found := supervisors()) and time.monotonic() < until:
        time.sleep(0.1)
    if not found:
        happening.note = "no task ran there"
    for one in found[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
            happening.signals += 1


def fill_disk(scene: Scene, happening: Happening) -> None:
    """No space left for a server, until it says so and some seconds more."""
    name = happening.target
    log = scene.world.log_of(FEELS[name])
    before = log.stat().st_size
    disk = scene.world.disks[name]
    disk.fill()
    began = time.monotonic()
    try:
        while not _complains(log, before) and time.monotonic() - began < SHOWS_WITHIN_S:
            time.sleep(0.25)
        happening.note = "felt" if _complains(log, before) else "not felt"
        time.sleep(scene.draw(2.0, 8.0))
    finally:
        disk.free()
    freed = boot_s()
    wait_until(f"{name} answers again", lambda: scene.world.answers(name), BACK_WITHIN_S)
    happening.back_s = boot_s() - freed


def _complains(log: Path, before: int) -> bool:
    with log.open("rb") as file:
        file.seek(before if log.stat().st_size >= before else 0)
        return b"o space left" in file.read()


def drop_answers(scene: Scene, happening: Happening) -> None:
    """Kafka takes what is produced and its answers reach nobody."""
    name = happening.target
    proxy = scene.world.kafka if name == "parts" else scene.world.node_kafka[name]
    seconds = scene.draw(2.0, 12.0)
    proxy.dropped.clear()
    with _silence(scene, name):
        proxy.drops_produce_answers.set()
        time.sleep(seconds)
        proxy.drops_produce_answers.clear()
    happening.note = f"{seconds:.0f} s, {'some' if proxy.dropped.is_set() else 'none'} were dropped"


def refuse(scene: Scene, happening: Happening) -> None:
    """The parts find nobody listening; for minutes in a long run."""
    way = {
        "postgres": scene.world.postgres,
        "valkey": scene.world.valkey,
        "kafka": scene.world.kafka.tcp,
    }[happening.target]
    most = 30.0 if happening.target == "kafka" else 150.0 if scene.is_long else 40.0
    seconds = scene.draw(most / 3, most)
    happening.note = f"{seconds:.0f} s"
    way.refuse()
    time.sleep(seconds)
    way.serve()


def cut_off(scene: Scene, happening: Happening) -> None:
    """Nothing passes between Kafka and one node, or the parts; connections stay, and what was sent
    arrives late."""
    name = happening.target
    proxy = scene.world.kafka if name == "parts" else scene.world.node_kafka[name]
    seconds = scene.draw(1.2 * LEASE_S, 3 * LEASE_S)
    happening.note = f"{seconds:.0f} s"
    with _silence(scene, name):
        proxy.tcp.flowing.clear()
        time.sleep(seconds)
        proxy.tcp.flowing.set()


def empty(scene: Scene, happening: Happening) -> None:
    """Valkey is killed, and starts with nothing."""
    process = _process(scene, "valkey")
    for path in (scene.world.servers.data_dir / "valkey").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    process.kill()
    happening.signals += 1
    _wait_back(scene, happening, process.pid)


def jump_wall(scene: Scene, happening: Happening) -> None:
    """Wall time of one node is somewhere else, and comes back after a while."""
    ahead_s = scene.chance.choice(WALL_JUMPS_S)
    happening.note = f"{ahead_s:+.0f} s"
    clock = scene.world.clocks[happening.target]
    clock.set_wall(ahead_s)
    time.sleep(scene.draw(2.0, 20.0))
    clock.set_wall(0)


def jump_boot(scene: Scene, happening: Happening) -> None:
    """The boot clock of one node jumps ahead, as after a suspension of the host."""
    by_s = scene.draw(0.3 * LEASE_S, 4 * LEASE_S)
    happening.note = f"{by_s:+.1f} s"
    scene.world.clocks[happening.target].jump_boot(by_s)
    if by_s > LEASE_S:
        # Its lease is over by now: what ran before must be dead at once.
        silence = Silence(happening.target, boot_s() - LEASE_S)
        silence.ended = boot_s()
        scene.world.silences.append(silence)


ALL_NODES = tuple(NODES)
EVERYTHING = (*PARTS, *ALL_NODES, *SERVERS)
FAULTS = (
    Fault("node killed", 1.2, ("node",), kill_node, alone=True),
    Fault("kill -9", 9.0, (*EVERYTHING, *DEVS), kill),
    Fault("SIGSTOP", 6.0, (*PARTS, *ALL_NODES, "postgres", "valkey"), stop),
    Fault("SIGSTOP of Kafka", 0.8, ("kafka",), stop),
    Fault("restart", 5.0, (*EVERYTHING, *DEVS), restart),
    Fault("fork server killed", 0.7, ALL_NODES, kill_fork_server),
    Fault("supervisor killed", 1.0, ALL_NODES, kill_supervisor),
    Fault("disk full: kafka", 0.3, ("kafka",), fill_disk, needs_disks=True),
    Fault("disk full: postgres", 0.3, ("postgres",), fill_disk, needs_disks=True),
    Fault("disk full: valkey", 0.3, ("valkey",), fill_disk, needs_disks=True),
    Fault("answers dropped", 1.0, ("parts", *ALL_NODES), drop_answers),
    Fault("refused: postgres", 0.5, ("postgres",), refuse),
    Fault("refused: kafka", 0.4, ("kafka",), refuse),
    Fault("refused: valkey", 0.3, ("valkey",), refuse),
    Fault("cut off", 1.2, ("parts", *ALL_NODES), cut_off),
    Fault("Valkey emptied", 0.5, ("valkey",), empty),
    Fault("wall clock jumps", 0.6, SKEWED, jump_wall),
    Fault("boot clock jumps", 0.6, SKEWED, jump_boot),
)
