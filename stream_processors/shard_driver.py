"""Does the I/O of one shard's `Ownership` on a `ShardLog`: sends, collects outcomes, reads.

A thin loop body: each `step` polls outcomes, goes on reading where reading is due, and ticks.
What is left for the engine comes back: `Counted`, `Discard`, `Owning`, `SteppedDown`, in order.
It decides nothing; `ownership.py` does. Errors of the log pass through: `LogUnavailable` may be
retried by stepping again, `OffsetOutOfRange` and `LogStopped` must stop the shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from infra.log import Entry, LogUnavailable, ShardLog
from schemas.envelope import Consumed, EncodedEvent
from schemas.terms import Micros
from stream_processors.log_clock import Reading
from stream_processors.ownership import Ownership
from stream_processors.ownership_effects import Append, Effect, Read, Signal

RECORDS_PER_STEP = 32
"""A step reads at most this many records, so that other shards of the process get their turn: even
full ones, of a thousand jobs each, are folded in a fifth of a second."""


class ShardDriver:
    """One process's `Ownership` of one shard, joined with the log it is about."""

    def __init__(self, ownership: Ownership, log: ShardLog) -> None:
        """Neither is touched before the first call."""
        self.ownership = ownership
        self.log = log
        self._reading_from: int | None = None
        self._reading_to: int | None = None
        self._signals: list[Signal] = []

    @property
    def is_reading(self) -> bool:
        """Whether the next step should come soon: records are waited for."""
        return self._reading_from is not None

    def assigned(self, now: Reading) -> list[Signal]:
        """See `Ownership.assigned`."""
        self._perform(self.ownership.assigned(now))
        return self._take_signals()

    def revoked(self, now: Reading) -> list[Signal]:
        """See `Ownership.revoked`."""
        self._perform(self.ownership.revoked(now))
        return self._take_signals()

    def heard(self, epoch: int, owner: bytes) -> None:
        """See `Ownership.heard`."""
        self.ownership.heard(epoch, owner)

    def follow(self, entries: Sequence[Entry], now: Reading) -> list[Signal]:
        """Records of the log that came by themselves, in order and without a gap."""
        self._perform(self.ownership.entries(entries, now))
        return self._take_signals()

    def append(
        self,
        events: tuple[EncodedEvent, ...],
        consumed: tuple[Consumed, ...],
        at: Micros,
        now: Reading,
    ) -> int:
        """Send a decision; its token comes back in its `Counted`."""
        effects = self.ownership.append(events, consumed, at, now)
        self._perform(effects)
        sent = effects[0]
        assert isinstance(sent, Append)
        return sent.token

    def step(self, now: Reading, timeout_s: float = 0.0) -> list[Signal]:
        """One round of the loop; waits at most `timeout_s` for an outcome.

        Where it raises `LogUnavailable`, signals found before are kept for the next call.
        """
        for outcome in self.log.poll(timeout_s):
            self._perform(self.ownership.outcome(outcome, now))
        self._perform(self.ownership.tick(now))
        try:
            self._read_on(now)
        except LogUnavailable:
            self.ownership.deaf()
            raise
        return self._take_signals()

    def _take_signals(self) -> list[Signal]:
        signals, self._signals = self._signals, []
        return signals

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Append):
                self.log.append(effect.value, effect.token)
            elif isinstance(effect, Read):
                self._reading_from, self._reading_to = effect.offset, None
            else:
                self._signals.append(effect)

    def _read_on(self, now: Reading) -> None:
        if self._reading_from is None:
            return
        if self._reading_to is None:
            self._reading_to = self.log.end()
        if self._reading_from < self._reading_to:
            entries = self.log.read(self._reading_from, RECORDS_PER_STEP)
            if not entries:
                return
            self._reading_from = entries[-1].offset + 1
            self._perform(self.ownership.entries(entries, now))
        self._finish_reading(now)

    def _finish_reading(self, now: Reading) -> None:
        start, end = self._reading_from, self._reading_to
        if start is None or end is None or start < end:
            return
        self._reading_from = self._reading_to = None
        self._perform(self.ownership.reached_end(end, now))
