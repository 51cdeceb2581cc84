"""Puts the simulated world under the product for the time of a run: clocks, servers, silence.

Product loops sleep and ask the time through names of their modules; those names are exchanged
here, and put back afterwards. So are the doors to PostgreSQL and Redis, log lines and metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import infra.follow
import infra.log
import infra.snapshots
import projections.audit
import projections.hot
import projections.loop
import projections.relay
import schemas.codec
import stream_processors.engine_process
import stream_processors.ownership
import stream_processors.shard_runner
import stream_processors.snapshot_loading
import stream_processors.tail
from tests.simulation.engines import engine_hands
from tests.simulation.postgres import SimDatabase
from tests.simulation.redis import SimRedisStore
from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from tests.simulation.system import System


class _Silence:
    """A logger that nobody reads."""

    def __getattr__(self, _level: str) -> Any:
        return _say_nothing


def _say_nothing(*_parts: Any, **_values: Any) -> None:
    """Log lines and metrics of a simulated process."""


QUIET: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (projections.loop, ("LOG", "count", "gauge", "observe")),
    (projections.relay, ("_log", "count", "gauge")),
    (stream_processors.engine_process, ("LOG",)),
    (stream_processors.tail, ("LOGGER",)),
    (stream_processors.shard_runner, ("LOG", "count", "gauge", "observe")),
    (stream_processors.snapshot_loading, ("LOG",)),
    (infra.snapshots, ("_log",)),
)


def _read_once() -> list[tuple[ModuleType, str, Any]]:
    """Frozen values that many processes read from the same bytes are made once a run."""
    read_record = cache(infra.log.read_record)
    decode_event = cache(schemas.codec.decode_event)
    return [
        (infra.follow, "read_record", read_record),
        (infra.follow, "decode_event", decode_event),
        (stream_processors.ownership, "read_record", read_record),
    ]


@contextmanager
def simulated(system: System) -> Iterator[None]:
    """For the time of one run, this is the world that product code finds."""
    world = system.world

    def sleep(seconds: float) -> None:
        world.me().wait(int(seconds * SECOND))

    def monotonic() -> float:
        process = world.me()
        return process.host.boot_us(world.now_us) / SECOND

    exchanged: list[tuple[ModuleType, str, Any]] = [
        (projections.audit, "Database", lambda *_: SimDatabase(system.postgres)),
        (projections.hot, "RedisStore", lambda _: SimRedisStore(system.redis)),
    ]
    for module in (projections.loop, projections.relay):
        exchanged += [(module, "sleep", sleep), (module, "monotonic", monotonic)]
        exchanged += [(module, "POLL_S", 0.5)]
    exchanged.append((projections.relay, "BREATH_S", 0.06))
    hands = engine_hands(system)
    exchanged += [(stream_processors.engine_process, name, hands[name]) for name in hands]
    exchanged += _read_once()
    silence = _Silence()
    for module, names in QUIET:
        for name in names:
            quiet = silence if name in ("LOG", "_log", "LOGGER") else _say_nothing
            exchanged.append((module, name, quiet))
    before = [(module, name, getattr(module, name)) for module, name, _ in exchanged]
    try:
        for module, name, value in exchanged:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
