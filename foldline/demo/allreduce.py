"""All-reduce over TCP: every member of a gang gives an array and gets the sum of all of them.

Rank 0 listens on MASTER_ADDR:MASTER_PORT; the others connect to it, as the rendezvous of torchrun
works. Rank 0 adds in rank order, so that the sum is the same to the last bit on every member.
Meant to be read: a real training job would use its framework's own.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from foldline.demo.digits import Matrix

CONNECT_TIMEOUT_S = 60.0
PEER_TIMEOUT_S = 60.0
RETRY_S = 0.02
_RANK = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Gang:
    """This member's place, and its connections: to all others on rank 0, else to rank 0."""

    rank: int
    size: int
    peers: tuple[socket.socket, ...]

    def sum(self, mine: Matrix) -> Matrix:
        """The element-wise sum over all members; every member must call it with one shape."""
        if self.rank:
            self.peers[0].sendall(mine.tobytes())
            return _receive(self.peers[0], mine)
        total = mine.copy()
        for peer in self.peers:
            total += _receive(peer, mine)
        for peer in self.peers:
            peer.sendall(total.tobytes())
        return total


@contextmanager
def join_gang(rank: int, size: int, address: str, port: int) -> Iterator[Gang]:
    """Meet the other members. Raises TimeoutError when one of them does not come in a minute."""
    peers = _listen(size, address, port) if rank == 0 else (_connect(rank, address, port),)
    try:
        yield Gang(rank, size, peers)
    finally:
        for peer in peers:
            peer.close()


def _listen(size: int, address: str, port: int) -> tuple[socket.socket, ...]:
    found: dict[int, socket.socket] = {}
    with socket.create_server((address, port), backlog=size) as server:
        server.settimeout(CONNECT_TIMEOUT_S)
        while len(found) < size - 1:
            peer, _ = server.accept()
            _tune(peer)
            (rank,) = _RANK.unpack(_exactly(peer, _RANK.size))
            found[rank] = peer
    return tuple(found[rank] for rank in range(1, size))


def _connect(rank: int, address: str, port: int) -> socket.socket:
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            peer = socket.create_connection((address, port), timeout=PEER_TIMEOUT_S)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank 0 does not listen on {address}:{port}") from None
            time.sleep(RETRY_S)
            continue
        _tune(peer)
        peer.sendall(_RANK.pack(rank))
        return peer


def _tune(peer: socket.socket) -> None:
    peer.settimeout(PEER_TIMEOUT_S)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _receive(peer: socket.socket, like: Matrix) -> Matrix:
    return np.frombuffer(_exactly(peer, like.nbytes), like.dtype).reshape(like.shape)


def _exactly(peer: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = peer.recv(length - len(data))
        if not part:
            raise ConnectionError("another member of the gang went away")
        data += part
    return bytes(data)
