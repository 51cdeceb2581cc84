"""The node agent as a state machine: one input and a moment in, effects out. No I/O, no clock.

Reads dispatches, acknowledgements and executor news; answers with reports, orders to the executor
and lease deadlines. An incarnation goes POSITIONING, REGISTERING, SERVING, ENDING; it starts
nothing before its registration is acknowledged, and the next one begins only when every task of
the last is dead and reported. Rules of tasks are in `ledger.py`, of time in `lease.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from schemas.dispatch import Dispatch
from schemas.reports import DrainNode, Heartbeat, RegisterNode, TasksReported
from workers.executor import Ended, Prepared, Started, TaskKey
from workers.lease import Lease
from workers.ledger import NS, Ledger
from workers.messages import (
    Began,
    Delivered,
    DispatchLost,
    DispatchRead,
    DrainAsked,
    Effect,
    Exit,
    HaltAsked,
    Input,
    KillAll,
    Moment,
    Note,
    PersistIncarnation,
    Positioned,
    SeekDispatchEnd,
    SetLeaseDeadline,
    Tick,
    Undelivered,
)
from workers.options import AgentOptions
from workers.orders import read_starts
from workers.outbox import Outbox
from workers.sends import FAR_NS, Sends, farewell, heartbeat, registration

REGISTER_EVERY_NS = 2 * NS
RESEND_AFTER_NS = NS // 4
GIVE_UP_NS = 10 * NS
"""How long a leaving agent waits for the last ends and acknowledgements beyond all graces."""
ASK_EVERY = 15
"""Registrations without an answer between two notes about it."""
REFUSALS_MAX = 40


class Stage(Enum):
    """Where an incarnation stands."""

    NEW = "new"
    WAITING = "waiting"
    POSITIONING = "positioning"
    REGISTERING = "registering"
    SERVING = "serving"
    ENDING = "ending"
    GONE = "gone"


@dataclass(slots=True)
class _Leave:
    """The agent is to leave: tasks are stopped at `stop_at_ns`, all patience ends at the other."""

    stop_at_ns: int
    give_up_ns: int
    told: bool = False
    stopped: bool = False


class Agent:
    """One node's agent. `shard` is the partition of its pool."""

    def __init__(self, options: AgentOptions, shard: int) -> None:
        self._options = options
        self._shard = shard
        self._outbox = Outbox(options.node, options.pool)
        self._ledger = Ledger(self._outbox)
        self._lease = Lease(options.lease_s * NS)
        self._leave: _Leave | None = None
        self._stage = Stage.NEW
        self._incarnation = 0
        self._refusals = 0
        self._registrations = 0
        self._epoch = 0
        self._sends = Sends()
        self._begin_at_ns = FAR_NS
        self._beat_at_ns = 0
        self._now = Moment(0, 0)
        self._effects: list[Effect] = []

    @property
    def stage(self) -> Stage:
        """Where the present incarnation stands."""
        return self._stage

    @property
    def incarnation(self) -> int:
        """The present incarnation; 0 before the first."""
        return self._incarnation

    def handle(self, message: Input, now: Moment) -> list[Effect]:
        """The effects of one input, in the order in which they must happen.

        A lease that has run out is noticed before the input is looked at: nothing that comes late
        revives it.
        """
        if self._stage is Stage.GONE:
            return []
        self._now, self._effects = now, []
        if self._lease.is_over(now.boot_ns):
            self._end_incarnation("its lease ran out")
        self._take(message)
        self._advance()
        return self._effects

    def next_wake_ns(self) -> int:
        """When the next `Tick` is due at the latest, on the boot clock."""
        due = [FAR_NS]
        if self._stage is Stage.WAITING:
            due.append(self._begin_at_ns)
        elif self._stage is Stage.REGISTERING:
            due.append(self._sends.due_ns(RegisterNode))
        elif self._stage is Stage.SERVING:
            due.append(self._beat_at_ns)
        if self._lease.fence_at_ns is not None:
            due.append(self._lease.fence_at_ns)
        if self._outbox:
            due.append(self._sends.due_ns(TasksReported))
        if self._leave is not None:
            due.append(self._leave.give_up_ns)
            if self._stage is Stage.SERVING and not self._leave.stopped:
                due.append(self._leave.stop_at_ns)
            if self._stage is Stage.SERVING and not self._leave.told:
                due.append(self._sends.due_ns(DrainNode))
        return min(due)

    def _take(self, message: Input) -> None:
        match message:
            case Began():
                self._begin(message)
            case Positioned():
                if self._stage is Stage.POSITIONING:
                    self._stage = Stage.REGISTERING
                    self._sends.pause(RegisterNode, 0)
            case DispatchRead():
                self._obey(message.dispatch)
            case DispatchLost():
                self._end_incarnation("its dispatch offset is out of range")
            case Delivered():
                self._delivered(message.ref)
            case Undelivered():
                self._undelivered(message)
            case DrainAsked():
                self._ask_to_leave(self._options.drain_s)
            case HaltAsked():
                self._halt()
            case Tick():
                pass
            case _:
                self._hear(message)

    def _hear(self, news: Prepared | Started | Ended) -> None:
        match news:
            case Prepared():
                self._ledger.prepared(news, self._now)
            case Started():
                self._ledger.started(news, self._now)
            case Ended():
                self._ledger.ended(news, self._now)
            case _:
                assert_never(news)

    # -- incarnations

    def _begin(self, began: Began) -> None:
        assert self._stage is Stage.NEW, self._stage
        self._incarnation = began.last_incarnation
        if began.wait:
            self._stage = Stage.WAITING
            self._begin_at_ns = self._now.boot_ns + self._lease.length_ns
            self._note("no journal of an earlier start: waiting for one lease to pass")
        else:
            self._new_incarnation()

    def _new_incarnation(self) -> None:
        step = NS // 1000 << self._refusals if self._refusals else 0
        self._incarnation = max(self._now.wall_us, self._incarnation + 1) + step
        self._ledger.reset(self._incarnation)
        self._lease = Lease(self._lease.length_ns)
        self._registrations = 0
        self._stage = Stage.POSITIONING
        self._effects += [PersistIncarnation(self._incarnation), SeekDispatchEnd()]

    def _end_incarnation(self, why: str) -> None:
        """Kill everything now; what follows waits until all of it is dead and reported."""
        if self._stage not in (Stage.POSITIONING, Stage.REGISTERING, Stage.SERVING):
            return
        self._note(f"incarnation {self._incarnation} ends: {why}")
        self._stage = Stage.ENDING
        self._lease = Lease(self._lease.length_ns)
        self._ledger.lose_all(why)
        if self._ledger.living():
            self._effects.append(KillAll())

    def _serve(self) -> None:
        """The registration is acknowledged; it counts only under a lease that lives.

        The engine has read one of the registrations, so the lease runs at least from the moment
        the first was sent, even if the broker's own acknowledgement is still on its way.
        """
        deadline_ns = self._lease.fence_at_ns
        if self._stage is not Stage.REGISTERING or deadline_ns is None:
            return
        self._effects.append(SetLeaseDeadline(deadline_ns))
        self._stage = Stage.SERVING
        self._refusals = 0
        self._beat_at_ns = self._now.boot_ns
        self._note(f"registered in pool {self._options.pool} as incarnation {self._incarnation}")

    # -- dispatch

    def _obey(self, dispatch: Dispatch) -> None:
        if dispatch.node != self._options.node or dispatch.shard != self._shard:
            return
        if dispatch.epoch < self._epoch:
            self._note(f"dispatch of epoch {dispatch.epoch} refused: {self._epoch} was seen")
            return
        self._epoch = dispatch.epoch
        if dispatch.incarnation != self._incarnation:
            return
        if dispatch.register_again:
            if self._stage is Stage.REGISTERING:
                self._refusals = min(self._refusals + 1, REFUSALS_MAX)
            self._end_incarnation("the engine does not know it, or no longer")
            return
        if dispatch.registered:
            self._serve()
        if self._stage is Stage.SERVING:
            self._obey_orders(dispatch)

    def _obey_orders(self, dispatch: Dispatch) -> None:
        """Stops come first: what is started and stopped by one record never runs."""
        ledger, now = self._ledger, self._now
        self._effects += ledger.raise_floor(dispatch.floor)
        stops, releases = dispatch.stops, dispatch.releases
        for row, key in enumerate(map(TaskKey, stops.job_nos, stops.attempts, stops.tasks)):
            seq, grace_s, why = stops.seqs[row], stops.graces_s[row], stops.reasons[row]
            self._effects += ledger.stop(key, seq, grace_s, why, now)
        for seq, order in read_starts(dispatch.starts):
            if self._leave is None:
                self._effects += ledger.start(seq, order, now)
            else:
                ledger.turn_away(seq, order.key, now)
        members = map(TaskKey, releases.job_nos, releases.attempts, releases.tasks)
        for key, endpoint in zip(members, releases.endpoints, strict=True):
            self._effects += ledger.release(key, endpoint)

    # -- leaving

    def _ask_to_leave(self, patience_s: float) -> None:
        if self._leave is None:
            stop_at_ns = self._now.boot_ns + int(patience_s * NS)
            self._leave = _Leave(stop_at_ns, stop_at_ns + GIVE_UP_NS)
            self._note(f"draining: {self._ledger.living()} tasks run")

    def _halt(self) -> None:
        self._ask_to_leave(0)
        assert self._leave is not None
        self._leave.stopped = True
        self._leave.give_up_ns = self._now.boot_ns + GIVE_UP_NS // 2
        self._effects += self._ledger.stop_all("preempted", self._now, graceful=False)

    def _go_on_leaving(self, leave: _Leave) -> None:
        now_ns = self._now.boot_ns
        serving = self._stage is Stage.SERVING
        if serving and not leave.told and now_ns >= self._sends.due_ns(DrainNode):
            self._send(farewell(self._options, self._incarnation, self._now))
        if serving and not leave.stopped and now_ns >= leave.stop_at_ns:
            leave.stopped = True
            leave.give_up_ns = now_ns + self._ledger.max_grace_s() * NS + GIVE_UP_NS
            self._effects += self._ledger.stop_all("preempted", self._now, graceful=True)
        if self._is_settled() and (leave.told or not serving):
            self._exit(0)
        elif now_ns >= leave.give_up_ns:
            self._note(f"leaving with {len(self._outbox)} reports unacknowledged")
            self._effects.append(KillAll())
            self._exit(1)

    def _is_settled(self) -> bool:
        """Whether everything is dead and its end acknowledged."""
        return not self._ledger.living() and not self._outbox

    def _exit(self, code: int) -> None:
        self._stage = Stage.GONE
        self._effects.append(Exit(code))

    # -- sends

    def _advance(self) -> None:
        """Do what time and state make due."""
        now_ns = self._now.boot_ns
        if self._stage is Stage.WAITING and now_ns >= self._begin_at_ns:
            self._new_incarnation()
        if self._stage is Stage.ENDING and self._leave is None and self._is_settled():
            self._new_incarnation()
        if self._stage is Stage.REGISTERING and now_ns >= self._sends.due_ns(RegisterNode):
            self._offer()
        if self._stage is Stage.SERVING and now_ns >= self._beat_at_ns:
            self._beat_at_ns = now_ns + int(self._options.heartbeat_s * NS)
            living = self._ledger.living()
            self._send(heartbeat(self._options, self._incarnation, living, self._now))
        if self._outbox and now_ns >= self._sends.due_ns(TasksReported):
            report = self._outbox.take()
            assert report is not None, "a batch is in flight without its send"
            self._send(report)
        if self._leave is not None:
            self._go_on_leaving(self._leave)

    def _offer(self) -> None:
        if not self._registrations:
            self._lease.begin(self._now.boot_ns)
        self._registrations += 1
        if self._registrations % ASK_EVERY == 0:
            pool = self._options.pool
            self._note(f"no answer yet: does an engine own this shard, and is there a pool {pool}?")
        self._send(registration(self._options, self._incarnation, self._now))

    def _send(self, message: RegisterNode | Heartbeat | DrainNode | TasksReported) -> None:
        self._effects.append(self._sends.launch(message, self._incarnation, self._now.boot_ns))

    def _delivered(self, ref: int) -> None:
        flight = self._sends.land(ref)
        self._sends.pause(flight.kind, 0)
        if flight.kind is TasksReported:
            self._outbox.acknowledged()
        elif flight.kind is DrainNode and self._leave is not None:
            self._leave.told = True
        elif flight.kind is RegisterNode:
            self._sends.pause(RegisterNode, self._now.boot_ns + REGISTER_EVERY_NS)
        is_sign_of_life = flight.kind in (Heartbeat, RegisterNode)
        if is_sign_of_life and flight.incarnation == self._incarnation:
            self._renew(flight.sent_ns)

    def _renew(self, sent_ns: int) -> None:
        if self._stage is Stage.ENDING or not self._lease.renew(sent_ns, self._now.boot_ns):
            return
        assert self._lease.fence_at_ns is not None
        self._effects.append(SetLeaseDeadline(self._lease.fence_at_ns))

    def _undelivered(self, message: Undelivered) -> None:
        flight = self._sends.land(message.ref)
        self._note(f"{flight.kind.__name__} was not acknowledged: {message.error}")
        if flight.kind is TasksReported:
            self._outbox.failed()
        self._sends.pause(flight.kind, self._now.boot_ns + RESEND_AFTER_NS)

    def _note(self, text: str) -> None:
        self._effects.append(Note(text))
