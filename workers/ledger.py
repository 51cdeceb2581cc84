"""What this incarnation was given, each thing once: starts, releases, stops and tombstones. Pure.

A (job, attempt, task) seen before is answered with its present state. A stop that comes before its
start leaves a tombstone, so that the start, when it comes, is answered as ended. What was placed
below the floor is forgotten, and starts below it are refused. Reports go to the outbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from schemas.terms import FailureClass, TaskState
from workers.executor import Cause, Ended, Prepared, Rendezvous, Started, TaskKey, TaskOrder
from workers.messages import Effect, Moment, Note, Prepare, Start, Stop
from workers.orders import Unreadable
from workers.outbox import MESSAGE_MAX, Outbox, Row

NS = 1_000_000_000

FAILURES = {
    Cause.NOT_FOUND: FailureClass.IMAGE_ERROR,
    Cause.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
    Cause.LEASE: FailureClass.NODE_LOST,
    Cause.BROKEN: FailureClass.INFRASTRUCTURE,
}
"""What an end is called by its evidence; EXITED goes by the code, STOPPED by the stop's reason."""


class Phase(IntEnum):
    """How far a task has come on this node."""

    PREPARING = 0
    READY = 1
    STARTING = 2
    RUNNING = 3
    ENDED = 4


@dataclass(slots=True)
class Held:
    """One task of this incarnation; `order` is None for what never was, `said` its last report."""

    seq: int
    phase: Phase
    order: TaskOrder | None = None
    said: Row | None = None
    stop_by_ns: int | None = None
    stop_failure: FailureClass = FailureClass.CANCELLED
    stop_reason: str = ""


