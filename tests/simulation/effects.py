"""What an engine must send because of a record of its own that counts: checked where it is said.

Mail that nobody confirms is said again, so a missing word would only delay things and hide; here
it is found at once.
"""

from __future__ import annotations

from infra.follow import decode_events
from schemas.envelope import Decision
from schemas.events import TasksPlaced
from stream_processors.engine import Effect, SendMail, Signal
from stream_processors.log_clock import Reading
from stream_processors.ownership_effects import Counted
from stream_processors.shard_runner import ShardRunner
from tests.simulation.world import Violation

PLACED = TasksPlaced.__name__


def watch_effects(runner: ShardRunner, names: dict[int, str]) -> None:
    """From now on, every own record that this runner is told to count must have its effects."""
    engine = runner.engine
    handle = engine.handle

    def watched(signal: Signal, now: Reading) -> list[Effect]:
        effects = handle(signal, now)
        if isinstance(signal, Counted) and signal.own and isinstance(signal.record, Decision):
            _check(signal.record, signal.offset, effects, names)
        return effects

    engine.handle = watched  # type: ignore[method-assign]  # this instance is watched


def _check(record: Decision, offset: int, effects: list[Effect], names: dict[int, str]) -> None:
    if not any(names[event.schema_id] == PLACED for event in record.events):
        return
    sent = {
        key
        for effect in effects
        if isinstance(effect, SendMail)
        for mail in effect.mail
        for key in zip(mail.starts.job_nos, mail.starts.attempts, mail.starts.tasks, strict=True)
    }
    for event in decode_events(record, offset):
        if isinstance(event, TasksPlaced):
            placed = set(zip(event.job_nos, event.attempts, event.tasks, strict=True))
            if not placed <= sent:
                raise Violation(
                    "what counts has its effects", f"{sorted(placed - sent)} of seq {record.seq}"
                )
