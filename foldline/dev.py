"""`foldline dev`: the whole system on this machine.

Starts Kafka, PostgreSQL and Valkey (or uses those that the settings name), makes the topics and
the tables, then starts our own processes and keeps them running until Ctrl-C or SIGTERM. `stack`
is the same as a `with` block, for the demo and for tests. Everything is under one data directory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from rich.console import Console

from foldline.supervisor import Part, Supervisor, signal_when_orphaned
from infra.kafka import ensure_topics
from infra.kafka_port import KafkaUnavailable, TopicMismatch
from infra.local.jars import JarsUnavailable
from infra.local.packages import PackageMissing
from infra.local.ports import LOOPBACK, PortTaken, check_free
from infra.local.process import ServerFailed, read_identity, tail
from infra.local.stack import (
    Addresses,
    StackHeld,
    held,
    publish,
    run_dir,
    servers_of,
    unpublish,
)
from infra.postgres import DatabaseUnavailable
from infra.settings import AgentSettings, KafkaSettings, StackSettings, environment, load
from projections.migrate import migrate

READY_WITHIN_S = 90.0
FALLS_AT_START = 5
"""A part that falls so often while the system starts will not come up."""
STOP_WITHIN_S = 15.0
DRAIN_S = 5.0
"""How long an agent here waits for its tasks when the system is stopped, unless it is set."""
TEND_S = 0.2
MIB = 1024 * 1024
READY_FILE = "ready"
PARTS = ("follower", "audit", "hot", "relay")
"""What there is one of, beside engines, agents and the API."""
FAILURES = (
    DatabaseUnavailable,
    JarsUnavailable,
    KafkaUnavailable,
    PackageMissing,
    PortTaken,
    ServerFailed,
    TopicMismatch,
)
"""What can keep the system from starting; each message says what to do."""


class StackFailed(Exception):
    """The system did not start. The message holds the end of the log that says why."""


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A system that is up: where it is, and who its processes are."""

    settings: StackSettings
    addresses: Addresses

    @property
    def api_url(self) -> str:
        """Where the API answers."""
        return f"http://{LOOPBACK}:{self.settings.api_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process is told so that it finds this system."""
        return child_environment(self.settings, self.addresses)

    def pid(self, name: str) -> int | None:
        """The process of a part or server (`engine`, `agent-1`, `kafka`, …), while it runs."""
        return read_identity(run_dir(self.settings) / f"{name}.pid")


class _Stopping:
    """How often SIGINT, SIGTERM or SIGHUP came: once to stop, twice to hurry."""

    def __init__(self) -> None:
        self._times = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._take)

    def is_asked(self) -> bool:
        return self._times > 0

    def is_hurried(self) -> bool:
        return self._times > 1

    def _take(self, _number: int, _frame: object) -> None:
        self._times += 1


def run_dev(settings: StackSettings, *, servers_only: bool, agents: int | None) -> int:
    """Run until told to stop; the exit code. A second start finds the first and says so."""
    console = Console(highlight=False)
    try:
        with held(settings):
            (run_dir(settings) / READY_FILE).unlink(missing_ok=True)
            count = settings.agents if agents is None else agents
            return _run(settings, None if servers_only else count, console)
    except StackHeld as found:
        console.print(
            f"Foldline already runs here (pid {found.pid}, data in {settings.data_dir}).\n"
            "`foldline status` says what runs, `foldline stop` stops it."
        )
        return 0
    except FAILURES as error:
        console.print(f"[red]Foldline did not start:[/] {error}", soft_wrap=True)
        return 1


