"""What the log protocol promises on each log: memory and Kafka, with races, zombies and doubt.

Faults are made by `FaultyLog`, which stands between an owner and either log; the lost answer of a
produce is also made for real, by a proxy in front of Kafka. Drawn schedules of all this are in
`tests/property/test_ownership_interleavings.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stream_processors.domain.counting import Verdict
from stream_processors.ownership import Phase
from stream_processors.ownership_effects import Counted, Discard, Owning, SteppedDown
from tests.kafka_proxy import KafkaProxy
from tests.shard_players import (
    FaultyLog,
    KafkaTopic,
    LogCase,
    Player,
    Servers,
    append,
    counted,
    log_case,
    now,
    read_all,
)


@pytest.fixture(params=["memory", "kafka"])
def case(request: pytest.FixtureRequest) -> Iterator[LogCase]:
    with log_case(request) as case:
        yield case


@pytest.fixture
def anne(case: LogCase) -> Player:
    return Player(FaultyLog(case.open()), b"a" * 16)


@pytest.fixture
def bert(case: LogCase) -> Player:
    return Player(FaultyLog(case.open()), b"b" * 16)


def test_a_claim_race_has_one_winner_and_the_loser_claims_the_next_epoch(
    anne: Player, bert: Player
) -> None:
    for player in (anne, bert):
        player.log.holds = True
        player.assign()
        player.step_until(lambda player=player: bool(player.log.held))
    anne.log.land(bert.log.held[0][0])
    anne.log.land(anne.log.held[0][0])
    anne.log.holds = False
    anne.log.give_up()
    anne.step_until(lambda: bool(anne.of(SteppedDown)))
    assert not anne.of(Owning)
    anne.step_until(lambda: bool(anne.of(Owning)))
    chain, verdicts = counted(read_all(anne.log))
    assert verdicts == [Verdict.CLAIM, Verdict.LOST_CLAIM, Verdict.CLAIM]
    assert (chain.epoch, chain.owner) == (2, anne.owner)


def test_decisions_count_in_order_and_their_effects_follow(anne: Player) -> None:
    anne.own()
    for _ in range(5):
        anne.step_until(lambda: anne.ownership.can_append)
        anne.decide(inputs=2)
    anne.step_until(lambda: anne.ownership.in_flight == 0)
    assert anne.effects == [1, 2, 3, 4, 5]
    chain, verdicts = counted(read_all(anne.log))
    assert verdicts == [Verdict.CLAIM] + [Verdict.DECISION] * 5
    assert chain == anne.ownership.counted
    assert chain.consumed.commands == 10
    assert not anne.of(Discard)


def test_an_acknowledged_zombie_has_no_effects_and_steps_down(anne: Player, bert: Player) -> None:
    anne.own()
    bert.own()
    anne.decide(b"zombie")
    anne.step_until(lambda: bool(anne.of(SteppedDown)))
    assert anne.effects == []
    assert len(anne.of(Discard)) == 1
    chain, verdicts = counted(read_all(anne.log))
    assert verdicts[:3] == [Verdict.CLAIM, Verdict.CLAIM, Verdict.STALE_EPOCH]
    assert chain.seq == 0


def test_a_takeover_goes_on_where_the_fold_stands(anne: Player, bert: Player) -> None:
    anne.own()
    for _ in range(3):
        anne.step_until(lambda: anne.ownership.can_append)
        anne.decide(inputs=4)
    anne.step_until(lambda: anne.ownership.in_flight == 0)
    bert.own()
    (owning,) = bert.of(Owning)
    assert isinstance(owning, Owning)
    assert (owning.epoch, owning.chain.seq, owning.chain.consumed.commands) == (2, 3, 12)
    bert.decide()
    bert.step_until(lambda: bert.effects == [5])
    anne.step_until(lambda: bool(anne.of(SteppedDown)))
    told = [signal for signal in bert.signals if isinstance(signal, Counted)]
    assert [signal.own for signal in told] == [False] * 4 + [True] * 2


def test_a_takeover_from_a_snapshot_reads_only_what_came_after(
    case: LogCase, anne: Player, bert: Player
) -> None:
    anne.own()
    anne.decide()
    anne.step_until(lambda: anne.ownership.in_flight == 0)
    bert.ownership.restore(anne.ownership.counted)
    bert.own()
    assert [signal.offset for signal in bert.of(Counted) if isinstance(signal, Counted)] == [2]


def test_a_duplicate_of_a_retried_send_counts_once(anne: Player) -> None:
    anne.own()
    anne.decide(b"once")
    anne.step_until(lambda: anne.ownership.in_flight == 0)
    anne.log.land(anne.log.sent[-1])
    anne.decide(b"next")
    anne.step_until(lambda: anne.ownership.in_flight == 0)
    assert anne.effects == [1, 3]
    verdicts = counted(read_all(anne.log))[1]
    assert verdicts[2] is Verdict.WRONG_SEQ
    assert not anne.of(Discard)


def test_foreign_bytes_in_the_log_leave_a_gap_that_is_read(anne: Player) -> None:
    anne.own()
    anne.log.land(b"\x00\x00\x00\x00\x63 not of this release")
    anne.decide()
    anne.step_until(lambda: anne.ownership.in_flight == 0)
    assert anne.effects == [2]
    assert counted(read_all(anne.log))[1][1] is Verdict.NO_RECORD


def test_an_append_whose_answer_was_lost_keeps_its_effects(anne: Player) -> None:
    anne.own()
    anne.log.loses_answers = True
    anne.decide(b"first")
    anne.decide(b"second")
    anne.step_until(lambda: anne.ownership.in_flight == 0)
    anne.log.loses_answers = False
    anne.step_until(lambda: anne.ownership.can_append)
    assert anne.effects == [1, 2]


def test_a_send_that_was_lost_is_decided_anew_and_its_late_arrival_is_a_zombie(
    anne: Player,
) -> None:
    anne.own()
    anne.log.holds = True
    anne.decide(b"lost")
    anne.log.holds = False
    anne.log.give_up()
    anne.step_until(lambda: bool(anne.of(Discard)))
    anne.step_until(lambda: anne.ownership.can_append)
    owning = anne.of(Owning)[-1]
    assert isinstance(owning, Owning)
    assert owning.chain.consumed.commands == 0
    anne.decide(b"anew")
    anne.step_until(lambda: anne.ownership.in_flight == 0)
    anne.log.land(anne.log.held[0][0])
    assert anne.effects == [1]
    assert counted(read_all(anne.log))[1] == [Verdict.CLAIM, Verdict.DECISION, Verdict.WRONG_SEQ]


def test_a_send_given_up_that_lands_first_counts_and_what_replaced_it_does_not(
    anne: Player,
) -> None:
    anne.own()
    anne.log.holds = True
    anne.decide(b"late", inputs=3)
    anne.log.give_up()
    anne.step_until(lambda: bool(anne.of(Discard)))
    anne.step_until(lambda: anne.ownership.can_append)
    anne.log.holds = False
    anne.log.land(anne.log.held[0][0])
    anne.decide(b"too late", inputs=1)
    anne.step_until(lambda: bool(anne.effects) and anne.ownership.can_append)
    assert anne.effects == [1]
    assert anne.ownership.counted.consumed.commands == 3
    verdicts = counted(read_all(anne.log))[1]
    assert verdicts == [Verdict.CLAIM, Verdict.DECISION, Verdict.WRONG_SEQ]


def test_a_tampered_record_unhinges_all_that_follow_it(case: LogCase, anne: Player) -> None:
    anne.own()
    for number in range(3):
        anne.step_until(lambda: anne.ownership.can_append)
        anne.decide(b"pay %d" % number)
    anne.step_until(lambda: anne.ownership.in_flight == 0)
    entries = read_all(anne.log)
    copy = case.open_other()
    append(copy, *[entry.value.replace(b"pay 1", b"pay 9") for entry in entries])
    honest, tampered = counted(entries), counted(read_all(copy))
    assert honest[1] == [Verdict.CLAIM] + [Verdict.DECISION] * 3
    assert tampered[1] == [
        Verdict.CLAIM,
        Verdict.DECISION,
        Verdict.DECISION,
        Verdict.WRONG_PREV,
    ]
    assert tampered[0].value != honest[0].value


def test_a_claim_whose_outcome_is_unknown_is_found_or_made_again(anne: Player) -> None:
    anne.log.loses_answers = True
    anne.assign()
    anne.step_until(lambda: bool(anne.log.sent))
    anne.step_until(lambda: bool(anne.of(Owning)))
    assert counted(read_all(anne.log))[0].owner == anne.owner


def test_one_whose_shard_was_revoked_owns_it_until_the_next_claims(
    anne: Player, bert: Player
) -> None:
    anne.own()
    anne.decide()
    anne.signals += anne.driver.revoked(now())
    bert.own()
    anne.step_until(lambda: anne.ownership.phase is Phase.FOLLOWING)
    chain, _ = counted(read_all(bert.log))
    assert chain.owner == bert.owner
    mine = [entry.offset for entry in read_all(bert.log)][1 : 1 + chain.seq]
    assert anne.effects == mine


# Kafka alone: the answer of a produce really lost on its way.


@pytest.fixture
def proxied(request: pytest.FixtureRequest) -> Iterator[tuple[KafkaProxy, Player]]:
    servers: Servers = request.getfixturevalue("servers")
    proxy = KafkaProxy(servers.bootstrap)
    with KafkaTopic(servers.bootstrap) as topic:
        log = topic.open(0, proxy.bootstrap, 1.0)
        yield proxy, Player(FaultyLog(log), b"p" * 16)
    proxy.close()


def test_a_produce_whose_answer_never_comes_is_resolved_by_reading(
    proxied: tuple[KafkaProxy, Player],
) -> None:
    proxy, player = proxied
    player.own()
    player.decide(b"before")
    player.step_until(lambda: player.effects == [1])
    proxy.drops_produce_answers.set()
    player.decide(b"in doubt")
    player.step_until(proxy.dropped.is_set)
    player.step_until(lambda: player.effects == [1, 2])
    assert not player.of(Discard)
    proxy.drops_produce_answers.clear()
    player.step_until(lambda: player.ownership.can_append)
    player.decide(b"after")
    player.step_until(lambda: player.ownership.in_flight == 0)
    verdicts = counted(read_all(player.log))[1]
    assert verdicts.count(Verdict.DECISION) == 3
    assert len(player.effects) == 3


def test_a_claim_whose_answer_never_comes_is_found_by_reading(
    proxied: tuple[KafkaProxy, Player],
) -> None:
    proxy, player = proxied
    proxy.drops_produce_answers.set()
    player.assign()
    player.step_until(lambda: bool(player.of(Owning)))
    proxy.drops_produce_answers.clear()
    player.decide()
    player.step_until(lambda: player.ownership.in_flight == 0)
    assert len(player.effects) == 1
