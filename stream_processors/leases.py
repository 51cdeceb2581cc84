"""When is a node lost? The owner's side of leases, on the owner's own clock. No I/O.

The owner counts from its own reading of the last heartbeat, never comparing clocks of different
hosts; a new owner counts every lease from its claim. When a lease, drift and margin have passed,
it writes a probe into the reports partition: once it reads that probe, it has surely read all
heartbeats before it, and an incarnation that has still not been heard is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Incarnation = tuple[str, int]
"""Node name and incarnation."""


@dataclass(frozen=True, slots=True)
class LeaseRules:
    """Clocks may drift by `drift_milli` thousandths; `margin_us` is added to lease and drift."""

    drift_milli: int = 50
    margin_us: int = 1_000_000


DEFAULT_LEASES = LeaseRules()


PROBE_AGAIN_US = 5_000_000
"""A probe that was not read by then may be lost: another is written."""


@dataclass(slots=True)
class _Held:
    """One lease: when its holder was last heard, and the probe that asks after it (0: none)."""

    node_no: int
    lease_us: int
    heard_us: int
    probe: int = 0
    probe_us: int = 0


@dataclass(slots=True)
class Leases:
    """The incarnations of one shard that may have to be given up, and whether the owner hears.

    A new owner writes a probe at once: until it reads it, reports from before its time may still
    come, and it is not `caught_up`.
    """

    rules: LeaseRules
    _held: dict[Incarnation, _Held] = field(default_factory=dict)
    _nonce: int = 0
    _seen: int = 0
    _first: int = 0
    _first_us: int = 0

    def restart(self) -> None:
        """A new ownership begins: every lease counts from the next `watch`."""
        self._held.clear()
        self._seen = self._nonce
        self._first = self._first_us = 0

    @property
    def caught_up(self) -> bool:
        """Whether all reports from before this ownership have surely been read."""
        return 0 < self._first <= self._seen

    def watch(self, incarnation: Incarnation, node_no: int, lease_s: int, now_us: int) -> None:
        """Count this incarnation's lease, from now if it is new."""
        if incarnation not in self._held:
            self._held[incarnation] = _Held(node_no, lease_s * 1_000_000, now_us)

    def keep(self, incarnations: set[Incarnation]) -> None:
        """Forget all others: they are lost or replaced."""
        for gone in [key for key in self._held if key not in incarnations]:
            del self._held[gone]

    def heard(self, incarnation: Incarnation, now_us: int) -> None:
        """A heartbeat of this incarnation was read."""
        held = self._held.get(incarnation)
        if held is not None:
            held.heard_us = now_us
            held.probe = 0

    def probe_seen(self, nonce: int) -> None:
        """Our probe was read: everything before it has been read too."""
        self._seen = max(self._seen, nonce)

    def due_probe(self, now_us: int) -> int | None:
        """The nonce of a probe to be written now: for leases that ran out unheard, or to catch up."""
        late = [
            held
            for held in self._held.values()
            if self._is_late(held, now_us) and self._is_unasked(held.probe, held.probe_us, now_us)
        ]
        hears = self.caught_up or not self._is_unasked(self._first, self._first_us, now_us)
        if not late and hears:
            return None
        self._nonce += 1
        for held in late:
            held.probe, held.probe_us = self._nonce, now_us
        if not hears:
            self._first, self._first_us = self._nonce, now_us
        return self._nonce

    def expired(self) -> tuple[int, ...]:
        """Numbers of the incarnations that are surely lost."""
        return tuple(held.node_no for held in self._held.values() if 0 < held.probe <= self._seen)

    def _is_unasked(self, probe: int, probe_us: int, now_us: int) -> bool:
        """Whether no probe is under way: none was written, or it may be lost."""
        return probe == 0 or (probe > self._seen and now_us - probe_us > PROBE_AGAIN_US)

    def _is_late(self, held: _Held, now_us: int) -> bool:
        drift_us = held.lease_us * self.rules.drift_milli // 1_000
        return now_us - held.heard_us > held.lease_us + drift_us + self.rules.margin_us
