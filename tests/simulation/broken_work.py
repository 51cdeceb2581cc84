"""The rules of effects, leases and workers (DESIGN section 5), each broken alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import stream_processors.domain.attempts
import stream_processors.domain.evolve
import stream_processors.domain.hearing
import stream_processors.domain.placement
import stream_processors.engine
from schemas import events
from schemas.dispatch import Dispatch
from stream_processors.domain.draft import Draft
from stream_processors.domain.state import Job, State, TaskPhase
from stream_processors.leases import Leases
from tests.simulation.machines import Machine, SimExecutor
from tests.simulation.mutation import Mutation, exchanged
from workers.agent import Agent, Stage
from workers.executor import Cause, Ended
from workers.lease import Lease
from workers.ledger import Ledger
from workers.messages import (
    Began,
    Moment,
    PersistIncarnation,
    Positioned,
)
from workers.outbox import Outbox

Breaks = AbstractContextManager[None]


def placed_again_before_all_is_dead() -> Breaks:
    """An attempt has ended as soon as it was told to."""
    attempts = stream_processors.domain.attempts
    original = attempts._move_on

    def move_on(ends: Any, job: Job) -> None:
        if job.is_ending:
            attempts._conclude(ends, job)
        else:
            original(ends, job)

    return exchanged(attempts, _move_on=move_on)


def barrier_opens_early() -> Breaks:
    """A gang is released when one member is ready."""
    attempts = stream_processors.domain.attempts
    original = attempts._move_on

    def move_on(ends: Any, job: Job) -> None:
        ready = any(task.phase is TaskPhase.READY for task in job.tasks.values())
        if job.terms.is_gang and ready and not job.released and not job.is_ending:
            ends.released.append((job.no, job.attempt, job.tasks[0].endpoint))
        else:
            original(ends, job)

    return exchanged(attempts, _move_on=move_on)


def gang_in_parts() -> Breaks:
    """A gang's members are placed as there is room."""
    placement = stream_processors.domain.placement
    find = placement._find_places

    def serve(scratch: Any, served: Any, job: Job) -> int | None:
        wanted = job.terms.tasks - len(job.tasks)
        places = find(scratch, served, max(wanted - 1, 1) if job.terms.is_gang else wanted)
        first, attempt = len(job.tasks), job.attempt if job.tasks else job.attempt + 1
        for index, (node_no, devices) in enumerate(places):
            scratch.rows.append((job.no, attempt, first + index, node_no, devices))
        served.next_job += 1
        return served.jobs[served.next_job] if served.next_job < len(served.jobs) else None

    return exchanged(placement, _serve=serve)


def reports_of_other_attempts_are_heard() -> Breaks:
    """A late report of an earlier attempt speaks of the present one."""
    hearing = stream_processors.domain.hearing
    original = hearing._task

    def task(draft: Draft, node: Any, key: tuple[int, int, int]) -> Any:
        job = draft.state.jobs.get(key[0])
        return original(draft, node, (key[0], job.attempt if job else key[1], key[2]))

    return exchanged(hearing, _task=task)


def late_registrations_are_accepted() -> Breaks:
    """Any incarnation that is not the current one may register."""
    hearing = stream_processors.domain.hearing
    folds = stream_processors.domain.evolve._FOLDS
    hear, fold = hearing._hear_registration, folds[events.NodeRegistered]

    def hear_registration(draft: Draft, *rest: Any) -> None:
        seen, draft.state.incarnations = draft.state.incarnations, {}
        hear(draft, *rest)
        draft.state.incarnations = seen | draft.state.incarnations

    def node_registered(state: State, event: Any) -> None:
        seen, state.incarnations = state.incarnations, {}
        fold(state, event)
        state.incarnations = seen | state.incarnations

    @contextmanager
    def broken() -> Iterator[None]:
        folds[events.NodeRegistered] = node_registered
        try:
            with exchanged(hearing, _hear_registration=hear_registration):
                yield
        finally:
            folds[events.NodeRegistered] = fold

    return broken()


def no_resending() -> Breaks:
    """Mail is sent once."""
    return exchanged(stream_processors.engine, resend=lambda *_: [])


def no_probe() -> Breaks:
    """A node is lost as soon as the owner's clock says so."""
    original = Leases.due_probe

    def due_probe(self: Leases, now_us: int) -> int | None:
        nonce = original(self, now_us)
        if nonce is not None:
            self.probe_seen(nonce)
        return nonce

    return exchanged(Leases, due_probe=due_probe)


