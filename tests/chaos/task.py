"""The task of every chaos job: a few shell builtins that write down what happens to it.

A line says what (`start`, `alive`, `fail`, `end`), which task of which attempt, when on the boot
clock (in seconds, cut to hundredths), and on which node. A task that is killed writes nothing more.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.options import MARK

TICK_S = 0.5
PROGRAM = f"""
w() {{ read -r u _ < /proc/uptime
echo "$1 $FOLDLINE_JOB_ID $FOLDLINE_ATTEMPT $FOLDLINE_TASK $u $FOLDLINE_NODE" >> "$J"; }}
w start; i=0
while [ $i -lt $N ]; do sleep {TICK_S} || exit 1; w alive; i=$((i+1)); done
[ $F -lt $FOLDLINE_ATTEMPT ] || {{ w fail; exit 3; }}
w end
"""
COMMAND = ("sh", "-c", PROGRAM)

TaskKey = tuple[str, int, int]
"""Job id, attempt, task."""


@dataclass(slots=True)
class Run:
    """What one task of one attempt wrote, in order: (what, when). Usually one start."""

    node: str
    lines: list[tuple[str, float]] = field(default_factory=list)

    @property
    def starts(self) -> list[float]:
        return [at for what, at in self.lines if what == "start"]

    @property
    def last(self) -> float:
        return max(at for _, at in self.lines)

    @property
    def has_ended(self) -> bool:
        return any(what in ("end", "fail") for what, _ in self.lines)

    @property
    def has_succeeded(self) -> bool:
        return any(what == "end" for what, _ in self.lines)


def environment(journal: Path, mark: str, ticks: int, fails: int) -> dict[str, str]:
    """For a task that lives `ticks` ticks and whose first `fails` attempts fail."""
    return {"J": str(journal), MARK: mark, "N": str(ticks), "F": str(fails)}


def read_journal(path: Path) -> dict[TaskKey, Run]:
    found: dict[TaskKey, Run] = {}
    for line in path.read_text().splitlines():
        what, job, attempt, task, at, node = line.split()
        run = found.setdefault((job, int(attempt), int(task)), Run(node))
        run.lines.append((what, float(at)))
    return found


def starts_of(runs: dict[TaskKey, Run]) -> dict[str, dict[int, float]]:
    """By job and attempt: when its first task started."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for (job, attempt, _), run in runs.items():
        first = min(run.starts, default=run.last)
        found[job][attempt] = min(found[job].get(attempt, first), first)
    return found
