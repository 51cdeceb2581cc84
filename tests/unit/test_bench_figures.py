"""The arithmetic of the measurements: percentiles by nearest rank, and what is missing counts."""

from __future__ import annotations

import itertools

import pytest

from bench.figures import percentile, spread, table
from bench.load import Load

pytestmark = pytest.mark.unit


def test_percentiles_are_values_that_were_really_measured() -> None:
    ordered = [float(number) for number in range(1, 11)]

    assert [percentile(ordered, share) for share in (0.5, 0.9, 0.99, 1.0)] == [5, 9, 10, 10]
    assert percentile([7.0], 0.5) == 7


def test_a_spread_is_in_milliseconds_and_names_what_never_ended() -> None:
    found = spread([0.003, 0.001, 0.002], missing=2)

    assert (found.p50_ms, found.max_ms, found.count, found.missing) == (2, 3, 3, 2)
    assert "2.00" in table({"x": found})


def test_nothing_measured_is_no_number_instead_of_a_good_one() -> None:
    assert spread([], missing=4).p50_ms != spread([], missing=4).p50_ms


def test_submissions_are_due_at_a_fixed_rate_whenever_they_are_sent() -> None:
    load = Load("x", rate=1000, count=5, shards=2)
    moments = [moment for moment, _, _ in load.schedule()]
    gaps = [after - before for before, after in itertools.pairwise(moments)]

    assert gaps == pytest.approx([0.001] * 4)
    assert len(load.due) == 5