def _run(settings: StackSettings, agents: int | None, console: Console) -> int:
    """Servers, topics, tables, parts; then tend them until a signal. `agents` None: servers only."""

    def progress(what: str, news: str) -> None:
        console.print(f"  {what:<10} {news}", markup=False, soft_wrap=True)

    console.print(f"Foldline: starting, with data in {settings.data_dir}")
    stopping = _Stopping()
    servers = servers_of(settings, progress)
    supervisor: Supervisor | None = None
    try:
        servers.start(progress, stopping.is_asked)
        if stopping.is_asked():
            return 0
        publish(settings, _tables(settings, servers.addresses))
        told = child_environment(settings, servers.addresses)
        supervisor = Supervisor(servers, told, progress)
        if agents is not None:
            _start_parts(supervisor, agents)
            _wait_ready(supervisor, stopping)
        if not stopping.is_asked():
            (run_dir(settings) / READY_FILE).write_text(str(os.getpid()))
            console.print(_welcome(settings, servers.addresses, agents), soft_wrap=True)
        while not stopping.is_asked():
            supervisor.tend()
            time.sleep(TEND_S)
    except StackFailed as error:
        console.print(f"[red]Foldline did not start:[/] {error}", soft_wrap=True)
        return 1
    finally:
        console.print("Foldline: stopping (once more to hurry)")
        (run_dir(settings) / READY_FILE).unlink(missing_ok=True)
        if supervisor is not None:
            supervisor.stop(STOP_WITHIN_S, stopping.is_hurried)
        servers.stop(progress)
        unpublish(settings)
    return 0


def _start_parts(supervisor: Supervisor, agents: int) -> None:
    settings, addresses = supervisor.servers.settings, supervisor.servers.addresses
    check_free(settings.api_port, "FOLDLINE_STACK_API_PORT")
    check_free(settings.follower_port, "FOLDLINE_STACK_FOLLOWER_PORT")
    ensure_topics(addresses.bootstrap, settings.shards, load(KafkaSettings).replication)
    supervisor.progress("topics", f"{settings.shards} shards; {_migrate(settings, addresses)}")
    for number in range(1, settings.engines + 1):
        supervisor.start_part(Part("engine" if number == 1 else f"engine-{number}", "engine"))
    for name in PARTS:
        supervisor.start_part(Part(name, name))
    if settings.edge:
        supervisor.start_part(Part("edge", "edge"))
    for number in range(1, agents + 1):
        told = _agent_environment(settings, number, agents)
        supervisor.start_part(Part(f"agent-{number}", "agent", told))
    supervisor.start_part(Part("api", "api"))
    started = f"{settings.engines} engines, {', '.join(PARTS)}, {agents} agents, api: started"
    supervisor.progress("parts", started)


def _migrate(settings: StackSettings, addresses: Addresses) -> str:
    """What became of the audit's tables. A database of the operator's own may come later."""
    try:
        migrate(addresses.dsn)
    except DatabaseUnavailable as error:
        if settings.postgres_dsn is None:
            raise
        return f"the audit view makes its tables once Postgres answers ({error})"
    return "tables are up to date"


def _wait_ready(supervisor: Supervisor, stopping: _Stopping) -> None:
    """Return once the API says that all it depends on is there. Raises `StackFailed`.

    A view that cannot reach the operator's own server is told and left waiting for it: jobs run
    without the views.
    """
    url = f"http://{LOOPBACK}:{supervisor.servers.settings.api_port}/health/ready"
    deadline = time.monotonic() + READY_WITHIN_S
    answer = "no answer"
    with httpx.Client(timeout=2.0) as client:
        while not stopping.is_asked():
            supervisor.tend()
            try:
                response = client.get(url)
                if response.is_success:
                    return
                answer = response.text
            except httpx.TransportError as error:
                answer = str(error)
            fallen = supervisor.fallen_often(FALLS_AT_START)
            if fallen or time.monotonic() > deadline:
                patient = _patient(supervisor.servers.settings)
                if patient and fallen <= patient:
                    supervisor.progress("ready", f"not yet, what runs goes on: {answer}")
                    return
                reasons = supervisor.fallen() or [tail(supervisor.log_path("api"))]
                raise StackFailed("\n".join([f"{url}: {answer}", *reasons]))
            time.sleep(TEND_S)


def _patient(settings: StackSettings) -> set[str]:
    """The parts whose server is not ours to start: they fall and start until it answers."""
    views = {"audit": settings.postgres_dsn, "hot": settings.redis_url}
    return {name for name, address in views.items() if address is not None}


