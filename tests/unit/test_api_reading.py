"""Lines, documents, cursors and positions come out of the views as callers may count on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.http.errors import ApiError
from infra.http.tokens import CommandPlace, format_position, parse_position, parse_token
from infra.http.waiting import is_reached, wanted_places
from infra.kafka import Message
from projections.job_answers import micros, moment, readable_config
from projections.job_logs import _Sieve
from projections.log_format import last_lines
from projections.read_ports import LogLine, LogQuestion
from projections.read_requests import parse_cursor
from schemas.codec import encode
from schemas.public import LogLines
from schemas.terms import Micros

pytestmark = pytest.mark.unit

JOB = "00000000-0000-8000-8000-000000000001"
PLACES = st.builds(CommandPlace, st.integers(0, 99_999), st.integers(0, 10**18 - 1))


def record(first: int, *lines: str, job: str = JOB, task: int = 0, dropped: int = 0) -> Message:
    """What an agent sends of one task's lines."""
    batch = LogLines(job, 1, task, "n1", "stdout", first, dropped, Micros(1), list(lines))
    return Message("logs", 0, 0, job.encode(), encode(batch), [], 0)


def texts(sieve: _Sieve, *records: Message) -> list[str]:
    return [line.text for one in records for line in sieve.lines(one)]


def test_lines_that_an_agent_sent_again_are_shown_once() -> None:
    sieve = _Sieve(LogQuestion(JOB, 0))
    first, overlapping = record(0, "a", "b"), record(1, "b", "c")
    assert texts(sieve, first, first, overlapping) == ["a", "b", "c"]


def test_lines_of_other_jobs_and_what_is_no_line_are_passed_over() -> None:
    sieve = _Sieve(LogQuestion(JOB, 0))
    other = record(0, "x", job=JOB.replace("1", "2"))
    broken = Message("logs", 0, 0, JOB.encode(), b"\x00broken", [], 0)
    empty = Message("logs", 0, 0, JOB.encode(), None, [], 0)
    assert texts(sieve, other, broken, empty, record(0, "a")) == ["a"]


def test_tasks_are_counted_apart_and_can_be_asked_for_alone() -> None:
    both = (record(0, "a"), record(0, "b", task=1))
    assert texts(_Sieve(LogQuestion(JOB, 0)), *both) == ["a", "b"]
    assert texts(_Sieve(LogQuestion(JOB, 0, task=1)), *both) == ["b"]
    assert texts(_Sieve(LogQuestion(JOB, 0, attempt=2)), *both) == []


def test_lines_left_out_by_the_agent_leave_a_note() -> None:
    sieve = _Sieve(LogQuestion(JOB, 0))
    found = [
        line for one in (record(0, "a"), record(9, "b", dropped=8)) for line in sieve.lines(one)
    ]
    assert [line.stream for line in found] == ["stdout", "", "stdout"]
    assert found[1].text.startswith("8 lines were left out")


def test_the_last_lines_are_of_what_is_there_and_the_rest_follows() -> None:
    async def stream() -> AsyncIterator[LogLine | None]:
        for number in range(5):
            yield LogLine(1, 0, "n1", "stdout", number, 1, str(number))
        yield None
        yield LogLine(1, 0, "n1", "stdout", 5, 1, "5")

    async def collect(most: int) -> list[str]:
        return [line.text async for line in last_lines(stream(), most) if line is not None]

    assert asyncio.run(collect(2)) == ["3", "4", "5"]
    assert asyncio.run(collect(0)) == ["5"]
    assert asyncio.run(collect(99)) == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[1]",
        '{"x": NaN}',
        '{"x": "\\ud800"}',
        "[" * 100_000,
        '{"x":' * 200 + "1" + "}" * 200,
        '{"x": ' + "9" * 5000 + "}",
    ],
)
def test_a_document_that_cannot_be_sent_on_is_shown_as_its_text(text: str) -> None:
    assert readable_config(text) == text


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_a_document_is_shown_as_it_was_sent(document: dict[str, int | str | None]) -> None:
    assert readable_config(json.dumps(document)) == document


@given(st.integers(1, 10**17 - 1))
def test_a_moment_keeps_its_microseconds(at: int) -> None:
    assert micros(moment(at)) == at
    assert parse_cursor(f"{at}.3.17") == (moment(at), 3, 17)


@given(PLACES)
def test_a_token_names_its_place(place: CommandPlace) -> None:
    assert parse_token(str(place)) == place


@given(st.dictionaries(st.integers(0, 99_999), st.integers(1, 10**18), max_size=20))
def test_a_view_s_position_is_reached_by_itself_and_by_nothing_before_it(
    consumed: dict[int, int],
) -> None:
    text = format_position(consumed)
    if not consumed:
        assert text == ""
        return
    wanted = parse_position(text)
    assert wanted is not None
    assert is_reached(consumed, wanted)
    shard = min(consumed)
    assert not is_reached({**consumed, shard: consumed[shard] - 1}, wanted)


@pytest.mark.parametrize(
    "text", ["", "1", "1-", "-1", "1-2,", "a-b", "1-2;3-4", "1-2 ", "\u0661-1"]
)
def test_what_is_no_position_is_refused(text: str) -> None:
    assert parse_position(text) is None
    with pytest.raises(ApiError, match="position"):
        wanted_places(text, 8)


def test_a_position_of_a_shard_that_is_not_there_is_refused() -> None:
    with pytest.raises(ApiError, match="there are 2"):
        wanted_places("2-0", 2)
