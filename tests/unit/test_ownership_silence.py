"""Who claims when: the group's word counts once, an owner's silence tells, and nobody plays ping-pong."""

from __future__ import annotations

import pytest

from infra.log import read_record
from schemas.codec import encode
from schemas.envelope import LOG_FORMAT, Claim
from schemas.terms import Micros
from stream_processors.ownership import Ownership, Phase
from stream_processors.ownership_effects import Append, Counted, Owning, Read
from tests.ownership_scene import ANNE, BERT, SECOND, WALL, Scene, kinds, one


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def owning(scene: Scene) -> Scene:
    scene.own()
    assert scene.anne.phase is Phase.OWNING
    return scene


def test_nobody_claims_at_once_without_being_assigned(scene: Scene) -> None:
    assert scene.read() == []
    assert scene.anne.tick(scene.now()) == []
    assert scene.listen(1.4) == []


def test_a_shard_of_which_nothing_is_heard_is_claimed_by_one_who_listens(scene: Scene) -> None:
    scene.rival_claims()
    scene.follow()
    assert scene.listen(2) == [Read(1)]
    assert scene.read() == [], "the answer may have kept us waiting: another look at the clock"
    claim = one(scene.listen(0.1), Append)
    scene.acknowledge(claim, scene.land(claim.value))
    assert one(scene.read(), Owning).epoch == 2


def test_an_owner_that_gives_signs_of_life_is_left_alone(scene: Scene) -> None:
    scene.rival_claims()
    scene.follow()
    for _ in range(20):
        assert scene.listen(1) == []
        scene.anne.heard(1, BERT)


def test_signs_of_one_who_is_not_the_owner_any_more_say_nothing(scene: Scene) -> None:
    scene.rival_claims()
    scene.follow()
    scene.listen(1)
    scene.anne.heard(0, BERT)
    scene.anne.heard(1, ANNE)
    assert scene.listen(1) == [Read(1)]


def test_a_record_that_counts_is_a_sign_of_life_and_a_dead_ones_record_is_not(
    scene: Scene,
) -> None:
    scene.rival_claims()
    scene.follow()
    scene.listen(1)
    scene.rival_claims()
    scene.follow()
    assert scene.listen(1) == []
    scene.land(encode(Claim(LOG_FORMAT, 1, BERT, Micros(WALL))))
    scene.follow()
    assert scene.listen(1) == [Read(3)]


def test_one_who_slept_has_heard_nothing_and_claims_nothing(scene: Scene) -> None:
    scene.rival_claims()
    scene.follow()
    scene.listen(1)
    scene.passed += 3600 * SECOND
    assert scene.anne.tick(scene.now()) == []
    scene.listen(1)
    scene.passed += 3600 * SECOND
    scene.read()
    scene.anne.tick(scene.now())
    assert scene.anne.phase is Phase.FOLLOWING


def test_what_was_read_at_the_end_holds_a_claim_back(scene: Scene) -> None:
    scene.rival_claims()
    scene.follow()
    scene.listen(2)
    scene.rival_claims()
    scene.read()
    assert scene.listen(1) == []
    assert scene.anne.phase is Phase.FOLLOWING


def test_a_log_that_cannot_be_asked_says_nothing_of_its_owner(scene: Scene) -> None:
    scene.rival_claims()
    scene.follow()
    assert scene.listen(2) == [Read(1)]
    scene.anne.deaf()
    scene.read()
    assert scene.listen(1) == []
    assert scene.anne.phase is Phase.FOLLOWING


def test_rivals_do_not_march_in_step() -> None:
    assert Ownership(bytes(16)).options == Ownership(b"\xff" * 16).options
    lazy, eager = Scene(), Scene()
    lazy.anne, eager.anne = Ownership(b"\xff" * 16), Ownership(bytes(16))
    assert (eager.listen(1.6), lazy.listen(1.6)) == ([Read(0)], [])


def test_an_owner_whose_shard_was_revoked_goes_on_until_another_claims(owning: Scene) -> None:
    first, second = owning.decide(), owning.decide()
    owning.land(first.value)
    assert owning.anne.revoked(owning.now()) == []
    assert one(owning.acknowledge(first, 1), Counted).token == first.token
    assert owning.anne.can_append
    owning.rival_claims()
    assert owning.acknowledge(second, owning.land(second.value)) == [Read(2)]
    assert kinds(owning.read()) == ["Discard", "Counted", "SteppedDown"]
    assert owning.anne.phase is Phase.FOLLOWING


def test_one_that_was_superseded_does_not_claim_while_the_next_lives(owning: Scene) -> None:
    owning.rival_claims()
    owning.passed += 6 * SECOND
    owning.anne.tick(owning.now())
    owning.read()
    for _ in range(60):
        assert owning.listen(1) == []
        owning.anne.heard(2, BERT)


def test_the_groups_word_counts_again_for_one_that_was_superseded(owning: Scene) -> None:
    owning.rival_claims()
    owning.follow()
    assert owning.anne.phase is Phase.FOLLOWING
    assert owning.anne.assigned(owning.now()) == [Read(2)]
    claim = read_record(one(owning.read(), Append).value)
    assert isinstance(claim, Claim)
    assert claim.epoch == 3


def test_a_word_taken_back_before_the_end_was_read_is_no_reason_to_claim(scene: Scene) -> None:
    scene.rival_claims()
    scene.anne.assigned(scene.now())
    scene.anne.revoked(scene.now())
    assert kinds(scene.read()) == ["Counted"]
    assert scene.listen(0.1) == []
    assert scene.anne.phase is Phase.FOLLOWING


def test_a_claim_given_up_that_counts_after_all_is_made_good_at_once(scene: Scene) -> None:
    lost = scene.claim()
    scene.passed += 11 * SECOND
    scene.anne.tick(scene.now())
    scene.read()
    assert scene.anne.phase is Phase.WAITING
    scene.land(lost.value)
    scene.follow()
    assert scene.listen(0.2) == [Read(1)], "nobody else can write in this epoch"
    again = read_record(one(scene.read(), Append).value)
    assert isinstance(again, Claim)
    assert again.epoch == 2
