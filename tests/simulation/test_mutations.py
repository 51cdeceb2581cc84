"""Each rule of the design, broken alone, is found by the simulation; so the simulation is worth it.

A mutation is tried on the seed that found it last, then on a hundred in a row.
"""

from __future__ import annotations

import pytest

from tests.simulation.mutation import Mutation
from tests.simulation.mutations import MUTATIONS, SEEDS, find
from tests.simulation.system import run_seed

pytestmark = pytest.mark.simulation
AT_LEAST = 20


def test_at_least_twenty_rules_are_broken_one_by_one() -> None:
    assert len(MUTATIONS) >= AT_LEAST
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_broken_rule_is_found_within_a_hundred_seeds(mutation: Mutation) -> None:
    found = find(mutation, (mutation.seed,)) or find(mutation, range(1, SEEDS + 1))
    assert found is not None, f"{SEEDS} seeds did not notice: {mutation.name}"


def test_with_every_rule_whole_again_the_same_seeds_find_nothing() -> None:
    for seed in sorted({mutation.seed for mutation in MUTATIONS})[:10]:
        assert run_seed(seed).violation is None, f"seed {seed}"
