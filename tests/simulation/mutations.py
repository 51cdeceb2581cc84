"""Every broken rule, by the part of the design that states it. What each is: see its file."""

from __future__ import annotations

from collections.abc import Iterable

from tests.simulation.broken_log import LOG_MUTATIONS
from tests.simulation.broken_views import VIEW_MUTATIONS
from tests.simulation.broken_work import WORK_MUTATIONS
from tests.simulation.mutation import Mutation
from tests.simulation.system import run_seed
from tests.simulation.world import Violation

MUTATIONS: tuple[Mutation, ...] = (*LOG_MUTATIONS, *WORK_MUTATIONS, *VIEW_MUTATIONS)
SEEDS = 100
"""Within so many seeds each must be found."""


def find(mutation: Mutation, seeds: Iterable[int]) -> tuple[int, Violation] | None:
    """The first of these seeds that finds it, and what it finds."""
    for seed in seeds:
        with mutation.breaks():
            violation = run_seed(seed).violation
        if violation is not None:
            return seed, violation
    return None
