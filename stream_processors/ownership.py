"""Who may write one shard's log, and which records count: a state machine without I/O.

`Ownership` takes assignments, log entries, outcomes and clock readings, and answers with effects
(`ownership_effects.py`): what to append, what to read, what counted, when to decide, when to stop.
It applies the log protocol for one process and one shard: claim before writing, act only on what
counted, resolve every unknown by reading. It does no I/O (`shard_driver.py` does), folds no event
and never looks into one (`domain/`). Which records count: `domain/counting.py`.

    the group's word, or the owner's silence:  FOLLOWING -> READING -> CLAIMING -> OWNING <-> RESOLVING
    lost or superseded:                        any of these -> FOLLOWING
    outcome unknown, or a wrong clock:         CLAIMING -> WAITING -> FOLLOWING

The group's word counts once: who lost or was superseded claims again only if the owner falls
silent. An owner gives signs of life and owns until another's claim counts, whatever the group says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from infra.log import Entry, Outcome, read_record
from schemas.codec import encode
from schemas.envelope import LOG_FORMAT, Claim, Consumed, Decision, EncodedEvent
from schemas.terms import Micros
from stream_processors.domain.counting import GENESIS, Chain, judge
from stream_processors.log_clock import LogClock, Reading
from stream_processors.ownership_effects import (
    Append,
    Counted,
    Discard,
    Effect,
    Owning,
    Read,
    SteppedDown,
)
from stream_processors.silence import Silence


@dataclass(frozen=True, slots=True)
class OwnershipOptions:
    """Bounds of one ownership; times in microseconds.

    `max_in_flight` decisions may be unanswered at once. A send is in doubt after
    `send_timeout_us`. After an unknown claim the next one waits `wait_us`. An owner of whom nothing
    was heard for `silence_us` (up to a quarter more, by claimant) may be followed. Every
    `recheck_us` an owner reads on, to learn of a rival though it has nothing to write. An owner
    whose clock is `far_off_us` from the broker's tries again after `clock_wait_us`.
    """

    max_in_flight: int = 2
    send_timeout_us: int = 10_000_000
    wait_us: int = 200_000
    silence_us: int = 1_500_000
    recheck_us: int = 1_000_000
    far_off_us: int = 60_000_000
    clock_wait_us: int = 30_000_000


class Phase(Enum):
    """Where an ownership stands."""

    FOLLOWING = auto()
    """Another owns, or nobody: goes on with what counts, and listens for the owner."""
    READING = auto()
    """Reads to the end, to claim there."""
    CLAIMING = auto()
    """The claim is sent; reads on until a claim of its epoch appears."""
    OWNING = auto()
    """The current claim is ours: may append."""
    RESOLVING = auto()
    """The current claim is ours, but what was sent is in doubt: reads to the end."""
    WAITING = auto()
    """The claim's outcome is unknown, or our clock is wrong: follows, and claims nothing yet."""


@dataclass(slots=True)
class _Sent:
    """A decision in flight. `after` is the chain if it counts, `offset` where it was acknowledged."""

    token: int
    value: bytes
    record: Decision
    after: Chain
    sent_us: int
    offset: int | None = None
    doubtful: bool = False


