"""A small TCP proxy in front of one Kafka broker, which can keep back the answers to produces.

Speaks just enough of Kafka's framing to tell requests apart. Where an answer names the broker's
place it puts its own, so that clients stay with it; everything else passes unchanged. Refusing and
cutting off are `tcp_proxy.py`'s.
"""

from __future__ import annotations

import socket
import struct
from threading import Event

from tests.tcp_proxy import HOST, TcpProxy

PRODUCE, METADATA, FIND_COORDINATOR = 0, 3, 10


class KafkaProxy:
    """Clients connect to `bootstrap`. While `drops_produce_answers` is set, a produce reaches the
    broker and its answer reaches nobody; `dropped` is set as soon as one was kept back."""

    def __init__(self, broker: str) -> None:
        host, port = broker.split(",", maxsplit=1)[0].rsplit(":", 1)
        self._broker = (host, int(port))
        self.drops_produce_answers = Event()
        self.dropped = Event()
        self.tcp = TcpProxy(self._broker, (self._requests, self._answers))

    @property
    def port(self) -> int:
        return self.tcp.port

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    def close(self) -> None:
        self.tcp.close()

    def _requests(
        self, client: socket.socket, broker: socket.socket, asked: dict[int, int]
    ) -> None:
        """Pass requests on, and note which correlation id asked for what."""
        while True:
            frame = _read_frame(client)
            api, _, correlation = struct.unpack(">hhi", frame[:8])
            asked[correlation] = api
            self.tcp.flowing.wait()
            broker.sendall(struct.pack(">i", len(frame)) + frame)

    def _answers(self, broker: socket.socket, client: socket.socket, asked: dict[int, int]) -> None:
        while True:
            frame = _read_frame(broker)
            api = asked.pop(struct.unpack(">i", frame[:4])[0], -1)
            if api == PRODUCE and self.drops_produce_answers.is_set():
                self.dropped.set()
                continue
            if api in (METADATA, FIND_COORDINATOR):
                host, port = self._broker
                place = host.encode() + struct.pack(">i", port)
                frame = frame.replace(place, host.encode() + struct.pack(">i", self.port))
            self.tcp.flowing.wait()
            client.sendall(struct.pack(">i", len(frame)) + frame)


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
