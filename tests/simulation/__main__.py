"""`python -m tests.simulation`: one seed with its trace, or many seeds with the table of coverage.

    --seed 123                        replay one seed and print everything that happens
    --seeds 2000 --first-seed 1       many seeds; fails on a violation or an empty cell
    --hours 8                         seeds until the time is over

Exit status 1 says that an invariant does not hold, or that a fault came nowhere.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.simulation.many import COVERED_BY, run_many, say
from tests.simulation.system import run_seed


def replay(seed: int) -> int:
    """Print everything that happens in one seed."""
    result = run_seed(seed, keeps_trace=True)
    for line in result.trace:
        say(line)
    sizes = ", ".join(f"{number} {name}" for name, number in result.size.items())
    say(f"seed {seed}: {sizes}; fingerprint {result.fingerprint}")
    say(f"VIOLATED: {result.violation}" if result.violation else "all invariants hold")
    return 1 if result.violation else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this seed and print its trace")
    parser.add_argument("--seeds", type=int, default=COVERED_BY, help="how many seeds")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--hours", type=float, help="seeds until so much time is over")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    asked = parser.parse_args()
    if asked.seed is not None:
        return replay(asked.seed)
    if asked.hours is not None:
        return _run_hours(asked.hours, asked.first_seed, asked.workers)
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    return run_many(seeds, asked.workers, needs_all_cells=asked.seeds >= COVERED_BY)


def _run_hours(hours: float, first: int, workers: int) -> int:
    """In rounds, for a pool takes all of its seeds at once."""
    deadline = time.monotonic() + hours * 3600
    status = 0
    while time.monotonic() < deadline:
        seeds = range(first, first + COVERED_BY)
        status |= run_many(seeds, workers, needs_all_cells=True)
        first += COVERED_BY
    return status


if __name__ == "__main__":
    sys.exit(main())
