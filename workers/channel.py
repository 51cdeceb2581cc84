"""What stands between the agent and one task's supervisor: a packet socket, two pipes, the order.

Made whole or not at all: when a descriptor or memory is wanting, nothing stays open.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import dataclass

STREAMS = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Channel:
    """Our ends. `pipes` maps what we read from to stream names."""

    control: socket.socket
    pipes: dict[int, str]


def open_channel(forks: socket.socket, serial: str, task: dict[str, object]) -> Channel:
    """Ask the fork server for a supervisor of this task; it holds the other ends.

    Raises OSError: then no task was asked for.
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.callback(control.close)
        theirs.callback(other.close)
        control.setblocking(False)
        order = os.memfd_create("task", os.MFD_CLOEXEC)
        theirs.callback(os.close, order)
        os.write(order, json.dumps(task).encode())
        os.lseek(order, 0, os.SEEK_SET)
        pipes, ends = {}, []
        for stream in STREAMS:
            read, write = os.pipe()
            ours.callback(os.close, read)
            theirs.callback(os.close, write)
            os.set_blocking(read, False)
            pipes[read] = stream
            ends.append(write)
        socket.send_fds(forks, [f"task {serial}".encode()], [other.fileno(), order, *ends])
        ours.pop_all()
        return Channel(control, pipes)


def hold_port(address: str) -> socket.socket:
    """A free port of the address, bound so that nobody else gets it before it is needed.

    Raises OSError.
    """
    family, kind, proto, _, where = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
    held = socket.socket(family, kind, proto)
    try:
        held.bind(where)
    except OSError:
        held.close()
        raise
    return held
