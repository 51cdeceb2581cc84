"""The door to Redis or Valkey (protocol of version 7 or newer). The only file that imports redis.

Runs scripts by their SHA-1 and loads one that the server does not know (a restarted server has
forgotten them), and reads and writes small hashes. Never retries by itself: whether a call may be
repeated is known by the caller, who finds its position stored beside the data. Values are bytes.
What is kept under which key: `projections/hot_keys.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha1
from typing import Any, TypeVar, cast

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

T = TypeVar("T")
SCAN_COUNT = 1_000
UNLINK_MAX = 1_000


class StoreUnavailable(Exception):
    """The server cannot be reached, or cannot write now; whether the call took place is unknown."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, run whole or (where the server refuses it at its start) not at all."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        """The server knows a script by the SHA-1 of its text."""
        digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", digest)


_PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.OutOfMemoryError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)
"""What may be over a moment later. Everything else is a bug, and is not caught."""

_PASSING_CODES = ("OOM", "MISCONF", "LOADING", "BUSY", "READONLY", "MASTERDOWN", "NOREPLICAS")


class RedisStore:
    """One server, named by its URL (`redis://host:port/db`). `timeout_s` bounds every call.

    Every method raises `StoreUnavailable` where the server does not answer or cannot write.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        """Connects at the first call."""
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def run(self, script: Script, keys: Sequence[str], args: Sequence[str | bytes]) -> Any:
        """What the script answers: bytes, integers, None, and lists of them."""

        def call() -> Any:
            try:
                return self._client.evalsha(script.sha, len(keys), *keys, *args)
            except exceptions.NoScriptError:
                return self._client.eval(script.text, len(keys), *keys, *args)

        return _guard(call)

    def get_fields(self, key: str) -> dict[str, str]:
        """A hash of texts; empty where there is none."""
        found = cast(dict[bytes, bytes], _guard(lambda: self._client.hgetall(key)))
        return {name.decode(): value.decode() for name, value in found.items()}

    def put_fields(self, key: str, values: Mapping[str, str]) -> None:
        """Set fields of a hash, all at once."""
        flat = [text for pair in values.items() for text in pair]
        _guard(lambda: self._client.hset(key, items=flat))

    def drop_fields(self, key: str, names: Sequence[str]) -> None:
        """Remove fields of a hash, all at once."""
        _guard(lambda: self._client.hdel(key, *names))

    def next_number(self, key: str, name: str) -> int:
        """Count a field of a hash up by one and answer it."""
        return _guard(lambda: self._client.hincrby(key, name, 1))

    def keys(self, pattern: str) -> list[str]:
        """Every key that matches a glob, sorted; walks the key space in small steps."""

        def call() -> list[str]:
            found = self._client.scan_iter(match=pattern, count=SCAN_COUNT)
            return sorted({cast(bytes, key).decode() for key in found})

        return _guard(call)

    def unlink(self, keys: Sequence[str]) -> None:
        """Delete keys; the server frees their memory in the background."""
        for start in range(0, len(keys), UNLINK_MAX):
            _guard(partial(self._client.unlink, *keys[start : start + UNLINK_MAX]))

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()


def _guard(call: Callable[[], T]) -> T:
    try:
        return call()
    except _PASSING as error:
        raise StoreUnavailable(str(error)) from error
    except exceptions.ResponseError as error:
        if str(error).startswith(_PASSING_CODES):
            raise StoreUnavailable(str(error)) from error
        raise
