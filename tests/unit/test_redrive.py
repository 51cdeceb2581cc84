"""A dead letter as a submission again: its key, its terms, its spec."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.terms import DEFAULT_TERMS, EnvVar, JobSpec
from stream_processors.domain.redrive import (
    Changes,
    LetterSource,
    changed_terms,
    redrive_key,
    redriven,
)
from tests.cluster import uid

SPEC = JobSpec("training", image="train:1", command=("train",), env=(EnvVar("A", "1"),))
TERMS = replace(DEFAULT_TERMS, memory_mib=1000, memory_max_mib=4000)
LETTER = LetterSource(uid("a"), 17, TERMS, 40, SPEC)


def test_without_changes_the_same_work_runs_under_the_terms_of_the_last_attempt() -> None:
    command = redriven(LETTER, Changes(), "someone", f"redrive:{uid('a')}")
    assert (command.terms, command.spec, command.priority) == (TERMS, SPEC, 40)
    assert (command.redrives, command.causation_id) == (uid("a"), f"redrive:{uid('a')}")
    assert (command.depends_on, command.key_id) == ((), 0)


def test_the_same_letter_with_the_same_changes_has_the_same_key() -> None:
    changes = Changes(memory_mib=2000, image="train:2")
    assert redrive_key(LETTER, changes) == redrive_key(LETTER, replace(changes))
    assert redriven(LETTER, changes, "a", "x").idempotency_key == (
        redriven(LETTER, changes, "b", "y").idempotency_key
    )


@pytest.mark.parametrize(
    "other",
    [
        (LETTER, Changes(memory_mib=2001)),
        (replace(LETTER, at=18), Changes(memory_mib=2000)),
        (replace(LETTER, job_id=uid("b")), Changes(memory_mib=2000)),
        (LETTER, Changes()),
    ],
)
def test_another_letter_or_other_changes_have_another_key(
    other: tuple[LetterSource, Changes],
) -> None:
    assert redrive_key(*other) != redrive_key(LETTER, Changes(memory_mib=2000))


def test_a_change_that_is_not_said_does_not_change_the_key() -> None:
    """A release with one more thing to change must know the keys of the one before."""
    assert redrive_key(LETTER, Changes()) == f"redrive:{uid('a')}:58f77476f0b2cefc"


def test_more_memory_than_its_bound_raises_the_bound() -> None:
    assert changed_terms(TERMS, Changes(memory_mib=9000)).memory_max_mib == 9000
    assert changed_terms(TERMS, Changes(memory_mib=2000)).memory_max_mib == 4000


@given(st.integers(1, 1 << 30), st.integers(100, 100_000))
def test_a_memory_factor_is_exact_and_rounded_up(memory_mib: int, factor: int) -> None:
    terms = replace(TERMS, memory_mib=memory_mib)
    grown = changed_terms(terms, Changes(memory_factor_milli=factor)).memory_mib
    assert (grown - 1) * 1000 < memory_mib * factor <= grown * 1000


def test_memory_that_is_named_wins_over_a_factor() -> None:
    both = Changes(memory_mib=123, memory_factor_milli=5000)
    assert changed_terms(TERMS, both).memory_mib == 123


def test_image_command_and_variables_can_be_changed() -> None:
    changes = Changes(image="train:2", command=("fix",), env=(EnvVar("B", "2"), EnvVar("A", "3")))
    spec = redriven(LETTER, changes, "someone", "x").spec
    assert (spec.image, spec.command) == ("train:2", ("fix",))
    assert spec.env == (EnvVar("A", "3"), EnvVar("B", "2"))
    assert spec.job_type == "training"
