"""Recorded logs of every release still lead to the recorded state, and a tampered one is found."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from infra.follow import ShardFollower
from infra.log import Entry
from schemas.digest import format_digest
from schemas.terms import Micros
from stream_processors.domain.counting import LogStopped
from stream_processors.domain.rows import all_jobs_digest, job_row

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def load(path: Path) -> tuple[list[bytes], dict[str, Any]]:
    told = json.loads(path.read_text())
    return [b64decode(text) for text in told.pop("entries")], told


def replay(values: list[bytes]) -> dict[str, Any]:
    follower = ShardFollower(0)
    entries = [Entry(offset, value, Micros(0)) for offset, value in enumerate(values)]
    counted = [entry.offset for entry in entries if follower.feed(entry)]
    return {
        "counted": counted,
        "chain": follower.chain.value.hex(),
        "digest": format_digest(all_jobs_digest(follower.state)),
        "rows": [asdict(job_row(0, job)) for job in follower.state.jobs.values()],
    }


def test_there_are_histories_to_replay() -> None:
    assert len(HISTORIES) >= 2


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_recorded_log_leads_to_the_recorded_state(path: Path) -> None:
    values, told = load(path)
    assert replay(values) == told


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_record_changed_removed_doubled_or_moved_is_found(path: Path) -> None:
    values, told = load(path)
    sent_once = [offset for offset in told["counted"][:-1] if values.count(values[offset]) == 1]
    assert len(sent_once) > 3
    for offset in sent_once:
        flipped = bytearray(values[offset])
        flipped[-1] ^= 1
        changed = [*values[:offset], bytes(flipped), *values[offset + 1 :]]
        removed = [*values[:offset], *values[offset + 1 :]]
        behind = next(other for other in told["counted"] if other > offset)
        moved = [*removed[:behind], values[offset], *removed[behind:]]
        for tampered in (changed, removed, moved):
            assert is_found(tampered, told["chain"]), f"record {offset} was tampered with unseen"
        doubled = [*values[: offset + 1], values[offset], *values[offset + 1 :]]
        assert replay(doubled)["chain"] == told["chain"], "a doubled send changes nothing"


def is_found(values: list[bytes], chain: str) -> bool:
    try:
        return bool(replay(values)["chain"] != chain)
    except LogStopped:
        return True
