"""A TCP proxy in front of one server, which can refuse, cut off and hold back whoever comes by it.

Whoever should feel a fault of the network connects to `port` instead of the server. `pumps` says how
bytes pass on either way; by default just so. Threads end when `close` is called. What Kafka's
framing allows on top of this is in `kafka_proxy.py`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from threading import Event, Lock, Thread

HOST = "127.0.0.1"
CHUNK_BYTES = 65_536

Pump = Callable[[socket.socket, socket.socket, dict[int, int]], None]
"""Passes on from one socket to another for ever; the dict is the connection's own memory."""


class TcpProxy:
    """Serves at once. While `flowing` is cleared, bytes wait here and connections stay open."""

    def __init__(self, target: tuple[str, int], pumps: tuple[Pump, Pump] | None = None) -> None:
        self._target = target
        self._pumps = pumps or (self._pass_on, self._pass_on)
        self._lock = Lock()
        self._listener: socket.socket | None = socket.create_server((HOST, 0), backlog=64)
        self._threads: set[Thread] = set()
        self._sockets: set[socket.socket] = set()
        self.port = int(self._listener.getsockname()[1])
        self.flowing = Event()
        self.flowing.set()
        self._start(self._accept, self._listener)

    def refuse(self) -> None:
        """Nobody listens here any more, and whoever was connected is cut off."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            _shut(listener)
            listener.close()
        self.cut()

    def serve(self) -> None:
        """Listen again, on the same port."""
        if self._listener is None:
            listener = socket.create_server((HOST, self.port), backlog=64)
            self._listener = listener
            self._start(self._accept, listener)

    def cut(self) -> None:
        """End all connections of the moment; new ones may come."""
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:  # whoever serves the connection closes them
            _shut(one)

    def close(self) -> None:
        """Serve nobody again, and wait for the threads."""
        self.flowing.set()
        self.refuse()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout=5)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        def run() -> None:
            try:
                target(*arguments)
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = Thread(target=run, daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:  # the client finds the server gone
                client.close()
                continue
            server.settimeout(None)
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {client, server}
            if self._listener is not listener:  # it refuses since this one came
                self.cut()
            memory: dict[int, int] = {}
            up = (self._pumps[0], client, server, memory)
            down = (self._pumps[1], server, client, memory)
            self._start(self._connection, up, down)

    def _connection(
        self,
        up: tuple[Pump, socket.socket, socket.socket, dict[int, int]],
        down: tuple[Pump, socket.socket, socket.socket, dict[int, int]],
    ) -> None:
        """Both directions of one connection; either side's end is the other's end too."""
        _, client, server, _ = up
        thread = Thread(target=_until_hangup, args=down, daemon=True)
        thread.start()
        _until_hangup(*up)
        thread.join()
        with self._lock:
            self._sockets -= {client, server}
        client.close()
        server.close()

    def _pass_on(
        self, source: socket.socket, target: socket.socket, _memory: dict[int, int]
    ) -> None:
        while data := source.recv(CHUNK_BYTES):
            self.flowing.wait()
            target.sendall(data)


def _until_hangup(
    pump: Pump, source: socket.socket, target: socket.socket, memory: dict[int, int]
) -> None:
    try:
        pump(source, target, memory)
    except (OSError, EOFError):
        pass  # hung up, which is dealt with here
    finally:
        for one in (source, target):
            _shut(one)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side may have hung up before
        one.shutdown(socket.SHUT_RDWR)
