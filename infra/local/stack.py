"""The three servers together: one data directory, one holder, started and stopped in order.

Under the data directory: `kafka/`, `postgres/`, `valkey/` hold their data, `logs/` what they
print, `run/` who runs now. A server whose address is in the settings is used and left alone.
`foldline/dev.py` puts our own processes on top; tests use `local_servers` alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.local.kafka_server import KafkaPlan, kafka_program
from infra.local.ports import LOOPBACK, free_ports
from infra.local.postgres_server import postgres_dsn, postgres_program
from infra.local.process import Server, read_identity, write_identity
from infra.local.valkey_server import valkey_program
from infra.settings import StackSettings

HOLDER = "supervisor"

Progress = Callable[[str, str], None]
"""Told what is being worked on and what is new about it."""


class StackHeld(Exception):
    """Another process runs the stack of this data directory; `pid` is it, if it said so."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        """Name the holder."""
        super().__init__(f"{data_dir} is in use by pid {pid or 'unknown'}")
        self.pid = pid


@dataclass(frozen=True, slots=True)
class Addresses:
    """How to reach the three servers. `dsn` holds a password."""

    bootstrap: str
    dsn: str = field(repr=False)
    redis_url: str = field(repr=False)


def quiet(_what: str, _news: str) -> None:
    """Progress for whom nobody watches."""


@dataclass(frozen=True, slots=True)
class LocalServers:
    """The servers of one data directory that are ours to run, in the order of their start."""

    settings: StackSettings
    servers: tuple[Server, ...]

    @property
    def addresses(self) -> Addresses:
        """Where they listen, or where the settings say that others do. Known once started."""
        settings = self.settings
        return Addresses(
            bootstrap=settings.kafka_bootstrap or f"{LOOPBACK}:{settings.kafka_port}",
            dsn=settings.postgres_dsn
            or postgres_dsn(settings.data_dir / "postgres", settings.postgres_port),
            redis_url=settings.redis_url or f"redis://{LOOPBACK}:{settings.valkey_port}/0",
        )

    def start(
        self, progress: Progress = quiet, is_given_up: Callable[[], bool] = lambda: False
    ) -> None:
        """Start all that do not run, then wait for each; what runs is taken as it is.

        Raises `ServerFailed`, `PortTaken`, `JarsUnavailable` or `PackageMissing`.
        """
        began = time.monotonic()
        started = {server.program.name: server.start() for server in self.servers}
        for server in self.servers:
            server.wait_ready(is_given_up)
            if is_given_up():
                return
            name = server.program.name
            how = f"ready after {time.monotonic() - began:.1f} s" if started[name] else "found"
            progress(name, f"{LOOPBACK}:{server.program.port} {how}")

    def stop(self, progress: Progress = quiet) -> None:
        """Stop all of them, last started first. Raises `ServerFailed`."""
        for server in reversed(self.servers):
            if server.stop():
                progress(server.program.name, "stopped")

    def one(self, name: str) -> Server:
        """The server called `kafka`, `postgres` or `valkey`."""
        return next(server for server in self.servers if server.program.name == name)


def servers_of(settings: StackSettings, progress: Progress = quiet) -> LocalServers:
    """The servers that these settings ask for; makes their directories, starts nothing."""
    root = settings.data_dir
    root.mkdir(parents=True, exist_ok=True, mode=0o711)
    for name in ("run", "logs"):
        (root / name).mkdir(exist_ok=True, mode=0o700)
    programs = []
    if settings.kafka_bootstrap is None:
        plan = KafkaPlan(
            root / "kafka",
            settings.kafka_port,
            settings.kafka_controller_port,
            settings.kafka_heap_mib,
        )
        programs.append(kafka_program(plan, lambda news: progress("kafka", news)))
    if settings.postgres_dsn is None:
        programs.append(postgres_program(root / "postgres", settings.postgres_port))
    if settings.redis_url is None:
        programs.append(valkey_program(root / "valkey", settings.valkey_port))
    servers = (Server(program, run_dir(settings), root / "logs") for program in programs)
    return LocalServers(settings, tuple(servers))


@contextmanager
def held(settings: StackSettings) -> Iterator[None]:
    """Be the one that runs this data directory. Raises `StackHeld`; a killed holder holds nothing.

    The lock goes with the process that holds it, whatever ends it.
    """
    run = run_dir(settings)
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (run / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StackHeld(settings.data_dir, holder(settings)) from error
        write_identity(run / f"{HOLDER}.pid", os.getpid())
        try:
            yield
        finally:
            (run / f"{HOLDER}.pid").unlink(missing_ok=True)


def holder(settings: StackSettings) -> int | None:
    """The process that runs this data directory now."""
    return read_identity(run_dir(settings) / f"{HOLDER}.pid")


@contextmanager
def local_servers(settings: StackSettings, progress: Progress = quiet) -> Iterator[LocalServers]:
    """The servers alone, running while the block does."""
    with held(settings):
        servers = servers_of(settings, progress)
        try:
            servers.start(progress)
            yield servers
        finally:
            servers.stop(progress)


def free_settings(data_dir: Path, **changes: Any) -> StackSettings:
    """A stack of its own in `data_dir`: every port free, no server of anyone else."""
    names = [name for name in StackSettings.model_fields if name.endswith("_port")]
    own: dict[str, Any] = dict(zip(names, free_ports(len(names)), strict=True))
    own |= {"kafka_bootstrap": None, "postgres_dsn": None, "redis_url": None}
    return StackSettings(data_dir=data_dir, **(own | changes))


def publish(settings: StackSettings, tables: dict[str, dict[str, str | int]]) -> None:
    """Write down how to reach what runs, for every other command of this user."""
    path = run_dir(settings) / "services.toml"
    lines = []
    for room, table in tables.items():
        lines.append(f"[{room}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    making = path.with_suffix(".making")
    making.unlink(missing_ok=True)
    making.touch(mode=0o600)
    making.write_text("\n".join(lines) + "\n")
    making.replace(path)


def unpublish(settings: StackSettings) -> None:
    """Nothing runs any more."""
    (run_dir(settings) / "services.toml").unlink(missing_ok=True)


def run_dir(settings: StackSettings) -> Path:
    """Who runs now: pid files, the lock, the addresses."""
    return settings.data_dir / "run"
