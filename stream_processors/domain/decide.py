"""`decide(state, inputs, now)`: one batch of inputs becomes the events of one record.

Pure: time and chance arrive as arguments. The state is advanced by exactly the events answered,
through `evolve` alone, so the caller does not fold them again. Replay never runs this: it may be
as clever as it likes and may change between releases. The steps, in order: commands, reports,
lost nodes, what follows for attempts, timers (what was heard in time comes first), jobs that can
never start, placement, forgetting.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.events import Event, InputsParked
from stream_processors.domain.admission import admit
from stream_processors.domain.attempts import cancel_doomed, fire_timers, forget, settle
from stream_processors.domain.draft import Answer, Draft, Inputs, Policy, Unreadable
from stream_processors.domain.evolve import begin_record, prune_timers
from stream_processors.domain.hearing import expire, hear
from stream_processors.domain.placement import place
from stream_processors.domain.state import State
from stream_processors.domain.steering import ensure_defaults


@dataclass(frozen=True, slots=True)
class Decided:
    """What one decision says: the record's events, and answers that need no event.

    `unsettled` are jobs that must yet move on, for which the record had no room: the next decision
    goes on with them (`Inputs.unsettled`), at once.
    """

    events: tuple[Event, ...]
    answers: tuple[Answer, ...]
    unsettled: tuple[int, ...] = ()


def decide(state: State, inputs: Inputs, now: int, policy: Policy) -> Decided:
    """Decide one batch as record `state.seq + 1` at `now` (UTC microseconds, never backwards)."""
    begin_record(state, state.seq + 1, now)
    draft = Draft(state, policy)
    ensure_defaults(draft)
    admit(draft, inputs.commands)
    hear(draft, inputs.reports)
    _park(draft, inputs)
    expire(draft, inputs.expired)
    draft.touched.update(dict.fromkeys(inputs.unsettled))
    if not inputs.fill_record:
        _follow_up(draft, fires_timers=inputs.fires_timers)
    return Decided(tuple(draft.events), tuple(draft.answers), tuple(draft.touched))


def _follow_up(draft: Draft, *, fires_timers: bool) -> None:
    """What follows from the inputs and from time, as far as the record has room."""
    settle(draft)
    if draft.touched:
        return  # what was heard comes before what time asks for, and before new placements
    if fires_timers:
        fire_timers(draft)
        settle(draft)
    cancel_doomed(draft)
    place(draft)
    forget(draft)


def unsettled_jobs(state: State) -> tuple[int, ...]:
    """Jobs that may have to move on, as far as the state tells: for an owner that begins."""
    return tuple(job.no for job in state.jobs.values() if job.tasks)


def _park(draft: Draft, inputs: Inputs) -> None:
    """What cannot be read goes to the dead letters with its bytes."""
    found = [place.command for place in inputs.commands] + [report for _, report in inputs.reports]
    parked = [
        each.record for each in found if isinstance(each, Unreadable) and each.record is not None
    ]
    if parked:
        draft.emit(InputsParked(parked))


def has_work(state: State, now: int, policy: Policy, *, fires_timers: bool) -> bool:
    """Whether a decision without any input would say something."""
    prune_timers(state)
    due = fires_timers and bool(state.timers) and state.timers[0].due_at <= now
    dirty = any(pool.dirty and pool.lanes for pool in state.pools.values())
    oldest = next(iter(state.ended), None)
    horizon = now - policy.retain_finished_s * 1_000_000
    old = oldest is not None and state.jobs[oldest].ended_at <= horizon
    return due or dirty or old or bool(state.doomed) or state.seq == 0
