"""What this incarnation was given, each thing once: starts, releases, stops and tombstones. Pure.

A (job, attempt, task) seen before is answered with its present state. A stop that comes before its
start leaves a tombstone, so that the start, when it comes, is answered as ended. What was placed
below the floor is forgotten, and starts below it are refused. Reports go to the outbox.

What is held is bounded. Far too many ends and the oldest are forgotten before the floor allows it:
a start from that time is then answered as ended, which is always safe, for what is not held does
not live here, and the end that was reported first is the one that counts.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from enum import IntEnum

from schemas.terms import FailureClass, TaskState
from workers.executor import Cause, Ended, Prepared, Rendezvous, Started, TaskKey, TaskOrder
from workers.messages import Effect, Moment, Note, Prepare, Start, Stop
from workers.orders import Unreadable
from workers.outbox import MESSAGE_MAX, Outbox, Row

NS = 1_000_000_000
HELD_MAX = 200_000
"""Tasks known at most, nearly all of them ended: about 150 MiB."""
LIVING_MAX = 20_000
REPEATED_CHARS = 200
"""So much of an end's message is said again."""

FAILURES = {
    Cause.NOT_FOUND: FailureClass.IMAGE_ERROR,
    Cause.UNRUNNABLE: FailureClass.USER_ERROR,
    Cause.NO_PROGRESS: FailureClass.TIMEOUT,
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
        self._living: dict[TaskKey, Held] = {}
        self._by_seq: list[tuple[int, TaskKey]] = []
        self._floor = 0
        self._forgotten = -1

    def reset(self, incarnation: int) -> None:
        """A new incarnation begins: nothing was given to it, and nothing of the old lives."""
        assert not self._living, "an incarnation begins only when all of the last one is dead"
        self._incarnation = incarnation
        self._held.clear()
        self._by_seq.clear()
        self._floor = 0
        self._forgotten = -1

    def living(self) -> int:
        """How many tasks have not ended."""
        return len(self._living)

    def max_grace_s(self) -> int:
        """The longest grace of a task that has not ended."""
        return max((held.order.grace_s for held in self._living.values() if held.order), default=0)

    def raise_floor(self, floor: int) -> list[Effect]:
        """Forget what was placed below; whatever of it still lives is an orphan and is killed."""
        self._floor = max(self._floor, floor)
        effects: list[Effect] = []
        while self._by_seq and self._by_seq[0][0] < self._floor:
            _, key = heapq.heappop(self._by_seq)
            held = self._living.get(key)
            if held is None:
                self._held.pop(key, None)
            elif held.stop_by_ns is None or held.stop_by_ns > 0:
                held.stop_by_ns = 0
                held.stop_reason = "the engine no longer knows of it"
                effects += [Note(f"task {key} lives below the floor: killed"), Stop(key, 0)]
        return effects

    def start(self, seq: int, order: TaskOrder | Unreadable, now: Moment) -> list[Effect]:
        """Take a start once: run it, prepare it, or end it if it cannot be run here."""
        if order.key in self._held:
            self._repeat(self._held[order.key])
            return []
        if seq < self._floor:
            return [Note(f"start of task {order.key} refused: placed below the floor")]
        if self._outbox.is_full:
            return []  # it is said again until it is confirmed
        refusal = self._refusal(seq, order)
        if refusal is not None:
            self._end_at_once(order.key, seq, now, *refusal)
            return []
        assert isinstance(order, TaskOrder)
        phase = Phase.PREPARING if order.gang else Phase.STARTING
        self._living[order.key] = self._hold(order.key, Held(seq, phase, order))
        return [Prepare(order) if order.gang else Start(order, None)]

    def turn_away(self, seq: int, key: TaskKey, now: Moment) -> None:
        """Answer a start that came while the node drains: ended before it began."""
        if key in self._held:
            self._repeat(self._held[key])
        elif seq >= self._floor and not self._outbox.is_full:
            message = "not started: the node is draining"
            self._end_at_once(key, seq, now, FailureClass.PREEMPTED, message)

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
            if not self._outbox.is_full:
                message = f"stopped before it started ({why})"
                self._end_at_once(key, seq, now, _stop_failure(why), message)
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
        for key, held in list(self._living.items()):
            if held.order is not None:
                grace_s = held.order.grace_s if graceful else 0
                effects += self.stop(key, held.seq, grace_s, why, now)
        return effects

    def lose_all(self, why: str) -> None:
        """The incarnation is over: whatever is killed now ends as node_lost."""
        for held in self._living.values():
            held.stop_by_ns = 0
            held.stop_failure, held.stop_reason = FailureClass.NODE_LOST, why

    def prepared(self, news: Prepared, now: Moment) -> None:
        """A gang member is ready for its barrier."""
        held = self._living[news.key]
        held.phase = Phase.READY
        row = Row(self._incarnation, news.key, TaskState.READY, now.wall_us, endpoint=news.endpoint)
        self._say(held, row)

    def started(self, news: Started, now: Moment) -> None:
        """A task's program runs."""
        held = self._living[news.key]
        held.phase = Phase.RUNNING
        self._say(held, Row(self._incarnation, news.key, TaskState.STARTED, now.wall_us))

    def ended(self, news: Ended, now: Moment) -> None:
        """A task is surely dead."""
        assert news.key in self._living, news
        held = self._living.pop(news.key)
        held.phase = Phase.ENDED
        failure = _failure(news, held)
        row = Row(self._incarnation, news.key, TaskState.ENDED, now.wall_us, news.exit_code)
        if failure is not FailureClass.NONE:
            row = replace(row, failure=failure, message=_message(news, held), tail=news.tail)
        self._say(held, row)
        held.order = None
        if held.seq < self._floor:
            del self._held[news.key]

    # -- what is held

    def _refusal(self, seq: int, order: TaskOrder | Unreadable) -> tuple[FailureClass, str] | None:
        """Why this start cannot be obeyed, if so."""
        if seq <= self._forgotten:
            message = "placed so long ago that this node no longer knows whether it ran"
            return FailureClass.INFRASTRUCTURE, message
        if isinstance(order, Unreadable):
            return order.failure, order.message
        if len(self._living) >= LIVING_MAX:
            return FailureClass.INFRASTRUCTURE, f"the node runs {LIVING_MAX} tasks already"
        return None

    def _end_at_once(
        self, key: TaskKey, seq: int, now: Moment, failure: FailureClass, message: str
    ) -> None:
        """It never runs here: ended, and remembered so."""
        held = Held(seq, Phase.ENDED)
        if seq >= self._floor:
            self._hold(key, held)
        ended = Row(self._incarnation, key, TaskState.ENDED, now.wall_us, 0, failure, message)
        self._say(held, ended)

    def _hold(self, key: TaskKey, held: Held) -> Held:
        self._held[key] = held
        heapq.heappush(self._by_seq, (held.seq, key))
        if len(self._held) > HELD_MAX:
            self._forget_oldest()
        return held

    def _forget_oldest(self) -> None:
        """Let go of the ends placed first, a quarter of all at once."""
        kept: list[tuple[int, TaskKey]] = []
        while self._by_seq:
            seq, key = self._by_seq[0]
            if len(self._held) <= HELD_MAX * 3 // 4 and seq > self._forgotten:
                break
            heapq.heappop(self._by_seq)
            if key in self._living:
                kept.append((seq, key))
            elif self._held.pop(key, None) is not None:
                self._forgotten = max(self._forgotten, seq)
        for one in kept:
            heapq.heappush(self._by_seq, one)

    def _local_rank(self, key: TaskKey) -> int:
        """This member's place among its gang's members on this node."""
        return sum(TaskKey(key.job_no, key.attempt, task) in self._held for task in range(key.task))

    # -- what is said

    def _say(self, held: Held, row: Row) -> None:
        """Report it; what is kept for saying again is small."""
        held.said = replace(row, message=row.message[:REPEATED_CHARS], tail="")
        self._outbox.add(row)

    def _repeat(self, held: Held) -> None:
        """Say its present state again; nothing while it is on its way to the next one."""
        if held.said is not None and not self._outbox.is_full:
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
    """What happened, for people; the last lines go beside it."""
    if news.cause is Cause.STOPPED and held.stop_reason:
        return f"stopped: {held.stop_reason}"
    return news.detail[:MESSAGE_MAX]
