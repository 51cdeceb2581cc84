"""What can go wrong where: steps of the protocol, kinds of faults, and a seed's plan of them.

A step is a place where a process talks with the world. Its way of talking says which faults can
come there at all (`WAYS`); each pair that can is a cell of the coverage table. A plan draws cells
alike, however rare the step, and says at which of its occurrences the fault comes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from math import exp, log
from random import Random


class Fault(Enum):
    """What goes wrong at a step."""

    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"
    FREEZE = "pause"
    DELAY = "delay"
    DUPLICATE = "duplicate"
    HOLD = "land later"
    LOSE_ANSWER = "answer lost"
    NO_PLACE = "answer vague"
    ERROR = "error"
    CUT = "partition"
    LAG = "reorder"


class Way(Enum):
    """How a process talks with the world at a step."""

    APPEND = "a record for the shard's log, whose place matters"
    SEND = "a record for a topic; its outcome comes later"
    CALL = "a request that changes a server, and its answer"
    REPEATABLE = "such a request that a client library may say twice"
    READ = "a question; nothing changes by it"
    POLL = "reading a topic's partitions in turn"
    FOLLOW = "reading the logs in turn, each record once and in order"
    LOCAL = "something on the process's own machine"


_PROCESS = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.FREEZE, Fault.DELAY)
_CHANGE = (*_PROCESS, Fault.HOLD, Fault.LOSE_ANSWER, Fault.ERROR, Fault.CUT)
WAYS: dict[Way, tuple[Fault, ...]] = {
    Way.APPEND: (*_CHANGE, Fault.DUPLICATE, Fault.NO_PLACE),
    Way.SEND: (*_CHANGE, Fault.DUPLICATE),
    Way.CALL: _CHANGE,
    Way.REPEATABLE: (*_CHANGE, Fault.DUPLICATE),
    Way.READ: (*_PROCESS, Fault.ERROR, Fault.CUT),
    Way.POLL: (*_PROCESS, Fault.ERROR, Fault.CUT, Fault.DUPLICATE, Fault.LAG),
    Way.FOLLOW: (*_PROCESS, Fault.ERROR, Fault.CUT, Fault.LAG),
    Way.LOCAL: _PROCESS,
}
WHY_NOT: dict[Way, dict[Fault, str]] = {
    Way.APPEND: {Fault.LAG: "a send goes to one partition"},
    Way.SEND: {
        Fault.LAG: "a send goes to one partition",
        Fault.NO_PLACE: "nobody looks at the place of this record",
    },
    Way.CALL: {
        Fault.LAG: "there are no partitions",
        Fault.NO_PLACE: "the answer names no place",
        Fault.DUPLICATE: "one connection, one statement: nothing says it twice",
    },
    Way.REPEATABLE: {
        Fault.LAG: "there are no partitions",
        Fault.NO_PLACE: "the answer names no place",
    },
    Way.READ: {
        Fault.LAG: "there are no partitions",
        Fault.NO_PLACE: "the answer is a plain one",
        Fault.DUPLICATE: "asking twice changes nothing",
        Fault.HOLD: "a late question changes nothing",
        Fault.LOSE_ANSWER: "nothing changed: the same as an error",
    },
    Way.POLL: {
        Fault.NO_PLACE: "records come with their places",
        Fault.HOLD: "the same as reorder",
        Fault.LOSE_ANSWER: "nothing changed: the same as an error",
    },
    Way.FOLLOW: {
        Fault.NO_PLACE: "records come with their places",
        Fault.HOLD: "the same as reorder",
        Fault.LOSE_ANSWER: "nothing changed: the same as an error",
        Fault.DUPLICATE: "the reader keeps its own place and drops what lies before it",
    },
    Way.LOCAL: dict.fromkeys(
        (
            Fault.DUPLICATE,
            Fault.HOLD,
            Fault.LOSE_ANSWER,
            Fault.NO_PLACE,
            Fault.ERROR,
            Fault.CUT,
            Fault.LAG,
        ),
        "no network between a process and its own machine",
    ),
}

KAFKA, POSTGRES, REDIS, NOBODY = "kafka", "postgres", "redis", ""
STEPS: dict[str, tuple[Way, str, int]] = {
    "read before claim": (Way.READ, KAFKA, 4),
    "claim": (Way.APPEND, KAFKA, 3),
    "read own claim": (Way.READ, KAFKA, 6),
    "read after doubt": (Way.READ, KAFKA, 4),
    "recheck": (Way.READ, KAFKA, 20),
    "refold": (Way.READ, KAFKA, 2),
    "append": (Way.APPEND, KAFKA, 25),
    "append placement": (Way.APPEND, KAFKA, 25),
    "append gang release": (Way.APPEND, KAFKA, 4),
    "append retry": (Way.APPEND, KAFKA, 8),
    "append node lost": (Way.APPEND, KAFKA, 2),
    "acknowledgement": (Way.LOCAL, NOBODY, 60),
    "poll inputs": (Way.POLL, KAFKA, 150),
    "follow owner": (Way.POLL, KAFKA, 150),
    "trim inputs": (Way.CALL, KAFKA, 8),
    "join group": (Way.READ, KAFKA, 60),
    "dispatch starts": (Way.SEND, KAFKA, 30),
    "dispatch releases": (Way.SEND, KAFKA, 4),
    "dispatch stops": (Way.SEND, KAFKA, 4),
    "dispatch answers": (Way.SEND, KAFKA, 4),
    "probe": (Way.SEND, KAFKA, 5),
    "sign of life": (Way.SEND, KAFKA, 60),
    "save snapshot": (Way.CALL, KAFKA, 5),
    "load snapshot": (Way.READ, KAFKA, 4),
    "seek dispatch": (Way.READ, KAFKA, 4),
    "poll dispatch": (Way.POLL, KAFKA, 60),
    "register": (Way.SEND, KAFKA, 5),
    "heartbeat": (Way.SEND, KAFKA, 80),
    "report": (Way.SEND, KAFKA, 60),
    "journal": (Way.LOCAL, NOBODY, 4),
    "prepare task": (Way.LOCAL, NOBODY, 4),
    "start task": (Way.LOCAL, NOBODY, 30),
    "stop task": (Way.LOCAL, NOBODY, 4),
    "kill all": (Way.LOCAL, NOBODY, 2),
    "set deadline": (Way.LOCAL, NOBODY, 80),
    "clear leftovers": (Way.LOCAL, NOBODY, 2),
    "follow logs": (Way.FOLLOW, KAFKA, 150),
    "find end": (Way.READ, KAFKA, 6),
    "audit position": (Way.READ, POSTGRES, 3),
    "audit rows": (Way.CALL, POSTGRES, 60),
    "audit commit": (Way.CALL, POSTGRES, 50),
    "hot position": (Way.READ, REDIS, 20),
    "hot store": (Way.REPEATABLE, REDIS, 50),
    "hot refill": (Way.REPEATABLE, REDIS, 3),
    "hot flip": (Way.REPEATABLE, REDIS, 3),
    "relay position": (Way.READ, KAFKA, 2),
    "publish": (Way.REPEATABLE, KAFKA, 60),
    "move relay": (Way.REPEATABLE, KAFKA, 20),
    "submit": (Way.SEND, KAFKA, 30),
    "cancel": (Way.SEND, KAFKA, 4),
}
"""Way, server, and about how often the step comes in a run."""

CELLS = [(step, fault) for step, (way, _, _) in STEPS.items() for fault in WAYS[way]]
Theme = tuple[tuple[tuple[str, Fault], ...], tuple[str, ...]]
THEMES: dict[str, Theme] = {
    "any weather": ((), ()),
    "decisions that come late": (
        (("append", Fault.HOLD), ("append placement", Fault.HOLD), ("append retry", Fault.HOLD)),
        ("late copies of log records",),
    ),
    "starts that come late": (
        (("dispatch starts", Fault.HOLD),),
        ("late copies of dispatches", "suspend of a host"),
    ),
    "reports that come late": (
        (("report", Fault.DUPLICATE), ("report", Fault.HOLD), ("report", Fault.ERROR)),
        ("late copies of reports",),
    ),
    "reports that are lost": (
        (("report", Fault.ERROR), ("report", Fault.CUT)),
        ("partition of a process",),
    ),
    "clocks that are wrong": ((), ("wall clock stepped", "journal of an agent lost")),
    "an owner that hears late": (
        (*(("poll inputs", Fault.LAG),) * 3, ("poll inputs", Fault.CUT)),
        ("pause of a process",),
    ),
    "an agent that hears late": (
        (("poll dispatch", Fault.LAG), ("poll dispatch", Fault.CUT), ("register", Fault.HOLD)),
        ("late copies of dispatches",),
    ),
}
"""What goes wrong again and again in a seed: some harm needs more than one misfortune of a kind."""
AT_ANY_TIME = (
    "crash of a process",
    "pause of a process",
    "crash of a host",
    "suspend of a host",
    "partition of a process",
    "second writer of a view",
    "rebalance of the group",
    "tail of redis lost",
    "redis emptied",
    "wall clock stepped",
    "journal of an agent lost",
    "late copies of dispatches",
    "late copies of reports",
    "late copies of commands",
    "late copies of log records",
)
"""What comes at moments, not at steps."""


@dataclass
class Plan:
    """The faults of one seed at steps, and which of them came."""

    chance: Random
    is_on: bool = True
    theme: str = ""
    came: Counter[tuple[str, str]] = field(default_factory=Counter)
    _due: dict[str, dict[int, Fault]] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)
    _burst: str = ""

    def __post_init__(self) -> None:
        chance = self.chance
        self.theme = chance.choice(list(THEMES))
        cells = chance.choices(CELLS, k=chance.randint(14, 24))
        themed = THEMES[self.theme][0]
        cells += chance.choices(themed, k=chance.randint(9, 15)) if themed else []
        for step, fault in cells:  # early ones are dense: there the protocol's steps are
            most = STEPS[step][2]
            nth = int(exp(chance.random() * log(most))) if most > 1 else 1
            self._due.setdefault(step, {})[nth] = fault

    def draw(self, step: str, who: str) -> Fault | None:
        """What goes wrong at this occurrence of the step."""
        seen = self._seen[step] = self._seen.get(step, 0) + 1
        if not self.is_on:
            return None
        due = self._due.get(step)
        fault = due.pop(seen, None) if due else None
        if fault is None and self._burst == who:
            fault = self.chance.choice(WAYS[STEPS[step][0]])
        if fault is None:
            return None
        # Misfortunes do not come alone.
        self._burst = who if self.chance.random() < 0.35 else ""
        self.came[step, fault.value] += 1
        return fault

    def happen(self, what: str) -> None:
        """Something of `AT_ANY_TIME` came."""
        self.came[what, "at any time"] += 1

    def server_of(self, step: str) -> str:
        """Whom the step talks to."""
        return STEPS[step][1]

    def occurrences(self) -> dict[str, int]:
        """How often each step came."""
        return dict(self._seen)
