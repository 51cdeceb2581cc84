"""`decide(state, inputs, now)`: one batch of inputs becomes the events of one record.

Pure: time and chance arrive as arguments. The state is advanced by exactly the events answered,
through `evolve` alone, so the caller does not fold them again. Replay never runs this: it may be
as clever as it likes and may change between releases. The steps, in order: commands, reports,
lost nodes, what follows for attempts, timers (what was heard in time comes first), jobs that can
never start, placement, forgetting.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.events import Event
from stream_processors.domain.admission import admit, ensure_defaults
from stream_processors.domain.attempts import cancel_doomed, fire_timers, forget, settle
from stream_processors.domain.draft import Answer, Draft, Inputs, Policy
from stream_processors.domain.evolve import begin_record, prune_timers
from stream_processors.domain.hearing import expire, hear
from stream_processors.domain.placement import place
from stream_processors.domain.state import State


@dataclass(frozen=True, slots=True)
class Decided:
    """What one decision says: the record's events, and answers that need no event."""

    events: tuple[Event, ...]
    answers: tuple[Answer, ...]


def decide(state: State, inputs: Inputs, now: int, policy: Policy) -> Decided:
    """Decide one batch as record `state.seq + 1` at `now` (UTC microseconds, never backwards)."""
    begin_record(state, state.seq + 1, now)
    draft = Draft(state, policy)
    ensure_defaults(draft)
    admit(draft, inputs.commands)
    hear(draft, inputs.reports)
    expire(draft, inputs.expired)
    settle(draft)
    if inputs.fires_timers:
        fire_timers(draft)
        settle(draft)
    cancel_doomed(draft)
    place(draft)
    forget(draft)
    return Decided(tuple(draft.events), tuple(draft.answers))


def has_work(state: State, now: int, policy: Policy, *, fires_timers: bool) -> bool:
    """Whether a decision without any input would say something."""
    prune_timers(state)
    due = fires_timers and bool(state.timers) and state.timers[0].due_at <= now
    dirty = any(pool.dirty and pool.lanes for pool in state.pools.values())
    oldest = next(iter(state.ended), None)
    horizon = now - policy.retain_finished_s * 1_000_000
    old = oldest is not None and state.jobs[oldest].ended_at <= horizon
    return due or dirty or old or bool(state.doomed) or state.seq == 0
