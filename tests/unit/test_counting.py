"""Which records count: by epoch, owner, seq and prev alone, and alike for every reader."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest

from schemas.codec import encode
from schemas.envelope import LOG_FORMAT, Claim, Consumed, Decision, Input
from schemas.terms import Micros
from stream_processors.domain.counting import (
    GENESIS,
    Chain,
    LogStopped,
    Positions,
    Verdict,
    judge,
)

ANNE, BERT = b"a" * 16, b"b" * 16


def claim(epoch: int, owner: bytes = ANNE, at: int = 0) -> Claim:
    return Claim(LOG_FORMAT, epoch, owner, Micros(at))


def decision(chain: Chain, *consumed: Consumed, at: int = 0) -> Decision:
    """The decision that follows a chain."""
    return Decision(
        LOG_FORMAT,
        chain.epoch,
        chain.owner,
        chain.seq + 1,
        chain.value,
        Micros(max(at, chain.at)),
        consumed,
        (),
    )


def put(chain: Chain, record: Claim | Decision | None) -> tuple[Chain, Verdict]:
    raw = b"anything" if record is None else encode(record)
    return judge(chain, record, raw, chain.next_offset)


def owned() -> Chain:
    chain, verdict = put(GENESIS, claim(1))
    assert verdict is Verdict.CLAIM
    return chain


def test_a_log_begins_with_a_claim_and_the_first_decision_has_seq_one() -> None:
    chain = owned()
    after, verdict = put(chain, decision(chain))
    assert verdict is Verdict.DECISION
    assert (after.epoch, after.owner, after.seq, after.next_offset) == (1, ANNE, 1, 2)


def test_the_chain_hashes_every_record_that_counts_claims_included() -> None:
    chain = owned()
    value = sha256(bytes(32) + encode(claim(1))).digest()
    assert chain.value == value
    record = decision(chain)
    after, _ = put(chain, record)
    assert after.value == sha256(value + encode(record)).digest()


def test_nobody_decides_before_the_first_claim() -> None:
    forged = Decision(LOG_FORMAT, 0, b"", 1, bytes(32), Micros(0), (), ())
    after, verdict = put(GENESIS, forged)
    assert verdict is Verdict.STALE_EPOCH
    assert after == replace(GENESIS, next_offset=1)


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_claim_of_any_epoch_but_the_next_is_lost(epoch: int) -> None:
    assert put(owned(), claim(epoch, BERT))[1] is Verdict.LOST_CLAIM


def test_a_claim_takes_no_seq_and_its_wall_time_does_not_move_the_log() -> None:
    chain, _ = put(owned(), decision(owned(), at=50))
    after, verdict = put(chain, claim(2, BERT, at=10**18))
    assert verdict is Verdict.CLAIM
    assert (after.seq, after.at, after.owner, after.epoch) == (1, 50, BERT, 2)


def test_a_zombie_of_an_earlier_epoch_is_skipped() -> None:
    chain = owned()
    late = decision(chain)
    taken, _ = put(chain, claim(2, BERT))
    after, verdict = put(taken, late)
    assert verdict is Verdict.STALE_EPOCH
    assert after == replace(taken, next_offset=taken.next_offset + 1)


def test_the_loser_of_a_claim_adds_nothing_to_its_epoch() -> None:
    chain = owned()
    assert put(chain, replace(decision(chain), owner=BERT))[1] is Verdict.OTHER_OWNER


def test_a_duplicate_counts_once() -> None:
    chain = owned()
    record = decision(chain)
    after, _ = put(chain, record)
    assert put(after, record)[1] is Verdict.WRONG_SEQ


def test_a_decision_whose_predecessor_is_missing_does_not_count() -> None:
    chain = owned()
    missing, _ = put(chain, decision(chain))
    assert put(chain, decision(missing))[1] is Verdict.WRONG_SEQ


def test_a_decision_on_another_history_does_not_count() -> None:
    chain = owned()
    assert put(chain, replace(decision(chain), prev=bytes(32)))[1] is Verdict.WRONG_PREV


def test_changing_one_byte_of_a_record_unhinges_every_later_decision() -> None:
    chain = owned()
    first = decision(chain, at=5)
    second = decision(put(chain, first)[0], at=6)
    tampered, verdict = put(chain, replace(first, at=Micros(4)))
    assert verdict.counts
    assert put(tampered, second)[1] is Verdict.WRONG_PREV


def test_bytes_that_are_no_record_are_skipped_by_everyone() -> None:
    after, verdict = put(owned(), None)
    assert verdict is Verdict.NO_RECORD
    assert after == replace(owned(), next_offset=2)


def test_progress_of_both_inputs_is_kept_and_one_may_be_left_out() -> None:
    chain = owned()
    both = decision(chain, Consumed(Input.COMMANDS, 0, 7), Consumed(Input.REPORTS, 0, 3))
    chain, _ = put(chain, both)
    chain, _ = put(chain, decision(chain, Consumed(Input.REPORTS, 3, 4)))
    assert chain.consumed == Positions(commands=7, reports=4)


@pytest.mark.parametrize(
    "part",
    [
        Consumed(Input.COMMANDS, 1, 2),
        Consumed(Input.REPORTS, 0, -1),
        Consumed(Input.UNKNOWN, 0, 1),
    ],
)
def test_a_decision_that_counts_but_skips_inputs_stops_the_reader(part: Consumed) -> None:
    chain = owned()
    with pytest.raises(LogStopped, match="consumed"):
        put(chain, decision(chain, part))


@pytest.mark.parametrize("record", [claim(2, BERT), decision(owned())])
def test_a_record_that_counts_in_an_unknown_format_stops_the_reader(
    record: Claim | Decision,
) -> None:
    with pytest.raises(LogStopped, match="format 2"):
        put(owned(), replace(record, format=2))


def test_an_unknown_format_that_does_not_count_stops_nobody() -> None:
    assert put(owned(), replace(claim(1, BERT), format=2))[1] is Verdict.LOST_CLAIM


def test_time_that_goes_backwards_stops_the_reader() -> None:
    chain, _ = put(owned(), decision(owned(), at=50))
    with pytest.raises(LogStopped, match="goes back by 1"):
        put(chain, replace(decision(chain), at=Micros(49)))


@pytest.mark.parametrize("offset", [0, 2])
def test_missing_records_stop_the_reader(offset: int) -> None:
    with pytest.raises(LogStopped, match="1 was due"):
        judge(owned(), None, b"", offset)
