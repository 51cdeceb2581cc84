"""Loopback ports: is one free, who has it, and which may a test take.

Reads the machine's socket table; binds for a moment to find out. Never kills the owner.
"""

from __future__ import annotations

import random
import socket

import psutil

LOOPBACK = "127.0.0.1"
TEST_PORTS = range(20_000, 32_000)
"""Below the range that outgoing connections take theirs from: a server that is restarted must
find its port still free."""


class PortTaken(Exception):
    """Somebody else listens there. The message names them and the setting to change."""


def check_free(port: int, setting: str) -> None:
    """Raise `PortTaken` unless a server of ours could listen on this loopback port."""
    if not _is_free(port):
        raise PortTaken(
            f"port {port} is taken by {owner(port)}: stop that, or choose another with {setting}"
        )


def owner(port: int) -> str:
    """Who listens on the port, as `command line (pid n)`; what is known of them at least."""
    try:
        sockets = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return "a process that this user may not see"
    for one in sockets:
        listens = one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port
        if listens and one.pid:
            try:
                command = " ".join(psutil.Process(one.pid).cmdline())
            except psutil.Error:
                command = "a process that just ended"
            return f"{command[:120]} (pid {one.pid})"
    return "a process of another user"


def free_ports(count: int) -> tuple[int, ...]:
    """So many different ports on which nobody listens now."""
    chosen: list[int] = []
    for port in random.sample(TEST_PORTS, len(TEST_PORTS)):
        if len(chosen) == count:
            break
        if _is_free(port):
            chosen.append(port)
    assert len(chosen) == count, "no free ports are left on this machine"
    return tuple(chosen)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
