"""How far behind a view is said to be, and which figures of dead letters are shown."""

from __future__ import annotations

from datetime import UTC, datetime
from time import time_ns

import pytest

from foldline.view_watch import show_depth
from infra.telemetry import metrics_text
from projections.dlq.answers import depth_answer
from projections.health import LAG_MAX_RECORDS, _lag, _lag_check
from projections.queries import Standing

pytestmark = pytest.mark.unit


def test_a_view_that_has_everything_is_not_behind_however_old_the_log_is() -> None:
    lag = _lag({0: 5, 1: 7}, {0: Standing(5, 0, 1), 1: Standing(7, 0, 1)})
    assert lag is not None
    assert (lag.records, lag.seconds) == (0, 0.0)
    assert _lag_check("hot view", lag).detail == "up to date"


def test_the_worst_shard_says_how_many_records_and_how_old() -> None:
    now = time_ns() // 1000
    stands = {0: Standing(5, 0, now - 9_000_000), 1: Standing(1, 0, now - 3_000_000)}
    lag = _lag({0: 6, 1: 101}, stands)
    assert lag is not None
    assert lag.records == 100
    assert 9.0 <= lag.seconds < 15.0
    check = _lag_check("audit view", lag)
    assert check.ok
    assert check.detail.startswith("100 records behind; what it shows is 9")


def test_too_far_behind_and_unknown_are_not_well() -> None:
    far = _lag({0: LAG_MAX_RECORDS + 1}, {})
    assert far is not None
    assert not _lag_check("audit view", far).ok
    assert _lag("Kafka is away", {}) is None
    assert not _lag_check("audit view", None).ok


def test_depth_is_in_all_and_of_the_most_frequent_and_forgets_what_was_dealt_with() -> None:
    def row(name: str, letters: int, second: int) -> dict[str, object]:
        at = datetime.fromtimestamp(second, UTC)
        return {"fingerprint": name, "letters": letters, "oldest_at": at}

    rows = [row("often", 7, 100), *(row(f"rare{n}", 1, 200 + n) for n in range(20))]
    show_depth(rows)
    text = metrics_text()
    assert "foldline_dead_letters_open 27.0" in text
    assert "foldline_dead_letters_oldest_timestamp_seconds 100.0" in text
    assert 'foldline_dead_letters_open_by_fingerprint{fingerprint="often"} 7.0' in text
    assert text.count("foldline_dead_letters_open_by_fingerprint{") == 10
    answer = depth_answer(rows, 160_000_000)
    assert (answer.open, answer.oldest_age_seconds, len(answer.by_fingerprint)) == (27, 60.0, 10)
    show_depth([])
    text = metrics_text()
    assert "foldline_dead_letters_open 0.0" in text
    assert "foldline_dead_letters_open_by_fingerprint{" not in text