def child_environment(settings: StackSettings, addresses: Addresses) -> dict[str, str]:
    """What every process of ours is told: the settings of this stack as variables."""
    tables = _tables(settings, addresses)
    told = {
        f"FOLDLINE_{room}_{key}".upper(): str(value)
        for room, table in tables.items()
        for key, value in table.items()
    }
    return environment(settings) | told


def _tables(settings: StackSettings, addresses: Addresses) -> dict[str, dict[str, str | int]]:
    """The same by room: also what other commands of this user find written down."""
    return {
        "kafka": {"bootstrap": addresses.bootstrap},
        "postgres": {"dsn": addresses.dsn},
        "redis": {"url": addresses.redis_url},
        "follower": {"port": settings.follower_port},
        "api": {
            "port": settings.api_port,
            "follower_url": f"http://{LOOPBACK}:{settings.follower_port}",
        },
    }


def _agent_environment(settings: StackSettings, number: int, agents: int) -> Mapping[str, str]:
    """An agent's own name and directory, and a fair share of memory unless that is set."""
    node = f"node-{number}"
    own = load(AgentSettings)
    memory_mib = own.memory_mib or psutil.virtual_memory().total // MIB // agents
    drain_s = own.drain_s if "drain_s" in own.model_fields_set else DRAIN_S
    programs = Path(sys.executable).parent  # where `python` is the one that Foldline runs on
    return {
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "FOLDLINE_AGENT_NODE": node,
        "FOLDLINE_AGENT_DATA_DIR": str(settings.data_dir / "agents" / node),
        "FOLDLINE_AGENT_SHARED_DIR": str(own.shared_dir or settings.data_dir / "shared"),
        "FOLDLINE_AGENT_MEMORY_MIB": str(memory_mib),
        "FOLDLINE_AGENT_DRAIN_S": str(drain_s),
    }


def _welcome(settings: StackSettings, addresses: Addresses, agents: int | None) -> str:
    if agents is None:
        return (
            f"Servers are up: Kafka {addresses.bootstrap}, PostgreSQL and Valkey as in "
            f"{run_dir(settings) / 'services.toml'}. Ctrl-C stops them."
        )
    url = f"http://{LOOPBACK}:{settings.api_port}"
    return (
        f"Foldline is up: API {url}/api/v1, its description {url}/docs, {agents} nodes.\n"
        "Try: foldline submit -- echo hello. Ctrl-C stops everything."
    )


@contextmanager
def stack(
    settings: StackSettings,
    *,
    servers_only: bool = False,
    told: Mapping[str, str] | None = None,
) -> Iterator[RunningStack]:
    """The system as `foldline dev` runs it, in a process of its own, while the block runs.

    `told` are more variables for every process. Raises `StackFailed` if it does not come up.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    output = settings.data_dir / "dev.log"
    argv = [sys.executable, "-m", "foldline", "dev", *(["--servers-only"] if servers_only else [])]
    with output.open("ab") as log:
        process = subprocess.Popen(
            argv,
            env={**os.environ, **environment(settings), **(told or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=signal_when_orphaned(signal.SIGTERM),  # noqa: PLW1509 - one system call
        )
    try:
        _wait_until_up(process, settings, output)
        yield RunningStack(settings, servers_of(settings).addresses)
    finally:
        process.terminate()
        process.wait(STOP_WITHIN_S * 10)


def _wait_until_up(process: subprocess.Popen[bytes], settings: StackSettings, output: Path) -> None:
    deadline = time.monotonic() + 3 * READY_WITHIN_S
    while ready_pid(settings) != process.pid:
        if process.poll() is not None or time.monotonic() > deadline:
            raise StackFailed(tail(output, 30))
        time.sleep(TEND_S)


def ready_pid(settings: StackSettings) -> int | None:
    """The supervisor that last said that all is up; it may have been killed since."""
    try:
        return int((run_dir(settings) / READY_FILE).read_text() or 0)
    except FileNotFoundError:
        return None
