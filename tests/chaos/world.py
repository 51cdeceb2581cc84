"""The system under chaos: real servers on small disks, all of our processes, and the ways between.

Servers are run by one `foldline dev --servers-only`, the parts by another `foldline dev` that
reaches those servers by proxies, and the agents one by one, each with a proxy of its own; so
anything can be killed, stopped, cut off or starved apart from everything else. What runs is a copy
of the source, so that editing while a run goes on changes nothing in it.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from foldline.dev import READY_FILE, child_environment
from infra.local.process import read_identity
from infra.local.stack import Addresses, LocalServers, free_settings, run_dir, servers_of
from infra.settings import EngineSettings, StackSettings, environment
from tests.chaos.clock import JumpingClock
from tests.chaos.disks import Disk
from tests.chaos.fleet import Fleet, Member
from tests.chaos.options import (
    DEVS,
    HEARTBEAT_S,
    LEASE_S,
    NODES,
    OTHER_POOL,
    SERVERS,
    SKEWED,
)
from tests.kafka_proxy import KafkaProxy
from tests.live_stack import wait_until
from tests.tcp_proxy import TcpProxy

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("foldline", "infra", "ingest", "projections", "schemas", "stream_processors", "workers")
UP_WITHIN_S = 120.0
STOP_WITHIN_S = 60.0
SHARDS = 2
ENGINE = {
    "snapshot_every_records": "2000",
    "snapshot_every_s": "15",
    "retain_finished_s": "900",
}
"""Often and soon, so that a run sees what otherwise takes days."""
AGENT = {
    "LEASE_S": str(LEASE_S),
    "HEARTBEAT_S": str(HEARTBEAT_S),
    "DRAIN_S": "3",
    "CPU_MILLI": "800",
    "MEMORY_MIB": "2048",
}


@dataclass(slots=True)
class Silence:
    """A node that no heartbeat left from `began` on (boot clock); `ended` None while it lasts."""

    node: str
    began: float
    ended: float | None = None


@dataclass(slots=True)
class World:
    """Everything of one run that the faults touch and the checks read."""

    root: Path
    servers: StackSettings
    parts: StackSettings
    local: LocalServers
    fleet: Fleet
    kafka: KafkaProxy
    node_kafka: dict[str, KafkaProxy]
    postgres: TcpProxy
    valkey: TcpProxy
    clocks: dict[str, JumpingClock]
    disks: dict[str, Disk]
    silences: list[Silence] = field(default_factory=list)

    @property
    def direct(self) -> Addresses:
        """The servers themselves, past all proxies."""
        return self.local.addresses

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.parts.api_port}/api/v1"

    def pid(self, name: str) -> int | None:
        """The process called so, wherever it is run."""
        if name in self.fleet.members:
            return self.fleet.pid(name)
        settings = self.servers if name in SERVERS else self.parts
        return read_identity(run_dir(settings) / f"{name}.pid")

    def log_of(self, name: str) -> Path:
        if name in self.fleet.members:
            return self.fleet.members[name].log
        settings = self.servers if name in SERVERS else self.parts
        return settings.data_dir / "logs" / f"{name}.log"

    def answers(self, name: str) -> bool:
        """Whether what runs by that name is ready for others."""
        if name in SERVERS:
            server = self.local.one(name)
            pid = server.pid()
            return pid is not None and server.program.is_ready(pid)
        if name in DEVS:
            settings = self.servers if name == "dev-servers" else self.parts
            return _is_up(self.fleet, name, settings)
        return True

    def heal(self) -> None:
        """Undo whatever is still being done to it."""
        for proxy in (self.kafka, *self.node_kafka.values()):
            proxy.drops_produce_answers.clear()
        for tcp in self._ways():
            tcp.flowing.set()
            tcp.serve()
        for disk in self.disks.values():
            disk.free()

    def close(self) -> None:
        self.heal()
        self.fleet.close(STOP_WITHIN_S)
        for tcp in self._ways():
            tcp.close()

    def _ways(self) -> list[TcpProxy]:
        kafkas = [proxy.tcp for proxy in (self.kafka, *self.node_kafka.values())]
        return [*kafkas, self.postgres, self.valkey]


def boot_s() -> float:
    """Now on the boot clock, which tasks write down too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def start_world(root: Path, *, with_disks: bool) -> World:
    """Everything up and ready, with both pools."""
    source = _copy_source(root / "source")
    (root / "journal").touch()
    servers = free_settings(root / "servers", shards=SHARDS)
    disks = _make_disks(servers) if with_disks else {}
    fleet = Fleet()
    _start_dev(fleet, "dev-servers", servers, source, ["--servers-only"])
    _wait_up(fleet, "dev-servers", servers)
    local = servers_of(servers)
    direct = local.addresses
    kafka = KafkaProxy(direct.bootstrap)
    postgres, valkey = TcpProxy(_place(direct.dsn)), TcpProxy(_place(direct.redis_url))
    parts = free_settings(
        root / "parts",
        shards=SHARDS,
        engines=2,
        agents=0,
        kafka_bootstrap=kafka.bootstrap,
        postgres_dsn=_through(direct.dsn, postgres.port),
        redis_url=_through(direct.redis_url, valkey.port),
    )
    _start_dev(fleet, "dev-parts", parts, source, [])
    _wait_up(fleet, "dev-parts", parts)
    ways = {node: KafkaProxy(direct.bootstrap) for node in NODES}
    clocks = {node: JumpingClock.create(root / f"{node}.clock") for node in SKEWED}
    world = World(root, servers, parts, local, fleet, kafka, ways, postgres, valkey, clocks, disks)
    _put_pool(world)
    for node, pool in NODES.items():
        fleet.start(_agent(world, source, node, pool))
    return world


