"""Many seeds over several processes: what fails, how to replay it, and the table of coverage."""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter
from collections.abc import Iterable
from multiprocessing import get_context

from tests.simulation.faults import AT_ANY_TIME, STEPS, WAYS, WHY_NOT, Fault
from tests.simulation.system import run_seed

COVERED_BY = 2_000
"""So many seeds leave no cell empty; fewer may."""
REPORT_EVERY_S = 20.0

Told = tuple[int, str, dict[str, int], Counter[tuple[str, str]]]


def say(text: str) -> None:
    """One line for people, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def live(seed: int) -> Told:
    """One seed, in a worker."""
    result = run_seed(seed)
    return seed, str(result.violation or ""), result.size, result.came


def _prepare() -> None:
    # A run makes much and keeps it until its end: looking for cycles in between finds nothing.
    gc.set_threshold(200_000, 20, 100)


def run_many(seeds: Iterable[int], workers: int, *, needs_all_cells: bool) -> int:
    """Live all of them; prints what fails and, in the end, what was covered."""
    begun = told_at = time.monotonic()
    came: Counter[tuple[str, str]] = Counter()
    sizes: Counter[str] = Counter()
    failed: list[tuple[int, str]] = []
    done = 0
    with get_context("spawn").Pool(workers, _prepare) as pool:
        for seed, violation, size, faults in pool.imap_unordered(live, seeds, chunksize=4):
            done += 1
            came.update(faults)
            sizes.update(size)
            if violation:
                failed.append((seed, violation))
                say(f"seed {seed} VIOLATED {violation}\n  replay: make sim SEED={seed}")
            if time.monotonic() - told_at > REPORT_EVERY_S:
                told_at = time.monotonic()
                rate = done / (told_at - begun)
                say(f"{done} seeds, {rate:.1f}/s, {len(failed)} failed")
    empty = print_table(came)
    print_sizes(done, sizes, time.monotonic() - begun)
    for seed, violation in sorted(failed):
        say(f"FAILED seed {seed}: {violation[:300]}\n  replay: make sim SEED={seed}")
    if empty and needs_all_cells:
        say(f"FAILED: {len(empty)} faults came nowhere: {', '.join(empty)}")
    return 1 if failed or (empty and needs_all_cells) else 0


def print_table(came: Counter[tuple[str, str]]) -> list[str]:
    """Faults by step: how often each came; answers the cells that stayed empty."""
    faults = list(Fault)
    heads = [fault.value.split() for fault in faults]
    for row in range(2):
        words = [head[row] if row < len(head) else "" for head in heads]
        say(" " * 20 + "".join(f"{word:>10}" for word in words))
    empty = []
    for step, (way, _, _) in STEPS.items():
        cells = []
        for fault in faults:
            number = came[step, fault.value]
            if fault not in WAYS[way]:
                cells.append("-")
            else:
                cells.append(str(number) if number else "EMPTY")
                empty += [] if number else [f"{fault.value} at {step}"]
        say(f"{step:<20}" + "".join(f"{cell:>10}" for cell in cells))
    for what in AT_ANY_TIME:
        number = came[what, "at any time"]
        empty += [] if number else [what]
        say(f"{what:<30}{number or 'EMPTY':>10}")
    say("- cannot be; the reasons:")
    for way, reasons in WHY_NOT.items():
        for reason in dict.fromkeys(reasons.values()):
            which = ", ".join(fault.value for fault, why in reasons.items() if why == reason)
            say(f"  {way.value}: {which}: {reason}")
    return empty


def print_sizes(done: int, sizes: Counter[str], seconds: float) -> None:
    """How big the runs were, and how fast."""
    means = ", ".join(f"{number / max(done, 1):.0f} {name}" for name, number in sizes.items())
    say(f"{done} seeds in {seconds:.0f} s ({done / seconds:.1f}/s); a seed on average: {means}")