def leases_do_not_begin_anew() -> Breaks:
    """A new owner counts every lease from long ago."""
    original = Leases.watch

    def watch(self: Leases, incarnation: Any, node_no: int, lease_s: int, now_us: int) -> None:
        original(self, incarnation, node_no, lease_s, now_us - lease_s * 2_000_000)

    return exchanged(Leases, watch=watch)


def registrations_do_not_renew() -> Breaks:
    """Only heartbeats are signs of life for the owner, though agents count registrations too."""
    original = Leases.heard
    engine = stream_processors.engine.ShardEngine
    receive = engine.receive_report

    @contextmanager
    def broken() -> Iterator[None]:
        deaf: list[bool] = []

        def receive_report(self: Any, offset: int, size: int, report: Any, now: Any) -> None:
            deaf.append(type(report).__name__ == "RegisterNode")
            receive(self, offset, size, report, now)

        def heard(self: Leases, incarnation: Any, now_us: int) -> None:
            if not deaf[-1]:
                original(self, incarnation, now_us)

        with exchanged(engine, receive_report=receive_report), exchanged(Leases, heard=heard):
            yield

    return broken()


def monotonic_clock() -> Breaks:
    """Agents and supervisors go by a clock that stands still while the host is suspended."""

    def clock_us(self: Machine) -> int:
        return self.boot_us(self.world.now_us) - self.slept_us

    return exchanged(Machine, clock_us=clock_us)


def no_supervisor() -> Breaks:
    """Nobody but the agent ends a task."""

    @contextmanager
    def broken() -> Iterator[None]:
        with (
            exchanged(SimExecutor, is_past_deadline=lambda _self: False),
            exchanged(SimExecutor, _agent_died=lambda _self: None),
        ):
            yield

    return broken()


def leftovers_live() -> Breaks:
    """A starting agent lets what it finds live."""
    return exchanged(Machine, clear_leftovers=lambda _self, _run: None)


def no_waiting_without_a_journal() -> Breaks:
    """An agent without a journal begins at once."""
    original = Agent._begin

    def begin(self: Agent, began: Began) -> None:
        original(self, Began(began.last_incarnation, wait=False))

    @contextmanager
    def broken() -> Iterator[None]:
        with exchanged(Agent, _begin=begin):
            yield

    return broken()


def ends_are_said_before_they_are() -> Breaks:
    """An executor says that a task has ended when it was told to stop it."""
    original = SimExecutor.stop

    def stop(self: SimExecutor, key: Any, grace_s: float) -> None:
        original(self, key, grace_s)
        task = self._tasks.get(key)
        if task is not None and task.is_alive:
            del self._tasks[key]
            self.tell(Ended(key, Cause.STOPPED, 0, "stopped"))
            task.run = SimExecutor(self.machine, self.process)
            task.run.is_orphaned = True

    return exchanged(SimExecutor, stop=stop)


def lease_counts_from_the_answer() -> Breaks:
    """A lease runs from the acknowledgement of a heartbeat."""
    original = Agent._renew
    return exchanged(Agent, _renew=lambda self, _sent_ns: original(self, self._now.boot_ns))


def leases_are_revived() -> Breaks:
    """A late acknowledgement brings a lease back that has run out."""
    return exchanged(Lease, is_over=lambda _self, _now_ns: False)


def same_incarnation_after_a_fence() -> Breaks:
    """An agent whose lease ran out goes on under its old number."""
    original = Agent._new_incarnation

    def new_incarnation(self: Agent) -> None:
        before = self._incarnation
        original(self)
        if before and self._registrations == 0:
            self._incarnation = before
            self._ledger.reset(before)
            self._effects = [
                PersistIncarnation(before) if isinstance(effect, PersistIncarnation) else effect
                for effect in self._effects
            ]

    return exchanged(Agent, _new_incarnation=new_incarnation)


def the_unknown_are_not_told() -> Breaks:
    """An incarnation that is lost or unknown gets no answer."""
    return exchanged(stream_processors.domain.hearing, _tell=lambda *_: None)


def starts_before_it_is_registered() -> Breaks:
    """An agent serves as soon as its reader is positioned."""
    original = Agent._take

    def take(self: Agent, message: Any) -> None:
        original(self, message)
        if isinstance(message, Positioned) and self._stage is Stage.REGISTERING:
            self._stage = Stage.SERVING

    return exchanged(Agent, _take=take)


