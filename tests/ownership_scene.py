"""One ownership with its log as a list, and a hand that moves records, outcomes and time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from infra.log import Entry, Outcome
from schemas.codec import encode
from schemas.envelope import LOG_FORMAT, Claim, Consumed, Input
from schemas.terms import Micros
from stream_processors.log_clock import Reading
from stream_processors.ownership import Ownership
from stream_processors.ownership_effects import Append, Effect, Read

SECOND = 1_000_000
WALL = 1_800_000_000 * SECOND
ANNE, BERT = b"a" * 16, b"b" * 16
T = TypeVar("T")


class Scene:
    """An ownership with its log as a list, and a hand that moves records, outcomes and time."""

    def __init__(self) -> None:
        self.anne = Ownership(ANNE)
        self.log: list[bytes] = []
        self.passed = 0
        self.clock_off = 0
        self.consumed = 0

    def now(self) -> Reading:
        return Reading(self.passed, WALL + self.passed + self.clock_off)

    def land(self, value: bytes) -> int:
        self.log.append(value)
        return len(self.log) - 1

    def read(self) -> list[Effect]:
        """Feed the whole log and its end, as a driver would after `Read`."""
        at = Micros(WALL + self.passed)
        entries = [Entry(offset, value, at) for offset, value in enumerate(self.log)]
        effects = self.anne.entries(entries, self.now())
        return effects + self.anne.reached_end(len(self.log), self.now())

    def claim(self) -> Append:
        self.anne.assigned(self.now())
        return one(self.read(), Append)

    def own(self) -> list[Effect]:
        claim = self.claim()
        offset = self.land(claim.value)
        assert self.anne.outcome(Outcome(claim.token, offset), self.now()) == [Read(0)]
        return self.read()

    def decide(self) -> Append:
        start = self.anne.head.consumed.commands
        consumed = (Consumed(Input.COMMANDS, start, start + 1),)
        at = self.anne.log_time(self.now())
        return one(self.anne.append((), consumed, at, self.now()), Append)

    def acknowledge(self, sent: Append, offset: int | None) -> list[Effect]:
        return self.anne.outcome(Outcome(sent.token, offset), self.now())

    def fail(self, sent: Append) -> list[Effect]:
        return self.anne.outcome(Outcome(sent.token, None, "timed out"), self.now())

    def listen(self, seconds: float) -> list[Effect]:
        """Time passes in turns of a process that is awake."""
        effects: list[Effect] = []
        for _ in range(round(seconds * 10)):
            self.passed += SECOND // 10
            effects += self.anne.tick(self.now())
        return effects

    def follow(self) -> list[Effect]:
        """Hear of the log what is new, without asking for its end."""
        at = Micros(WALL + self.passed)
        entries = [Entry(offset, value, at) for offset, value in enumerate(self.log)]
        return self.anne.entries(entries, self.now())

    def rival_claims(self) -> None:
        epoch = self.anne.counted.epoch + 1
        self.land(encode(Claim(LOG_FORMAT, epoch, BERT, Micros(WALL))))


def one(effects: Sequence[object], kind: type[T]) -> T:
    (found,) = [effect for effect in effects if isinstance(effect, kind)]
    return found


def kinds(effects: Sequence[object]) -> list[str]:
    return [type(effect).__name__ for effect in effects]