class Ledger:
    """The tasks of one incarnation. Methods answer with effects on the executor."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._incarnation = 0
        self._held: dict[TaskKey, Held] = {}
        self._floor = 0

    def reset(self, incarnation: int) -> None:
        """A new incarnation begins: nothing was given to it, and nothing of the old lives."""
        assert not self.living(), "an incarnation begins only when all of the last one is dead"
        self._incarnation = incarnation
        self._held.clear()
        self._floor = 0

    def living(self) -> int:
        """How many tasks have not ended."""
        return sum(held.phase is not Phase.ENDED for held in self._held.values())

    def max_grace_s(self) -> int:
        """The longest grace of a task that has not ended."""
        return max((held.order.grace_s for held in self._held.values() if held.order), default=0)

    def raise_floor(self, floor: int) -> list[Effect]:
        """Forget what was placed below; whatever of it still lives is an orphan and is killed."""
        self._floor = max(self._floor, floor)
        effects: list[Effect] = []
        for key, held in list(self._held.items()):
            if held.seq >= self._floor:
                continue
            if held.phase is Phase.ENDED:
                del self._held[key]
            elif held.stop_by_ns is None or held.stop_by_ns > 0:
                held.stop_by_ns = 0
                held.stop_reason = "the engine no longer knows of it"
                effects += [Note(f"task {key} lives below the floor: killed"), Stop(key, 0)]
        return effects

    def start(self, seq: int, order: TaskOrder | Unreadable, now: Moment) -> list[Effect]:
        """Take a start once: run it, prepare it, or end it if it cannot be read."""
        if order.key in self._held:
            self._repeat(self._held[order.key])
            return []
        if seq < self._floor:
            return [Note(f"start of task {order.key} refused: placed below the floor")]
        if isinstance(order, Unreadable):
            held = self._held[order.key] = Held(seq, Phase.ENDED)
            self._report_end(order.key, held, now, (0, order.failure, order.message))
            return []
        if order.gang:
            self._held[order.key] = Held(seq, Phase.PREPARING, order)
            return [Prepare(order)]
        self._held[order.key] = Held(seq, Phase.STARTING, order)
        return [Start(order, None)]

    def turn_away(self, seq: int, key: TaskKey, now: Moment) -> None:
        """Answer a start that came while the node drains: ended before it began."""
        if key in self._held:
            self._repeat(self._held[key])
        elif seq >= self._floor:
            held = self._held[key] = Held(seq, Phase.ENDED)
            message = "not started: the node is draining"
            self._report_end(key, held, now, (0, FailureClass.PREEMPTED, message))

    def release(self, key: TaskKey, endpoint: str) -> list[Effect]:
        """Its gang's barrier opened: start, once."""
        held = self._held.get(key)
        if held is None or held.order is None or held.stop_by_ns is not None:
            return []
        if held.phase is Phase.READY:
            held.phase = Phase.STARTING
            return [Start(held.order, Rendezvous(endpoint, self._local_rank(key)))]
        self._repeat(held)
        return []

    def stop(self, key: TaskKey, seq: int, grace_s: float, why: str, now: Moment) -> list[Effect]:
        """End it with grace; what never started becomes a tombstone. `why` names a failure class.

        A stop that is said again shortens the grace but never prolongs it.
        """
        held = self._held.get(key)
        if held is None:
            held = Held(seq, Phase.ENDED)
            if seq >= self._floor:
                self._held[key] = held
            message = f"stopped before it started ({why})"
            self._report_end(key, held, now, (0, _stop_failure(why), message))
            return []
        if held.phase is Phase.ENDED:
            self._repeat(held)
            return []
        stop_by_ns = now.boot_ns + int(grace_s * NS)
        if held.stop_by_ns is not None and held.stop_by_ns <= stop_by_ns:
            return []
        if held.stop_by_ns is None:
            held.stop_failure, held.stop_reason = _stop_failure(why), why
        held.stop_by_ns = stop_by_ns
        return [Stop(key, grace_s)]

    def stop_all(self, why: str, now: Moment, *, graceful: bool) -> list[Effect]:
        """Stop whatever lives, each with its own grace or with none."""
        effects: list[Effect] = []
        for key, held in list(self._held.items()):
            if held.phase is not Phase.ENDED and held.order is not None:
                grace_s = held.order.grace_s if graceful else 0
                effects += self.stop(key, held.seq, grace_s, why, now)
        return effects

    def lose_all(self, why: str) -> None:
        """The incarnation is over: whatever is killed now ends as node_lost."""
        for held in self._held.values():
            if held.phase is not Phase.ENDED:
                held.stop_by_ns = 0
                held.stop_failure, held.stop_reason = FailureClass.NODE_LOST, why

    def prepared(self, news: Prepared, now: Moment) -> None:
        """A gang member is ready for its barrier."""
        held = self._held[news.key]
        held.phase = Phase.READY
        row = Row(self._incarnation, news.key, TaskState.READY, now.wall_us, endpoint=news.endpoint)
        self._say(held, row)

    def started(self, news: Started, now: Moment) -> None:
        """A task's program runs."""
        held = self._held[news.key]
        held.phase = Phase.RUNNING
        self._say(held, Row(self._incarnation, news.key, TaskState.STARTED, now.wall_us))

    def ended(self, news: Ended, now: Moment) -> None:
        """A task is surely dead."""
        held = self._held[news.key]
        assert held.phase is not Phase.ENDED, news
        held.phase = Phase.ENDED
        failure = _failure(news, held)
        message = "" if failure is FailureClass.NONE else _message(news, held)
        self._report_end(news.key, held, now, (news.exit_code, failure, message))
        held.order = None

    def _local_rank(self, key: TaskKey) -> int:
        """This member's place among its gang's members on this node."""
        return sum(
            other.job_no == key.job_no and other.attempt == key.attempt and other.task < key.task
            for other in self._held
        )

    def _report_end(
        self, key: TaskKey, held: Held, now: Moment, end: tuple[int, FailureClass, str]
    ) -> None:
        exit_code, failure, message = end
        row = Row(self._incarnation, key, TaskState.ENDED, now.wall_us, exit_code, failure, message)
        self._say(held, row)

    def _say(self, held: Held, row: Row) -> None:
        held.said = row
        self._outbox.add(row)

    def _repeat(self, held: Held) -> None:
        """Say its present state again; nothing while it is on its way to the next one."""
        if held.said is not None:
            self._outbox.add(held.said)


def _stop_failure(why: str) -> FailureClass:
    """The failure class that a stop's reason names; CANCELLED if it names none."""
    known = {failure.value: failure for failure in FailureClass}
    failure = known.get(why, FailureClass.CANCELLED)
    if failure in (FailureClass.NONE, FailureClass.UNKNOWN):
        return FailureClass.CANCELLED
    return failure


def _failure(news: Ended, held: Held) -> FailureClass:
    if news.cause is Cause.EXITED:
        return FailureClass.USER_ERROR if news.exit_code else FailureClass.NONE
    if news.cause is Cause.STOPPED:
        return held.stop_failure
    return FAILURES[news.cause]


def _message(news: Ended, held: Held) -> str:
    """What happened and, below it, the last that the task wrote: at most MESSAGE_MAX characters."""
    what = news.detail
    if news.cause is Cause.STOPPED and held.stop_reason:
        what = f"stopped: {held.stop_reason}"
    what = what[: MESSAGE_MAX // 2]
    room = MESSAGE_MAX - len(what) - 1
    return f"{what}\n{news.tail[-room:]}" if news.tail else what
