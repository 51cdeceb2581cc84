"""One ownership, step by step: what it answers to entries, outcomes, assignments and time."""

from __future__ import annotations

import pytest

from infra.log import Entry, read_record
from schemas.envelope import LOG_FORMAT, Claim, Decision
from schemas.terms import Micros
from stream_processors.domain.counting import Chain, Positions
from stream_processors.log_clock import Reading
from stream_processors.ownership import Ownership, Phase
from stream_processors.ownership_effects import Append, Counted, Discard, Owning, Read, SteppedDown
from tests.ownership_scene import ANNE, BERT, SECOND, WALL, Scene, kinds, one


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def owning(scene: Scene) -> Scene:
    scene.own()
    assert scene.anne.phase is Phase.OWNING
    return scene


def test_a_claim_is_made_at_the_end_of_the_log_for_the_next_epoch(scene: Scene) -> None:
    assert scene.anne.assigned(scene.now()) == [Read(0)]
    scene.rival_claims()
    assert scene.anne.reached_end(1, scene.now()) == [Read(0)], "the end was not yet read"
    record = read_record(one(scene.read(), Append).value)
    assert record == Claim(LOG_FORMAT, 2, ANNE, Micros(WALL))


def test_ownership_begins_with_the_sight_of_the_own_claim_not_with_its_acknowledgement(
    scene: Scene,
) -> None:
    claim = scene.claim()
    scene.land(claim.value)
    assert scene.acknowledge(claim, 0) == [Read(0)]
    assert not scene.anne.can_append
    assert kinds(scene.read()) == ["Counted", "Owning"]
    assert scene.anne.can_append


def test_a_lost_claim_is_followed_by_another_only_after_a_silence(scene: Scene) -> None:
    claim = scene.claim()
    scene.rival_claims()
    scene.land(claim.value)
    scene.acknowledge(claim, 1)
    assert one(scene.read(), SteppedDown).reason == "lost the claim"
    assert scene.listen(1) == []
    assert scene.listen(1) == [Read(2)]
    scene.read()
    again = read_record(one(scene.listen(0.1), Append).value)
    assert isinstance(again, Claim)
    assert again.epoch == 2


def test_a_claim_nobody_answered_is_looked_for_and_made_again(scene: Scene) -> None:
    scene.claim()
    scene.passed += 11 * SECOND
    assert scene.anne.tick(scene.now()) == [Read(0)]
    assert kinds(scene.read()) == ["SteppedDown"]
    scene.passed += SECOND
    scene.anne.tick(scene.now())
    again = read_record(one(scene.read(), Append).value)
    assert isinstance(again, Claim)
    assert again.epoch == 1


def test_the_next_decision_follows_the_one_in_flight(owning: Scene) -> None:
    first, second = owning.decide(), owning.decide()
    records = [read_record(first.value), read_record(second.value)]
    assert [record.seq for record in records if isinstance(record, Decision)] == [1, 2]
    assert not owning.anne.can_append, "two in flight are enough"
    effects = owning.acknowledge(first, owning.land(first.value))
    effects += owning.acknowledge(second, owning.land(second.value))
    assert [effect.token for effect in effects if isinstance(effect, Counted)] == [
        first.token,
        second.token,
    ]
    assert owning.anne.counted.consumed == Positions(commands=2)


def test_acknowledgements_out_of_order_count_in_log_order(owning: Scene) -> None:
    first, second = owning.decide(), owning.decide()
    owning.land(first.value)
    owning.land(second.value)
    assert owning.acknowledge(second, 2) == []
    assert kinds(owning.acknowledge(first, 1)) == ["Counted", "Counted"]


def test_an_acknowledgement_behind_a_gap_counts_only_after_reading(owning: Scene) -> None:
    sent = owning.decide()
    owning.land(b"somebody else's")
    assert owning.acknowledge(sent, owning.land(sent.value)) == [Read(1)]
    assert not owning.anne.can_append
    counted = one(owning.read(), Counted)
    assert (counted.offset, counted.own, counted.token) == (2, True, sent.token)
    assert owning.anne.can_append


def test_an_acknowledgement_behind_a_rivals_claim_does_not_count(owning: Scene) -> None:
    sent = owning.decide()
    owning.rival_claims()
    assert owning.acknowledge(sent, owning.land(sent.value)) == [Read(1)]
    effects = owning.read()
    assert kinds(effects) == ["Discard", "Counted", "SteppedDown"]
    assert one(effects, Counted).own is False
    assert owning.anne.phase is Phase.FOLLOWING


def test_an_acknowledgement_without_offset_counts_only_after_reading(owning: Scene) -> None:
    sent = owning.decide()
    owning.land(sent.value)
    assert owning.acknowledge(sent, None) == [Read(1)]
    assert one(owning.read(), Counted).token == sent.token


