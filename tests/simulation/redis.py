"""Redis in the simulated world: the commands and the two scripts of the hot view, on dictionaries.

`SimRedisStore` takes the place of `infra.redis_store.RedisStore`: the real `HotView` runs on it.
Every command can be undone, so the server can lose its tail or everything, as Redis may.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import msgspec

from infra.redis_store import Script, StoreUnavailable
from tests.simulation.kafka import call
from tests.simulation.world import World

T = TypeVar("T")
GONE = object()
Undo = list[tuple[str, str, Any]]


class Redis:
    """The server. `on_script` is told of every script's effect, once it is there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.data: dict[str, dict[str, Any]] = {}
        self.on_stored: Callable[[str, str, str], None] = lambda _meta, _before, _after: None
        self.on_flip: Callable[[str, list[str]], None] = lambda _new, _shards: None
        self._undo: deque[Undo] = deque(maxlen=400)

    def begin(self) -> None:
        """The next command: what it changes can be undone as one."""
        self._undo.append([])

    def put(self, key: str, name: str, value: Any) -> None:
        """Set a field."""
        fields = self.data.setdefault(key, {})
        self._undo[-1].append((key, name, fields.get(name, GONE)))
        fields[name] = value

    def drop(self, key: str, name: str) -> None:
        """Remove a field; an empty key goes."""
        fields = self.data.get(key)
        if fields is not None and name in fields:
            self._undo[-1].append((key, name, fields.pop(name)))
            if not fields:
                del self.data[key]

    def lose_tail(self, commands: int) -> None:
        """The server comes back from what it had on its disk."""
        for _ in range(min(commands, len(self._undo))):
            for key, name, old in reversed(self._undo.pop()):
                fields = self.data.setdefault(key, {})
                if old is GONE:
                    fields.pop(name, None)
                else:
                    fields[name] = old
                if not fields:
                    del self.data[key]

    def lose_all(self) -> None:
        """The server comes back empty."""
        self.data.clear()
        self._undo.clear()

    # The scripts, line by line.

    def batch(self, meta: str, arguments: Sequence[Any]) -> list[bytes]:
        """`projections/hot_batch.lua`."""
        before, after, position, packed, counted_from = arguments
        root = meta[:-4]
        held = self.data.get(meta, {})
        stands = held.get("position", "").encode()
        value = held.get("value", "")
        if "retired" in held:
            return [b"retired", stands]
        if value == after and after != before:
            return [b"repeated", stands]
        if value != before:
            return [b"elsewhere", stands]
        if before == "":
            self.put(meta, "counted_from", counted_from)
        self._apply(root, msgspec.msgpack.decode(packed))
        self.put(meta, "value", after)
        self.put(meta, "position", position)
        if position:
            self.on_stored(meta, before, after)
        return [b"stored", position.encode()]

    def _apply(self, root: str, net: dict[str, Any]) -> None:
        for job_id in net["ended"]:
            self.drop(f"{root}jobs", job_id)
        self._pairs(f"{root}jobs", net["jobs"])
        for group in net["groups"]:
            keys = {"order": f"{root}order:{group['pool']}"}
            for kind in ("waiting", "active", "retrying"):
                keys[kind] = f"{root}{kind}:{group['queue']}"
            for kind, key in keys.items():
                for job_id in group["ids"]:
                    self.drop(key, job_id)
                scored = group[kind]
                for index in range(0, len(scored), 2):
                    self.put(key, scored[index + 1], scored[index])
        if net["all_nodes"]:
            for name in list(self.data.get(f"{root}nodes", {})):
                self.drop(f"{root}nodes", name)
        for name in net["lost"]:
            self.drop(f"{root}nodes", name)
        for tenant in net["unloaded"]:
            self.drop(f"{root}loads", tenant)
        for kind in ("nodes", "queues", "pools", "loads"):
            self._pairs(f"{root}{kind}", net[kind])

    def _pairs(self, key: str, flat: list[Any]) -> None:
        for index in range(0, len(flat), 2):
            self.put(key, flat[index], flat[index + 1])

    def flip(self, registry: str, arguments: Sequence[str]) -> int:
        """`projections/hot_flip.lua`, for one generation that drops the old one."""
        new, how, *pairs = arguments
        assert how == "drop", "the simulated views keep no old generation"
        live = self.data.get(registry, {})
        asked = list(zip(pairs[::2], pairs[1::2], strict=True))
        for shard, expected in asked:
            if expected not in ("*", live.get(f"live:{shard}", "")):
                return 0
        for shard, _ in asked:
            old = live.get(f"live:{shard}")
            if old is not None and old != new:
                self.put(registry, f"doomed:{old}:{shard}", "1")
            self.put(registry, f"live:{shard}", new)
            self.drop(registry, f"doomed:{new}:{shard}")
            self.drop(registry, f"building:{new}:{shard}")
        self.on_flip(new, [shard for shard, _ in asked])
        return 1


class SimRedisStore:
    """What `HotView` takes for a `RedisStore`."""

    def __init__(self, server: Redis) -> None:
        self.server = server

    def _change(self, step: str, act: Callable[[], T]) -> T:
        def change() -> T:
            self.server.begin()
            return act()

        return call(self.server.world, step, change, StoreUnavailable)

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """One of the two writing scripts, told by its arguments."""
        server = self.server
        if "cmsgpack" in script.text:
            is_fill = "filling" in args[0] or "filling" in args[1]
            step = "hot refill" if is_fill else "hot store"
            return self._change(step, lambda: server.batch(keys[0], args))
        return self._change("hot flip", lambda: server.flip(keys[0], args))

    def get_fields(self, key: str) -> dict[str, str]:
        """A hash."""
        server = self.server
        return call(
            server.world, "hot position", lambda: dict(server.data.get(key, {})), StoreUnavailable
        )

    def put_fields(self, key: str, values: Mapping[str, str]) -> None:
        """Set fields."""

        def put() -> None:
            for name, value in values.items():
                self.server.put(key, name, value)

        self._change("hot flip", put)

    def drop_fields(self, key: str, names: Sequence[str]) -> None:
        """Remove fields."""

        def drop() -> None:
            for name in names:
                self.server.drop(key, name)

        self._change("hot flip", drop)

    def next_number(self, key: str, name: str) -> int:
        """Count up."""

        def count() -> int:
            number = int(self.server.data.get(key, {}).get(name, "0")) + 1
            self.server.put(key, name, str(number))
            return number

        return self._change("hot flip", count)

    def keys(self, pattern: str) -> list[str]:
        """Keys that match."""
        server = self.server
        glob = pattern.replace("[", "[[]")

        def find() -> list[str]:
            return sorted(key for key in server.data if fnmatchcase(key, glob))

        return call(server.world, "hot position", find, StoreUnavailable)

    def unlink(self, keys: Sequence[str]) -> None:
        """Delete keys."""

        def delete() -> None:
            for key in keys:
                for name in list(self.server.data.get(key, {})):
                    self.server.drop(key, name)

        self._change("hot flip", delete)

    def close(self) -> None:
        """Nothing is held."""
