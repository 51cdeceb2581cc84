"""Log time: on from the log's last value, at the owner's rate, slowly towards wall time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.terms import Micros
from stream_processors.log_clock import LogClock, Reading

SECOND = 1_000_000
WALL = 1_800_000_000 * SECOND


def test_a_new_owner_begins_at_wall_time_when_the_log_rested() -> None:
    clock = LogClock(Micros(WALL - 3600 * SECOND), Reading(0, WALL))
    assert clock.at(Reading(SECOND, WALL + SECOND)) == WALL + SECOND


def test_log_time_ahead_of_the_wall_waits_for_it_without_going_back() -> None:
    clock = LogClock(Micros(WALL + SECOND), Reading(0, WALL))
    assert clock.at(Reading(0, WALL)) == WALL + SECOND
    for second in range(1, 400):
        clock.at(Reading(second * SECOND, WALL + second * SECOND))
    assert clock.at(Reading(400 * SECOND, WALL + 400 * SECOND)) == WALL + 400 * SECOND


def test_a_wall_clock_set_an_hour_on_is_followed_slowly() -> None:
    clock = LogClock(Micros(0), Reading(0, WALL))
    at = clock.at(Reading(10 * SECOND, WALL + 3610 * SECOND))
    assert at == WALL + 10 * SECOND + 50_000


@given(
    st.integers(-5 * SECOND, 5 * SECOND),
    st.lists(st.tuples(st.integers(0, 5 * SECOND), st.integers(-10 * SECOND, 10 * SECOND))),
)
def test_log_time_never_goes_backwards(lead: int, steps: list[tuple[int, int]]) -> None:
    clock = LogClock(Micros(WALL + lead), Reading(0, WALL))
    passed, wall = 0, WALL
    last = clock.at(Reading(0, WALL))
    assert last >= WALL + lead
    for by, jump in steps:
        passed, wall = passed + by, wall + by + jump
        at = clock.at(Reading(passed, wall))
        assert last <= at <= last + by + by // 200 + SECOND // 100
        last = at