def test_an_error_about_what_has_counted_changes_nothing(owning: Scene) -> None:
    first, second = owning.decide(), owning.decide()
    owning.land(first.value)
    owning.land(second.value)
    assert owning.fail(first) == [Read(1)]
    assert kinds(owning.read()) == ["Counted", "Counted"]
    assert owning.anne.phase is Phase.OWNING


def test_an_error_about_what_is_not_there_discards_everything_behind_it(owning: Scene) -> None:
    first, second = owning.decide(), owning.decide()
    owning.land(second.value)
    assert owning.fail(first) == [Read(1)]
    assert owning.acknowledge(second, 1) == []
    effects = owning.read()
    assert kinds(effects) == ["Discard", "Owning"]
    assert one(effects, Owning).chain.consumed == Positions(commands=0)
    third = read_record(owning.decide().value)
    assert isinstance(third, Decision)
    assert third.seq == 1


def test_what_follows_a_counted_record_in_doubt_is_discarded_alone(owning: Scene) -> None:
    first, second = owning.decide(), owning.decide()
    owning.land(first.value)
    owning.fail(first)
    effects = owning.read()
    assert kinds(effects) == ["Counted", "Discard", "Owning"]
    assert one(effects, Discard).chain.seq == 1
    assert owning.acknowledge(second, owning.land(second.value)) == [Read(2)], (
        "what was discarded may count after all"
    )


def test_a_discarded_decision_that_lands_late_has_its_effects_and_moves_the_inputs(
    owning: Scene,
) -> None:
    lost = owning.decide()
    owning.fail(lost)
    owning.read()
    owning.passed += SECOND
    other = owning.decide()
    owning.land(lost.value)
    assert owning.acknowledge(other, owning.land(other.value)) == [Read(1)]
    effects = owning.read()
    assert [kind for kind in kinds(effects) if kind != "Read"] == ["Discard", "Counted", "Owning"]
    counted = one(effects, Counted)
    assert (counted.own, counted.token) == (True, None)
    assert one(effects, Owning).chain.consumed == Positions(commands=1)


def test_a_send_nobody_answered_is_in_doubt_after_a_while(owning: Scene) -> None:
    sent = owning.decide()
    owning.passed += 11 * SECOND
    owning.land(sent.value)
    assert owning.anne.tick(owning.now()) == [Read(1)]
    assert one(owning.read(), Counted).token == sent.token
    assert owning.acknowledge(sent, 1) == [], "an answer about what has counted says nothing new"


def test_an_idle_owner_learns_of_a_rival_by_reading_on(owning: Scene) -> None:
    owning.rival_claims()
    owning.passed += 6 * SECOND
    assert owning.anne.tick(owning.now()) == [Read(1)]
    assert owning.anne.can_append, "reading on holds nobody up"
    assert one(owning.read(), SteppedDown).reason == "superseded"


@pytest.mark.parametrize("off_s", [-61, 61])
def test_an_owner_with_a_wrong_clock_steps_down_and_tries_again_later(
    scene: Scene, off_s: int
) -> None:
    scene.clock_off = off_s * SECOND
    assert "61 s off" in one(scene.own(), SteppedDown).reason
    assert not scene.anne.can_append
    scene.passed += 31 * SECOND
    scene.clock_off = 0
    assert scene.anne.tick(scene.now()) == [Read(1)]
    scene.read()
    claim = one(scene.listen(0.1), Append)
    scene.acknowledge(claim, scene.land(claim.value))
    assert one(scene.read(), Owning).epoch == 2


def test_a_pause_around_the_claim_is_not_taken_for_a_wrong_clock(scene: Scene) -> None:
    claim = scene.claim()
    scene.passed += 3600 * SECOND
    entry = Entry(0, claim.value, Micros(WALL + 1800 * SECOND))
    assert kinds(scene.anne.entries([entry], scene.now())) == ["Counted", "Owning"]


def test_a_wall_clock_that_is_stepped_after_the_claim_moves_no_log_time(scene: Scene) -> None:
    claim = scene.claim()
    scene.land(claim.value)
    scene.passed += SECOND
    scene.clock_off = 113 * SECOND
    assert kinds(scene.read()) == ["Counted", "Owning"]
    assert scene.anne.log_time(scene.now()) == WALL + SECOND


def test_one_restored_from_a_snapshot_reads_from_there() -> None:
    ownership = Ownership(ANNE)
    chain = Chain(epoch=4, owner=BERT, seq=9, value=bytes(32), at=Micros(5), next_offset=30)
    ownership.restore(chain)
    assert ownership.assigned(Reading(0, WALL)) == [Read(30)]
    claim = read_record(one(ownership.reached_end(30, Reading(0, WALL)), Append).value)
    assert isinstance(claim, Claim)
    assert claim.epoch == 5


def test_deciding_without_owning_is_a_bug_that_stops_the_process(scene: Scene) -> None:
    with pytest.raises(AssertionError, match="FOLLOWING"):
        scene.anne.append((), (), Micros(0), scene.now())
