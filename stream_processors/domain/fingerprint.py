"""One hash for a whole state: equal exactly when two folds hold equal facts.

Leaves out the hints that only speed up decisions (of a pool, and void timers), so that an owner, a
follower and a restored snapshot compare equal.
"""

from __future__ import annotations

from dataclasses import fields
from hashlib import sha256
from typing import Any

from stream_processors.domain.evolve import is_valid
from stream_processors.domain.state import Lane, Pool, State

STATE_VERSION = 2
"""Raised with every change of the shape of `State`: a snapshot of another version is not used."""

_HINTS = frozenset({"dirty", "freed", "blocked", "blocked_at", "timers"})


def fingerprint(state: State) -> bytes:
    """SHA-256 over all facts of the state."""
    timers = sorted({timer for timer in state.timers if is_valid(state, timer)})
    return sha256(repr((_facts(state), timers)).encode()).digest()


def _facts(value: Any) -> Any:
    if isinstance(value, Lane):
        return (value.priority, value.terms, value.avoid, list(value))
    if isinstance(value, State | Pool):
        return [
            (field.name, _facts(getattr(value, field.name)))
            for field in fields(value)
            if field.name not in _HINTS
        ]
    if isinstance(value, dict):
        return [(key, _facts(item)) for key, item in value.items()]
    return value
