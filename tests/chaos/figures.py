"""What a run measured: how soon jobs of a killed node ran elsewhere, and how long things stood still.

Pure: from the journal's lines and what was done when.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from tests.chaos.faults import Happening
from tests.chaos.task import Run, TaskKey, starts_of

AFTER_S = 20.0
"""So long after its end a standstill is put down to a fault."""


@dataclass(frozen=True, slots=True)
class Rerun:
    """One job of a killed node: seconds from the kill to its next start, and where that was."""

    job_id: str
    node: str
    seconds: float | None
    elsewhere: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """All faults of one kind: how long until what was hurt was back, and no task started."""

    fault: str
    count: int
    back_s: tuple[float, ...]
    still_s: tuple[float, ...]


def reruns(happenings: Sequence[Happening], runs: Mapping[TaskKey, Run]) -> list[Rerun]:
    starts = starts_of(dict(runs))
    found = []
    for happening in happenings:
        for job_id, attempt, task in happening.victims:
            run = runs.get((job_id, attempt, task))
            if run is not None and run.has_ended:
                continue  # it ended before the kill came
            later = [number for number in starts.get(job_id, {}) if number > attempt]
            if not later:
                found.append(Rerun(job_id, happening.target, None))
                continue
            number = min(later)
            node = next(one.node for key, one in runs.items() if key[:2] == (job_id, number))
            seconds = starts[job_id][number] - happening.began
            found.append(Rerun(job_id, happening.target, seconds, node))
    return found


def effects(happenings: Sequence[Happening], runs: Mapping[TaskKey, Run]) -> list[Effect]:
    moments = sorted(start for run in runs.values() for start in run.starts)
    found = []
    for fault in dict.fromkeys(one.fault for one in happenings):
        those = [one for one in happenings if one.fault == fault]
        back = tuple(one.back_s for one in those if one.back_s is not None)
        still = tuple(_standstill(moments, one.began, one.ended + AFTER_S) for one in those)
        found.append(Effect(fault, len(those), back, still))
    return found


def _standstill(moments: Sequence[float], begin: float, end: float) -> float:
    """The longest time without a start that lies at least partly within."""
    first = max(bisect_left(moments, begin) - 1, 0)
    last = bisect_right(moments, end) + 1
    part = moments[first:last]
    gaps = [later - earlier for earlier, later in pairwise(part)]
    return max(gaps, default=0.0)


def longest_standstill(runs: Mapping[TaskKey, Run]) -> float:
    """The longest time of the whole run without the start of any task, in seconds."""
    moments = sorted(start for run in runs.values() for start in run.starts)
    return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)


def typical(values: Sequence[float]) -> str:
    """Median and worst, in seconds."""
    return f"{median(values):.1f} / {max(values):.1f}" if values else "-"