def old_epochs_are_obeyed() -> Breaks:
    """A dispatch of a superseded engine is as good as any."""
    original = Agent._obey

    def obey(self: Agent, dispatch: Dispatch) -> None:
        self._epoch = 0
        original(self, dispatch)

    return exchanged(Agent, _obey=obey)


def other_incarnations_are_obeyed() -> Breaks:
    """A dispatch for the node is for whatever incarnation it has."""
    original = Agent._obey

    def obey(self: Agent, dispatch: Dispatch) -> None:
        if not dispatch.register_again:
            dispatch = replace(dispatch, incarnation=self._incarnation)
        original(self, dispatch)

    return exchanged(Agent, _obey=obey)


def starts_are_taken_twice() -> Breaks:
    """A start that comes again starts again."""
    original = Ledger.start

    def start(self: Ledger, seq: int, order: Any, now: Moment) -> Any:
        self._held.pop(order.key, None)
        return original(self, seq, order, now)

    return exchanged(Ledger, start=start)


def the_floor_is_forgotten() -> Breaks:
    """What lies below the floor is forgotten, and taken when it comes again."""
    original = Ledger.start

    def start(self: Ledger, seq: int, order: Any, now: Moment) -> Any:
        floor, self._floor = self._floor, 0
        effects = original(self, seq, order, now)
        self._floor = floor
        return effects

    return exchanged(Ledger, start=start)


def no_tombstones() -> Breaks:
    """A stop that comes before its start is answered, and forgotten."""
    original = Ledger.stop

    def stop(self: Ledger, key: Any, *rest: Any) -> Any:
        is_known = key in self._held
        effects = original(self, key, *rest)
        if not is_known:
            self._held.pop(key, None)
        return effects

    return exchanged(Ledger, stop=stop)


def early_stops_are_not_answered() -> Breaks:
    """A stop that comes before its start is for nobody."""
    original = Ledger.stop

    def stop(self: Ledger, key: Any, *rest: Any) -> Any:
        return original(self, key, *rest) if key in self._held else []

    return exchanged(Ledger, stop=stop)


def reports_are_sent_once() -> Breaks:
    """What was not acknowledged is not said again."""
    return exchanged(Outbox, failed=lambda self: self.acknowledged())


WORK_MUTATIONS = (
    Mutation("place again before every task is known dead", "5", placed_again_before_all_is_dead),
    Mutation("a barrier opens before all are ready", "4", barrier_opens_early),
    Mutation("a gang is placed in parts", "3.2", gang_in_parts),
    Mutation(
        "reports of another attempt are heard", "5", reports_of_other_attempts_are_heard, seed=4
    ),
    Mutation(
        "a late duplicate registration is accepted", "5", late_registrations_are_accepted, seed=4
    ),
    Mutation("nothing is sent again", "5", no_resending, seed=4),
    Mutation("a node is lost without the probe", "5", no_probe, seed=17),
    Mutation("a new owner does not count leases from its claim", "5", leases_do_not_begin_anew),
    Mutation(
        "a repeated registration renews for the agent only",
        "5",
        registrations_do_not_renew,
        seed=12,
    ),
    Mutation("monotonic instead of boot-time clock", "5", monotonic_clock),
    Mutation("no supervisor for each task", "5", no_supervisor),
    Mutation("a starting agent kills no leftovers", "5", leftovers_live, seed=14),
    Mutation(
        "an agent without a journal waits for no lease", "5", no_waiting_without_a_journal, seed=15
    ),
    Mutation("ends are said before they are", "5", ends_are_said_before_they_are),
    Mutation("a lease counts from the acknowledgement", "5", lease_counts_from_the_answer, seed=6),
    Mutation("a lease that ran out is revived", "5", leases_are_revived),
    Mutation("the same incarnation after a fence", "5", same_incarnation_after_a_fence),
    Mutation("the unknown are not told to register again", "5", the_unknown_are_not_told, seed=4),
    Mutation(
        "tasks start before the registration is answered", "5", starts_before_it_is_registered
    ),
    Mutation("dispatches of lower epochs are obeyed", "5", old_epochs_are_obeyed),
    Mutation(
        "dispatches for other incarnations are obeyed", "5", other_incarnations_are_obeyed, seed=23
    ),
    Mutation("a start that comes twice starts twice", "5", starts_are_taken_twice),
    Mutation("starts below the floor are taken", "5", the_floor_is_forgotten),
    Mutation("no tombstones", "5", no_tombstones, seed=54),
    Mutation("a stop before its start is not answered", "5", early_stops_are_not_answered),
    Mutation("reports are sent once", "5", reports_are_sent_once, seed=30),
)
