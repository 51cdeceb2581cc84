"""A small TCP proxy in front of one Kafka broker, which can keep back the answers to produces.

Speaks just enough of Kafka's framing to tell requests apart. In metadata it puts its own port for
the broker's, so that clients stay with it; everything else passes unchanged. Threads end when
`close` is called.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from threading import Event, Lock, Thread

PRODUCE, METADATA = 0, 3
HOST = "127.0.0.1"


class KafkaProxy:
    """Clients connect to `bootstrap`. While `drops_produce_answers` is set, a produce reaches the
    broker and its answer reaches nobody; `dropped` is set as soon as one was kept back."""

    def __init__(self, broker: str) -> None:
        host, port = broker.split(",", maxsplit=1)[0].rsplit(":", 1)
        self._broker = (host, int(port))
        self._listener = socket.create_server((HOST, 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[Thread] = []
        self._lock = Lock()
        self.drops_produce_answers = Event()
        self.dropped = Event()
        self._start(self._accept)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    def close(self) -> None:
        with self._lock:
            sockets, threads = list(self._sockets), list(self._threads)
        for one in sockets:
            with contextlib.suppress(OSError):  # the other side may have hung up before
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in threads:
            thread.join(timeout=5)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = Thread(target=target, args=arguments, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                broker = socket.create_connection(self._broker)
            except OSError:  # the client finds the broker gone
                client.close()
                continue
            with self._lock:
                self._sockets += [client, broker]
            asked: dict[int, int] = {}
            self._start(self._requests, client, broker, asked)
            self._start(self._answers, broker, client, asked)

    def _requests(
        self, client: socket.socket, broker: socket.socket, asked: dict[int, int]
    ) -> None:
        """Pass requests on, and note which correlation id asked for what."""
        with _until_hangup(client, broker):
            while True:
                frame = _read_frame(client)
                api, _, correlation = struct.unpack(">hhi", frame[:8])
                asked[correlation] = api
                broker.sendall(struct.pack(">i", len(frame)) + frame)

    def _answers(self, broker: socket.socket, client: socket.socket, asked: dict[int, int]) -> None:
        with _until_hangup(broker, client):
            while True:
                frame = _read_frame(broker)
                api = asked.pop(struct.unpack(">i", frame[:4])[0], -1)
                if api == PRODUCE and self.drops_produce_answers.is_set():
                    self.dropped.set()
                    continue
                if api == METADATA:
                    host, port = self._broker
                    place = host.encode() + struct.pack(">i", port)
                    frame = frame.replace(place, host.encode() + struct.pack(">i", self.port))
                client.sendall(struct.pack(">i", len(frame)) + frame)


@contextlib.contextmanager
def _until_hangup(*sockets: socket.socket) -> Iterator[None]:
    """Either side's end is the other's end too."""
    try:
        yield
    except (OSError, EOFError):
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def _read_frame(source: socket.socket) -> bytes:
    (length,) = struct.unpack(">i", _read_exactly(source, 4))
    return _read_exactly(source, length)


def _read_exactly(source: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = source.recv(min(length - len(parts), 65536))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
