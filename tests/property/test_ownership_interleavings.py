"""Several owners, one log, every fault: drawn schedules keep what the log protocol promises.

And each rule is needed: without it, the same schedules find a fault. A failing schedule is its
seed: `ShardWorld(seed).run()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.log import Entry
from stream_processors.domain.counting import LogStopped
from stream_processors.log_clock import Reading
from stream_processors.ownership import Ownership, OwnershipOptions, Phase
from stream_processors.ownership_effects import Counted, Effect
from tests.shard_world import Mutation, ShardWorld

SCHEDULES = 500
SCHEDULES_TO_BREAK = 400


class WithoutGapRule(Ownership):
    """Takes an acknowledgement for the whole truth."""

    def _count_acknowledged(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._in_flight and (offset := self._in_flight[0].offset) is not None:
            sent = self._in_flight.popleft()
            self.counted = replace(sent.after, next_offset=offset + 1)
            effects.append(Counted(offset, sent.record, True, sent.token, self.counted))
        return effects


class WithoutReadEffects(Ownership):
    """Runs the effects of what was acknowledged, but not of what was found by reading."""

    def entries(self, entries: Sequence[Entry], now: Reading) -> list[Effect]:
        effects = super().entries(entries, now)
        return [
            replace(effect, own=False) if isinstance(effect, Counted) else effect
            for effect in effects
        ]


class WithoutDroppingInFlight(Ownership):
    """Takes what is in doubt for lost, but what follows it for good."""

    def _discard(self) -> list[Effect]:
        if self._in_flight:
            self._in_flight.popleft()
        return []


class WithoutSilence(Ownership):
    """Claims only what the group gives it."""

    def __init__(self, owner: bytes, options: OwnershipOptions | None = None) -> None:
        super().__init__(owner, replace(options or OwnershipOptions(), silence_us=10**18))


class WithoutHearing(Ownership):
    """Knows of life only what the log shows."""

    def heard(self, epoch: int, owner: bytes) -> None:
        del epoch, owner


class WithoutStayingSuperseded(Ownership):
    """Takes the group's word for good: one that was superseded claims again."""

    def assigned(self, now: Reading) -> list[Effect]:
        self.is_given = True
        return super().assigned(now)

    def revoked(self, now: Reading) -> list[Effect]:
        self.is_given = False
        return super().revoked(now)

    def tick(self, now: Reading) -> list[Effect]:
        owns = self.phase in (Phase.OWNING, Phase.RESOLVING)
        self._entitled = self._entitled or (getattr(self, "is_given", False) and not owns)
        return super().tick(now)


MUTATIONS = {
    "no gap rule": Mutation(ownership=WithoutGapRule),
    "no effects of what was read": Mutation(ownership=WithoutReadEffects),
    "in flight not dropped": Mutation(ownership=WithoutDroppingInFlight),
    "optimistic state not dropped": Mutation(keeps_optimistic_state=True),
    "inputs not sought back": Mutation(seeks_back=False),
    "no claim after a silence": Mutation(ownership=WithoutSilence),
    "signs of life not heard": Mutation(ownership=WithoutHearing),
    "claims again though superseded": Mutation(ownership=WithoutStayingSuperseded),
    "snapshots of optimistic state": Mutation(snapshots_optimistic=True),
}


@settings(max_examples=SCHEDULES, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_schedule_of_owners_and_faults_leaves_one_history_and_its_effects(seed: int) -> None:
    ShardWorld(seed).run()


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_each_rule_is_needed_or_some_schedule_breaks(mutation: Mutation) -> None:
    assert any(_breaks(seed, mutation) for seed in range(SCHEDULES_TO_BREAK))


def _breaks(seed: int, mutation: Mutation) -> bool:
    try:
        ShardWorld(seed, mutation).run()
    except (AssertionError, LogStopped):
        return True
    return False