def _copy_source(to: Path) -> Path:
    skip = shutil.ignore_patterns("__pycache__")
    for room in ROOMS:
        shutil.copytree(ROOT / room, to / room, ignore=skip)
    shutil.copytree(ROOT / "tests" / "chaos", to / "tests" / "chaos", ignore=skip)
    return to


def _make_disks(servers: StackSettings) -> dict[str, Disk]:
    disks = {}
    for name in SERVERS:
        directory = servers.data_dir / name
        directory.mkdir(parents=True, mode=0o711)
        disks[name] = Disk(directory)
    servers.data_dir.chmod(0o711)
    return disks


def _start_dev(
    fleet: Fleet, name: str, settings: StackSettings, source: Path, more: list[str]
) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    told = environment(settings) | {
        f"FOLDLINE_ENGINE_{key.upper()}": value
        for key, value in ENGINE.items()
        if key in EngineSettings.model_fields
    }
    fleet.start(
        Member(
            name=name,
            argv=[sys.executable, "-m", "foldline", "dev", *more],
            environment=told,
            log=settings.data_dir / "dev.log",
            cwd=source,
            orphaned=signal.SIGTERM,
        )
    )


def _wait_up(fleet: Fleet, name: str, settings: StackSettings) -> None:
    def is_up() -> bool:
        assert len(fleet.members[name].ends) < 3, fleet.members[name].log.read_text()[-4000:]
        return _is_up(fleet, name, settings)

    wait_until(f"{name} is up", is_up, UP_WITHIN_S)


def _is_up(fleet: Fleet, name: str, settings: StackSettings) -> bool:
    ready, pid = run_dir(settings) / READY_FILE, fleet.pid(name)
    try:
        return pid is not None and ready.read_text() == str(pid)
    except FileNotFoundError:
        return False


def _put_pool(world: World) -> None:
    with httpx.Client(base_url=world.api, timeout=10) as http:
        answer = http.put(f"/clusters/{OTHER_POOL}", json={"description": "of the other shard"})
        assert answer.status_code == 202, answer.text


def _agent(world: World, source: Path, node: str, pool: str) -> Member:
    data = world.root / "agents" / node
    argv = [sys.executable, "-m", "foldline", "serve", "agent"]
    if node in world.clocks:
        clock = str(world.root / f"{node}.clock")
        argv = [sys.executable, "-m", "tests.chaos.skewed_agent", clock]
    told = child_environment(world.parts, world.direct) | {
        f"FOLDLINE_AGENT_{key}": value for key, value in AGENT.items()
    }
    own = {
        "FOLDLINE_AGENT_NODE": node,
        "FOLDLINE_AGENT_POOL": pool,
        "FOLDLINE_AGENT_DATA_DIR": str(data),
        "FOLDLINE_AGENT_SHARED_DIR": str(world.root / "shared"),
        "FOLDLINE_KAFKA_BOOTSTRAP": world.node_kafka[node].bootstrap,
    }
    log = world.root / f"{node}.log"
    return Member(node, argv, told | own, log, source)


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def _through(url: str, port: int) -> str:
    """The same server by way of a proxy's port."""
    return url.replace(f":{_place(url)[1]}/", f":{port}/", 1)
