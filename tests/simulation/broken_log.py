"""The rules of the log protocol (DESIGN section 3), each broken alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import infra.follow
import stream_processors.ownership
from infra.log import Entry
from infra.state_codec import Snapshot
from schemas.envelope import Claim, Decision
from schemas.terms import Micros
from schemas.topics import COMMANDS, REPORTS
from stream_processors import engine_process
from stream_processors.domain import counting
from stream_processors.domain.counting import Chain, Verdict
from stream_processors.engine import SaveSnapshot, SeekInputs, SendMail, ShardEngine
from stream_processors.input_queue import InputQueue
from stream_processors.log_clock import LogClock, Reading
from stream_processors.ownership import Ownership, Phase
from stream_processors.ownership_effects import Counted
from stream_processors.shard_runner import ShardRunner
from stream_processors.silence import Silence
from tests.simulation.mutation import Mutation, exchanged

Breaks = AbstractContextManager[None]


def no_gap_rule() -> Breaks:
    """An acknowledgement alone is enough, whatever lies between."""

    def count(self: Ownership) -> list[Any]:
        effects: list[Any] = []
        while self._in_flight and (offset := self._in_flight[0].offset) is not None:
            effects += self._count_first(offset)
        return effects

    return exchanged(Ownership, _count_acknowledged=count)


def what_is_in_flight_is_kept() -> Breaks:
    """After a failure the decisions in doubt stay where they are."""
    return exchanged(Ownership, _discard=lambda _self: [])


def optimistic_state_is_kept() -> Breaks:
    """What was decided and did not count stays in the state."""

    def discard(self: ShardEngine, _signal: Any) -> list[Any]:
        self._mail.clear()
        self._step_down()
        return []

    return exchanged(ShardEngine, _discard=discard)


def no_seek_back() -> Breaks:
    """After a refold the inputs are read on from where they were."""

    def reset(self: InputQueue[Any], position: int) -> None:
        self.decided = position
        self.next = max(self.next, position)
        self.waiting.clear()
        self.weight = 0

    return exchanged(InputQueue, reset=reset)


def no_effects_of_what_was_read() -> Breaks:
    """Own records that are found by reading, not by their acknowledgement, have none."""
    judge, counted = Ownership._judge, ShardEngine._counted

    @contextmanager
    def broken() -> Iterator[None]:
        was_read: set[tuple[bytes, int]] = set()

        def judged(self: Ownership, entry: Entry, now: Reading) -> list[Any]:
            effects = judge(self, entry, now)
            found = [one for one in effects if isinstance(one, Counted) and one.own]
            was_read.update((self.owner, one.offset) for one in found)
            return effects

        def counts(self: ShardEngine, signal: Counted) -> list[Any]:
            effects = counted(self, signal)
            return [] if (self.owner, signal.offset) in was_read else effects

        with exchanged(Ownership, _judge=judged), exchanged(ShardEngine, _counted=counts):
            yield

    return broken()


def mail_leaves_before_it_counts() -> Breaks:
    """Effects of a decision leave when it is sent."""
    original = ShardEngine.sent

    @contextmanager
    def broken() -> Iterator[None]:
        decide = ShardRunner.decide

        def runner_decide(self: ShardRunner, now: Reading) -> None:
            def sent(token: int, batch: Any) -> None:
                original(self.engine, token, batch)
                if batch.mail:
                    self._do(SendMail(batch.mail))

            self.engine.sent = sent  # type: ignore[method-assign]  # this instance is broken
            decide(self, now)

        with exchanged(ShardRunner, decide=runner_decide):
            yield

    return broken()


def snapshots_of_optimistic_state() -> Breaks:
    """A snapshot is taken while decisions are in flight."""

    def may_snapshot(self: ShardRunner, signal: Counted, now: Reading) -> bool:
        return signal.own and self.engine.snapshot_is_due(now)

    def snapshot(self: ShardEngine, counted: Counted, now: Reading) -> SaveSnapshot:
        self._saved_us = now.monotonic_us
        self._saved_seq = self.state.seq
        self._unsaved_bytes = 0
        return SaveSnapshot(Snapshot(counted.offset, counted.chain, self.state))

    @contextmanager
    def broken() -> Iterator[None]:
        with (
            exchanged(ShardRunner, _may_snapshot=may_snapshot),
            exchanged(ShardEngine, snapshot=snapshot),
        ):
            yield

    return broken()


def zombies_count() -> Breaks:
    """A decision of a superseded owner counts like any other."""
    return _counted_all_the_same(Verdict.STALE_EPOCH, Verdict.OTHER_OWNER)


def duplicates_count() -> Breaks:
    """What a send that was tried again leaves twice counts twice."""
    return _counted_all_the_same(Verdict.WRONG_SEQ)


def predecessor_is_not_checked() -> Breaks:
    """A decision with the right number counts, whatever it follows."""
    return _counted_all_the_same(Verdict.WRONG_PREV)


def _counted_all_the_same(*verdicts: Verdict) -> Breaks:
    original = counting._weigh

    def weigh(chain: Chain, record: Claim | Decision | None) -> Verdict:
        verdict = original(chain, record)
        return Verdict.DECISION if verdict in verdicts else verdict

    return exchanged(counting, _weigh=weigh)


def lost_claims_count() -> Breaks:
    """Whoever claims the current epoch later has it."""
    original = counting._weigh

    def weigh(chain: Chain, record: Claim | Decision | None) -> Verdict:
        if isinstance(record, Claim) and record.epoch == chain.epoch:
            return Verdict.CLAIM
        return original(chain, record)

    return exchanged(counting, _weigh=weigh)


def claims_are_not_in_the_chain() -> Breaks:
    """The running hash leaves claims out, so a zombie's next decision fits behind one."""
    original = counting.judge

    def judge(chain: Chain, record: Any, raw: bytes, offset: int) -> tuple[Chain, Verdict]:
        after, verdict = original(chain, record, raw, offset)
        if verdict is Verdict.CLAIM:
            after = replace(after, value=chain.value)
        return after, verdict

    @contextmanager
    def broken() -> Iterator[None]:
        with (
            exchanged(infra.follow, judge=judge),
            exchanged(stream_processors.ownership, judge=judge),
        ):
            yield

    return broken()


