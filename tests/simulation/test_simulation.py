"""The whole system under faults, in one thread on fake time: some seeds, and those that failed once.

Many more are run by `make sim`; one seed is replayed with its trace by `make sim SEED=…`.
"""

from __future__ import annotations

import pytest

from tests.simulation.faults import WAYS, WHY_NOT, Fault
from tests.simulation.regressions import REGRESSIONS
from tests.simulation.system import LEAST, run_seed

pytestmark = pytest.mark.simulation

FEW_SEEDS = range(5_000, 5_024)


@pytest.mark.parametrize("first", FEW_SEEDS[::6])
def test_every_invariant_holds_under_faults_in_these_seeds(first: int) -> None:
    for seed in range(first, first + 6):
        result = run_seed(seed)
        assert result.violation is None, f"seed {seed}: {result.violation}"
        assert all(result.size[name] >= least for name, least in LEAST.items())


@pytest.mark.parametrize("seed", sorted(REGRESSIONS))
def test_a_seed_that_failed_once_holds_now(seed: int) -> None:
    result = run_seed(seed)
    assert result.violation is None, f"{REGRESSIONS[seed]} (seed {seed}): {result.violation}"


def test_one_seed_is_one_run_bit_for_bit() -> None:
    first, second = run_seed(77, keeps_trace=True), run_seed(77, keeps_trace=True)
    assert first.fingerprint == second.fingerprint
    assert first.trace == second.trace
    assert run_seed(78).fingerprint != first.fingerprint


def test_a_trace_says_when_who_did_what_and_what_went_wrong() -> None:
    trace = run_seed(5_001, keeps_trace=True).trace
    assert any("engine0" in line and "begins" in line for line in trace)
    assert any("***" in line for line in trace)
    assert any("JobsSubmitted" in line for line in trace)
    assert trace == sorted(trace, key=lambda line: float(line.split()[0]))


def test_every_fault_can_come_at_a_step_or_it_is_said_why_not() -> None:
    for way, can in WAYS.items():
        assert set(can) | set(WHY_NOT[way]) == set(Fault), way
        assert not set(can) & set(WHY_NOT[way])
