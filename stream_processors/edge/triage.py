"""What becomes of a dead letter: a redrive by a rule at a moment, or nothing, with the reason. Pure.

Letters are counted by fingerprint over a window of their own times. A burst of one fingerprint opens
its circuit: nothing of it is redriven until it closes, what was waiting is given up, and the letters
are left to people. How often a job was redriven by a rule stands in its causation id, so that the
letter alone tells. Time is an argument; nothing here reads a clock or a topic.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heappop, heappush

from schemas.public import DeadLetter, ParkedInput
from schemas.terms import FailureClass
from stream_processors.domain.redrive import AS_IT_WAS, Changes

SECOND_US = 1_000_000
_CAUSE = re.compile(r"triage:(?P<rule>[a-z0-9-]+):(?P<times>[0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Rule:
    """Which letters are redriven by themselves; "" and () match anything."""

    name: str
    failures: tuple[FailureClass, ...] = ()
    fingerprint: str = ""
    tenant: str = ""
    cluster: str = ""
    queue: str = ""
    delay_us: int = 60 * SECOND_US
    max_times: int = 1
    changes: Changes = AS_IT_WAS


@dataclass(frozen=True, slots=True)
class TriagePolicy:
    """The operator's rules, and when a burst stops them. Times are microseconds."""

    rules: tuple[Rule, ...] = ()
    burst_letters: int = 20
    burst_window_us: int = 60 * SECOND_US
    circuit_us: int = 900 * SECOND_US
    act_within_us: int = 21_600 * SECOND_US


class Verdict(StrEnum):
    """What was decided of a letter."""

    REDRIVE = "redrive"
    NO_RULE = "no_rule"
    SPENT = "spent"
    CIRCUIT_OPEN = "circuit_open"
    TOO_OLD = "too_old"


@dataclass(frozen=True, slots=True)
class Redrive:
    """A letter to be run again at a moment (UTC microseconds), for the `times`th time by its rule."""

    due_at: int
    letter: DeadLetter
    rule: Rule
    times: int

    @property
    def causation_id(self) -> str:
        """What the new job says of why it is there."""
        return f"triage:{self.rule.name}:{self.times}"


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on a letter, and the rule where one matched."""

    verdict: Verdict
    rule: str = ""


@dataclass(slots=True)
class Triage:
    """What is known of the letters so far. `take` each letter; ask for what is `due`."""

    policy: TriagePolicy
    _times: dict[str, deque[int]] = field(default_factory=dict)
    _windows: dict[int, Counter[str]] = field(default_factory=dict)
    _open_until: dict[str, int] = field(default_factory=dict)
    _waiting: list[tuple[int, str, Redrive]] = field(default_factory=list)

    def take(self, letter: DeadLetter | ParkedInput, now: int) -> Decision:
        """Count a letter and decide what becomes of it; `now` is UTC microseconds."""
        fingerprint = fingerprint_of(letter)
        self._count(fingerprint, letter.at)
        rule = None
        if isinstance(letter, DeadLetter):
            rule = next((one for one in self.policy.rules if matches(one, letter)), None)
        if rule is None or isinstance(letter, ParkedInput):
            return Decision(Verdict.NO_RULE)
        times = times_redriven(letter, rule) + 1
        if times > rule.max_times:
            return Decision(Verdict.SPENT, rule.name)
        if letter.at < now - self.policy.act_within_us:
            return Decision(Verdict.TOO_OLD, rule.name)
        if self.is_open(fingerprint, letter.at):
            return Decision(Verdict.CIRCUIT_OPEN, rule.name)
        redrive = Redrive(letter.at + rule.delay_us, letter, rule, times)
        heappush(self._waiting, (redrive.due_at, letter.job_id, redrive))
        return Decision(Verdict.REDRIVE, rule.name)

    def due(self, now: int) -> list[tuple[Redrive, Verdict]]:
        """Redrives whose moment has come, with `CIRCUIT_OPEN` where a burst has stopped them."""
        found = []
        while self._waiting and self._waiting[0][0] <= now:
            redrive = heappop(self._waiting)[2]
            is_stopped = self.is_open(redrive.letter.fingerprint, redrive.due_at)
            found.append((redrive, Verdict.CIRCUIT_OPEN if is_stopped else Verdict.REDRIVE))
        return found

    def put_back(self, redrive: Redrive) -> None:
        """It could not be sent: it is due again at once."""
        heappush(self._waiting, (redrive.due_at, redrive.letter.job_id, redrive))

    def is_open(self, fingerprint: str, at: int) -> bool:
        """Whether a burst has stopped redrives of what looks like this."""
        return at < self._open_until.get(fingerprint, 0)

    def open_circuits(self, now: int) -> list[str]:
        """Fingerprints whose circuit is open."""
        return sorted(name for name, until in self._open_until.items() if now < until)

    def counts(self, now: int) -> dict[str, int]:
        """Letters of the window that `now` lies in, by fingerprint."""
        return dict(self._windows.get(now // self.policy.burst_window_us, {}))

    def waiting(self) -> int:
        """Redrives whose moment has not come."""
        return len(self._waiting)

    def forget(self, now: int) -> None:
        """Let go of windows that are over and of what went quiet: there may be ever new ones."""
        begin = now - self.policy.burst_window_us
        self._times = {name: ats for name, ats in self._times.items() if ats[-1] > begin}
        self._open_until = {name: at for name, at in self._open_until.items() if now < at}
        self._windows = {
            number: counts
            for number, counts in self._windows.items()
            if (number + 1) * self.policy.burst_window_us > now
        }

    def _count(self, fingerprint: str, at: int) -> None:
        """One more of its window; a burst opens the circuit, or keeps it open."""
        self._windows.setdefault(at // self.policy.burst_window_us, Counter())[fingerprint] += 1
        ats = self._times.setdefault(fingerprint, deque(maxlen=self.policy.burst_letters))
        ats.append(max(at, ats[-1]) if ats else at)
        if len(ats) == ats.maxlen and ats[-1] - ats[0] < self.policy.burst_window_us:
            self._open_until[fingerprint] = ats[-1] + self.policy.circuit_us


def fingerprint_of(letter: DeadLetter | ParkedInput) -> str:
    """What a letter looks like; a parked input like others with the same problem."""
    return letter.fingerprint if isinstance(letter, DeadLetter) else f"input/{letter.code}"


def matches(rule: Rule, letter: DeadLetter) -> bool:
    """Whether a rule speaks of this letter."""
    named = (
        (rule.fingerprint, letter.fingerprint),
        (rule.tenant, letter.tenant),
        (rule.cluster, letter.cluster),
        (rule.queue, letter.queue),
    )
    by_name = all(wanted in ("", found) for wanted, found in named)
    return by_name and (not rule.failures or letter.failure in rule.failures)


def times_redriven(letter: DeadLetter, rule: Rule) -> int:
    """How often this rule has redriven the work already: the job says so itself."""
    cause = _CAUSE.fullmatch(letter.causation_id)
    return int(cause["times"]) if cause is not None and cause["rule"] == rule.name else 0
