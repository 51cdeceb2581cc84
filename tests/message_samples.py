"""Instances of any message class, from its type hints: drawn by Hypothesis, or one fixed sample."""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from itertools import count
from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from schemas.terms import Micros

LONGS = st.one_of(
    st.integers(-64, 63),
    st.integers(0, 5_000_000),
    st.integers(-(2**63), 2**63 - 1),
)
MOMENTS = st.integers(-(2**50), 2**52)
"""Microseconds from 1934 to 2112: what a calendar can show."""
TEXTS = st.one_of(st.just(""), st.text(max_size=12), st.text(min_size=60, max_size=70))


def instances(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a message class, or of the type of one of its fields."""
    simple: dict[Any, st.SearchStrategy[Any]] = {
        int: LONGS,
        Micros: MOMENTS,
        str: TEXTS,
        bytes: st.binary(max_size=80),
        bool: st.booleans(),
    }
    if kind in simple:
        return simple[kind]
    if get_origin(kind) in (tuple, list):
        return _columns(instances(get_args(kind)[0])).map(get_origin(kind))
    if issubclass(kind, StrEnum):
        return st.sampled_from(kind)
    hints = get_type_hints(kind)
    columns = {field.name: instances(hints[field.name]) for field in fields(kind)}
    return st.builds(kind, **columns)


def _columns(items: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Short ones, ones of a single value, and ones longer than the codec does item by item."""
    repeated = st.tuples(items, st.integers(0, 70)).map(lambda pair: [pair[0]] * pair[1])
    return st.one_of(
        st.lists(items, max_size=3), repeated, st.lists(items, min_size=9, max_size=12)
    )


def sample(cls: type) -> Any:
    """One instance, always the same, in which no two values are equal by chance."""
    return _sample(cls, count(1))


def _sample(kind: Any, numbers: count[int]) -> Any:
    number = next(numbers)
    simple: dict[Any, Any] = {
        int: (-1) ** number * number**5,
        Micros: 1_700_000_000_000_000 + number,
        str: f"text {number} \N{SNOWMAN}" + "x" * (number % 70),
        bytes: bytes([number % 256, 0, 255]) * number,
        bool: number % 2 == 0,
    }
    if kind in simple:
        return simple[kind]
    if get_origin(kind) in (tuple, list):
        item = get_args(kind)[0]
        return get_origin(kind)(_sample(item, numbers) for _ in range(1 + number % 4))
    if issubclass(kind, StrEnum):
        members = list(kind)
        return members[number % len(members)]
    hints = get_type_hints(kind)
    return kind(**{field.name: _sample(hints[field.name], numbers) for field in fields(kind)})