class Ownership:
    """One process's part in one shard. Every method answers with effects, to be done in order."""

    def __init__(self, owner: bytes, options: OwnershipOptions | None = None) -> None:
        """`owner`: 16 bytes, fresh for every start of a process."""
        assert len(owner) == 16, "an owner is 16 bytes"
        self.owner = owner
        self.options = options or OwnershipOptions()
        self.phase = Phase.FOLLOWING
        self.counted = GENESIS
        self._entitled = False
        self._silence = Silence(self.options.silence_us, owner)
        self._at_end = False
        self._in_flight: deque[_Sent] = deque()
        self._tokens = 0
        self._claim_token = 0
        self._claim_answered = False
        self._claim_us = 0
        self._must_reach = 0
        self._seek_back = False
        self._wake_us = 0
        self._recheck_us = 0
        self._clock: LogClock | None = None

    # What the engine asks.

    @property
    def head(self) -> Chain:
        """The chain after everything in flight: what the next decision follows."""
        return self._in_flight[-1].after if self._in_flight else self.counted

    @property
    def can_append(self) -> bool:
        """Whether a decision may be appended now."""
        return self.phase is Phase.OWNING and len(self._in_flight) < self.options.max_in_flight

    @property
    def in_flight(self) -> int:
        """How many decisions are sent and not yet known to count; 0: all state is counted."""
        return len(self._in_flight)

    def log_time(self, now: Reading) -> Micros:
        """The `at` of a decision made now; only for an owner."""
        assert self._clock is not None, "log time is the owner's"
        return self._clock.at(now)

    # Inputs.

    def restore(self, chain: Chain) -> None:
        """Begin at a snapshot's chain instead of the log's beginning; before anything else."""
        assert self.phase is Phase.FOLLOWING, "only before the first claim"
        assert self.counted == GENESIS, "only once"
        self.counted = chain

    def assigned(self, now: Reading) -> list[Effect]:
        """The group gave the shard to this process: read to the end, then claim, once."""
        del now
        self._entitled = self.phase not in (Phase.OWNING, Phase.RESOLVING)
        return self._begin_reading() if self.phase is Phase.FOLLOWING else []

    def revoked(self, now: Reading) -> list[Effect]:
        """The group means another process to claim; until that one does, an owner goes on."""
        del now
        self._entitled = False
        return []

    def heard(self, epoch: int, owner: bytes) -> None:
        """A sign of life that is no record of the log; only the current owner's says anything."""
        if (epoch, owner) == (self.counted.epoch, self.counted.owner):
            self._silence.broken()

    def deaf(self) -> None:
        """The log could not be asked: a silence that may be ours says nothing of the owner."""
        self._silence.broken()

    def append(
        self,
        events: tuple[EncodedEvent, ...],
        consumed: tuple[Consumed, ...],
        at: Micros,
        now: Reading,
    ) -> list[Effect]:
        """Send a decision made on the optimistic state; `at` from `log_time`."""
        assert self.can_append, f"may not append while {self.phase.name}"
        head = self.head
        record = Decision(
            LOG_FORMAT, head.epoch, self.owner, head.seq + 1, head.value, at, consumed, events
        )
        value = encode(record)
        after, verdict = judge(head, record, value, head.next_offset)
        assert verdict.counts, verdict
        self._tokens += 1
        self._in_flight.append(_Sent(self._tokens, value, record, after, now.monotonic_us))
        return [Append(self._tokens, value)]

    def entries(self, entries: Sequence[Entry], now: Reading) -> list[Effect]:
        """Records that were read, in order. Raises `LogStopped`."""
        effects: list[Effect] = []
        for entry in entries:
            if entry.offset >= self.counted.next_offset:
                effects += self._judge(entry, now)
        return effects

    def reached_end(self, end: int, now: Reading) -> list[Effect]:
        """All records below `end`, asked for after the last `Read`, have been fed."""
        if self.counted.next_offset < max(end, self._must_reach):
            return [self._read()]
        if self.phase is Phase.READING:
            self._at_end = True
            return self._claim(now) if self._entitled else []
        if self.phase is Phase.CLAIMING and self._claim_answered:
            return self._wait("the claim's outcome is unknown", self.options.wait_us, now)
        return self._settle() if self.phase is Phase.RESOLVING else []

    def outcome(self, outcome: Outcome, now: Reading) -> list[Effect]:
        """What became of an append."""
        del now
        if outcome.offset is not None:
            self._must_reach = max(self._must_reach, outcome.offset + 1)
        if outcome.token == self._claim_token:
            self._claim_answered = True
            return [self._read()] if self.phase is Phase.CLAIMING else []
        sent = next((sent for sent in self._in_flight if sent.token == outcome.token), None)
        if sent is None:
            return self._late_outcome(outcome)
        if outcome.error is not None:
            return self._doubt_all()
        if outcome.offset is None:
            sent.doubtful = True
            return self._resolve()
        sent.offset = outcome.offset
        return self._count_acknowledged()

    def tick(self, now: Reading) -> list[Effect]:
        """Time has passed."""
        slept = self._silence.tick(now)
        if self.phase is Phase.WAITING and now.monotonic_us >= self._wake_us:
            self.phase = Phase.FOLLOWING
        if self.phase is Phase.FOLLOWING and (self._entitled or self._silence.has_lasted):
            return self._begin_reading()
        if self.phase is Phase.READING and self._at_end:
            return self._follow_silence(now, slept=slept)
        late_us = now.monotonic_us - self.options.send_timeout_us
        if self.phase is Phase.CLAIMING and not self._claim_answered and self._claim_us < late_us:
            self._claim_answered = True
            return [self._read()]
        first = self._in_flight[0] if self._in_flight else None
        if first is not None and not first.doubtful and first.sent_us < late_us:
            return self._doubt_all()
        if self.phase is Phase.OWNING and now.monotonic_us >= self._recheck_us:
            self._recheck_us = now.monotonic_us + self.options.recheck_us
            return [self._read()]
        return []

    # Counting.

    def _judge(self, entry: Entry, now: Reading) -> list[Effect]:
        """One record that was read: own ones in flight, then everybody's that count."""
        record = read_record(entry.value)
        chain, verdict = judge(self.counted, record, entry.value, entry.offset)
        if record is None or not verdict.counts:
            self.counted = chain
            return []
        if self._in_flight and self._in_flight[0].value == entry.value:
            return self._count_first(entry.offset)
        # Another record took the place of what is in flight, which can never count now.
        effects = self._discard()
        own = record.owner == self.owner
        self.counted = chain
        if not own:
            self._silence.broken()
        effects.append(Counted(entry.offset, record, own, None, chain))
        if isinstance(record, Claim):
            return effects + self._claim_counted(record, entry, now)
        if own and self.phase in (Phase.OWNING, Phase.RESOLVING):
            self._seek_back = True
            effects += self._resolve()
        return effects

    def _count_acknowledged(self) -> list[Effect]:
        """Count what is acknowledged right behind what counted; read where there is a gap."""
        effects: list[Effect] = []
        while self._in_flight and (offset := self._in_flight[0].offset) is not None:
            if offset != self.counted.next_offset:
                return effects + self._resolve()
            effects += self._count_first(offset)
        return effects

    def _count_first(self, offset: int) -> list[Effect]:
        """The first record in flight counts at this offset."""
        sent = self._in_flight.popleft()
        assert sent.record.prev == self.counted.value, "what is in flight follows what counted"
        self.counted = replace(sent.after, next_offset=offset + 1)
        return [Counted(offset, sent.record, True, sent.token, self.counted)]

    def _discard(self) -> list[Effect]:
        """Nothing in flight will count: drop it, and let the engine fold anew."""
        if not self._in_flight:
            return []
        self._in_flight.clear()
        self._seek_back = True
        return [Discard(self.counted)]

    # Doubt.

    def _read(self) -> Read:
        return Read(self.counted.next_offset)

    def _resolve(self) -> list[Effect]:
        """Read to the end before doing anything else."""
        if self.phase is Phase.OWNING:
            self.phase = Phase.RESOLVING
        return [self._read()]

    def _doubt_all(self) -> list[Effect]:
        for sent in self._in_flight:
            sent.doubtful = True
        return self._resolve()

    def _late_outcome(self, outcome: Outcome) -> list[Effect]:
        """An answer about what was read already, or discarded: the latter may yet have counted."""
        if outcome.offset is None or outcome.offset < self.counted.next_offset:
            return []
        return self._resolve()

    def _settle(self) -> list[Effect]:
        """The log has been read to its end: go on if all in doubt has counted, else start over."""
        stands = self.counted.next_offset
        missing = any(
            sent.doubtful or (sent.offset is not None and sent.offset < stands)
            for sent in self._in_flight
        )
        effects = self._discard() if missing else []
        self.phase = Phase.OWNING
        return effects + self._seek()

    def _seek(self) -> list[Effect]:
        if not self._seek_back:
            return []
        self._seek_back = False
        return [Owning(self.counted.epoch, self.counted)]

    # Claims.

    def _begin_reading(self) -> list[Effect]:
        self.phase = Phase.READING
        self._at_end = False
        return [self._read()]

    def _follow_silence(self, now: Reading, *, slept: bool) -> list[Effect]:
        """The end was read: claim if it showed no life, and the answer did not keep us waiting."""
        if slept:
            self._silence.broken()
        if self._entitled or self._silence.has_lasted:
            return self._claim(now)
        self.phase = Phase.FOLLOWING
        return []

    def _claim(self, now: Reading) -> list[Effect]:
        claim = Claim(LOG_FORMAT, self.counted.epoch + 1, self.owner, Micros(now.wall_us))
        self._tokens += 1
        self._claim_token = self._tokens
        self._claim_answered = False
        self._claim_us = now.monotonic_us
        self.phase = Phase.CLAIMING
        return [Append(self._claim_token, encode(claim))]

    def _claim_counted(self, claim: Claim, entry: Entry, now: Reading) -> list[Effect]:
        """A new epoch has begun: ours, or the end of ours."""
        own = claim.owner == self.owner
        if self.phase is Phase.CLAIMING:
            self._entitled = False
            return self._own(claim, entry, now) if own else self._follow("lost the claim")
        if self.phase in (Phase.OWNING, Phase.RESOLVING):
            return self._follow("superseded")
        # A claim of ours that was given up has ended another's time: then it is for us to go on.
        self._entitled = self._entitled or own
        return []

    def _own(self, claim: Claim, entry: Entry, now: Reading) -> list[Effect]:
        """Our claim counts. A good clock has it appended after it was made, and before now.

        Log time begins at the claim's, which the broker has seen: this host's wall clock may have
        been stepped since.
        """
        wall_us = claim.at + now.monotonic_us - self._claim_us
        off_us = max(claim.at - entry.at, entry.at - wall_us)
        if off_us > self.options.far_off_us:
            self._silence.presumed()
            reason = f"this host's clock is {off_us / 1e6:.0f} s off the broker's: set it right"
            return self._wait(reason, self.options.clock_wait_us, now)
        self.phase = Phase.OWNING
        self._seek_back = False
        self._clock = LogClock(self.counted.at, replace(now, wall_us=wall_us))
        self._recheck_us = now.monotonic_us + self.options.recheck_us
        return [Owning(claim.epoch, self.counted)]

    def _wait(self, reason: str, pause_us: int, now: Reading) -> list[Effect]:
        self.phase = Phase.WAITING
        self._wake_us = now.monotonic_us + pause_us
        return [SteppedDown(reason)]

    def _follow(self, reason: str) -> list[Effect]:
        self.phase = Phase.FOLLOWING
        return [SteppedDown(reason)]
