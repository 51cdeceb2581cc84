"""The rules of views and relay (DESIGN section 6), each broken alone."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import projections.audit
from projections.audit import AuditView
from projections.audit_letters import letter_rows, store_letters
from projections.audit_rows import convert
from projections.loop import ViewRunner
from projections.pipeline import ViewBatch
from projections.relay import Relay
from tests.simulation.mutation import Mutation, exchanged
from tests.simulation.postgres import SimSession
from tests.simulation.redis import Redis

Breaks = AbstractContextManager[None]
audit: Any = projections.audit
"""Its inner functions are what is broken here."""


def position_outside_the_transaction() -> Breaks:
    """Rows are stored, then the position is moved."""

    def store(self: AuditView, batch: ViewBatch) -> None:
        rows, letters = convert(batch), letter_rows(batch)
        with self._transaction() as session:
            audit._store_rows(session, batch.shard, rows)
            store_letters(session, batch.shard, letters)
        with self._transaction() as session:
            audit._move(session, batch)

    return exchanged(AuditView, store=store)


def stale_writers_are_let_through() -> Breaks:
    """The position is moved wherever it stands."""
    original = SimSession._move

    def move(self: SimSession, shard: int, after: Any, _expected: Any) -> int:
        return original(self, shard, after, None) or self.force(shard, after)

    return exchanged(SimSession, _move=move)


def gaps_are_let_through() -> Breaks:
    """The hot view's script takes any batch."""
    original = Redis.batch

    def batch(self: Redis, meta: str, arguments: Any) -> list[bytes]:
        stands = self.data.get(meta, {}).get("value", "")
        return original(self, meta, (stands, *arguments[1:]))

    return exchanged(Redis, batch=batch)


def nothing_is_written_anew() -> Breaks:
    """A view that lost its tail is gone on with."""
    return exchanged(ViewRunner, _refill=lambda _self, _projector: None)


def the_relay_moves_first() -> Breaks:
    """The relay's position is moved before its records are acknowledged."""
    original = Relay.turn

    def turn(self: Relay) -> int:
        topics = self._topics
        shards = self._shards

        class Hasty:
            """Moves, then publishes."""

            def publish(self, records: Any) -> None:
                topics.move({shard: one.next_offset for shard, one in shards.items()})
                topics.publish(records)

            def __getattr__(self, name: str) -> Any:
                return getattr(topics, name)

        self._topics = Hasty()
        try:
            return original(self)
        finally:
            self._topics = topics

    return exchanged(Relay, turn=turn)


VIEW_MUTATIONS = (
    Mutation("the position is outside the transaction", "6", position_outside_the_transaction),
    Mutation("a stale writer is let through", "6", stale_writers_are_let_through, seed=12),
    Mutation("the hot view's script takes gaps", "6", gaps_are_let_through),
    Mutation("a hot view that lost its tail is not written anew", "6", nothing_is_written_anew),
    Mutation("the relay moves before it is acknowledged", "6", the_relay_moves_first),
)