def nobody_claims_again() -> Breaks:
    """Who lost, was superseded or is in doubt waits for ever; nobody follows a silent owner."""

    @contextmanager
    def broken() -> Iterator[None]:
        with (
            exchanged(Silence, has_lasted=property(lambda _self: False)),
            exchanged(Ownership, _begin_reading=_read_once),
        ):
            yield

    return broken()


def _read_once(self: Ownership) -> list[Any]:
    if self._claim_token:
        self._entitled = False
        return []
    self.phase = Phase.READING
    self._at_end = False
    return [self._read()]


def inputs_are_let_go_unconsumed() -> Breaks:
    """What was read is deleted, not only what the log has consumed."""

    def keep_shard(self: Any, shard: int, runner: ShardRunner) -> None:
        read = runner.engine.read_positions
        for topic, offset in ((COMMANDS, read.commands), (REPORTS, read.reports)):
            let_go = vars(engine_process)["delete_before"]
            let_go("", topic.name, shard, offset)

    return exchanged(engine_process.EngineProcess, _keep_shard=keep_shard)


def new_owners_begin_at_the_inputs_end() -> Breaks:
    """A new owner goes on from where the inputs end, not from where the fold stands."""
    original = ShardRunner._do

    def do(self: ShardRunner, effect: Any) -> Any:
        if isinstance(effect, SeekInputs):
            for queue in (self.engine._commands, self.engine._reports):
                queue.next += 1
        return original(self, effect)

    return exchanged(ShardRunner, _do=do)


def log_time_is_the_wall_clock() -> Breaks:
    """The log's time is whatever the owner's wall clock shows."""
    return exchanged(LogClock, at=lambda _self, now: Micros(now.wall_us))


def wrong_clocks_own() -> Breaks:
    """An owner whose clock is far off the broker's goes on all the same."""
    original = Ownership._own

    def own(self: Ownership, claim: Claim, entry: Entry, now: Reading) -> list[Any]:
        return original(self, claim, replace(entry, at=Micros(claim.at)), now)

    return exchanged(Ownership, _own=own)


LOG_MUTATIONS = (
    Mutation("act on the acknowledgement without the gap rule", "3.5", no_gap_rule),
    Mutation("mail leaves before its decision counts", "3.5", mail_leaves_before_it_counts),
    Mutation("no effects for own records found by reading", "3.5", no_effects_of_what_was_read),
    Mutation("keep what is in flight after a failure", "3.6", what_is_in_flight_is_kept),
    Mutation("keep the optimistic state after a failure", "3.6", optimistic_state_is_kept),
    Mutation("no seek back after a failure", "3.6", no_seek_back, seed=3),
    Mutation("snapshot of optimistic state", "3.7", snapshots_of_optimistic_state),
    Mutation("the predecessor is not checked", "3.3", predecessor_is_not_checked, seed=19),
    Mutation("decisions of a superseded owner count", "3.3", zombies_count),
    Mutation("a decision that was sent twice counts twice", "3.3", duplicates_count, seed=2),
    Mutation("a second claim of an epoch counts", "3.1", lost_claims_count, seed=2),
    Mutation("claims are not in the chain", "3.3", claims_are_not_in_the_chain),
    Mutation("nobody claims again", "3.1", nobody_claims_again, seed=7),
    Mutation(
        "a new owner leaves out inputs that nobody consumed",
        "3.4",
        new_owners_begin_at_the_inputs_end,
    ),
    Mutation("log time is the wall clock", "3.8", log_time_is_the_wall_clock, seed=35),
    Mutation("an owner with a wrong clock goes on", "3.8", wrong_clocks_own, seed=3),
    Mutation("inputs are let go of before they are consumed", "3.4", inputs_are_let_go_unconsumed),
)
