"""How far the demo's jobs are, for people who watch: a live panel on a terminal, else plain lines.

Given jobs as the API lists them; asks nothing itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from foldline.demo.jobs import SWEEP
from foldline.render import STATE_STYLES, state_text
from projections.answers import JobSummary
from schemas.terms import ENDED_STATES

PLAIN_EVERY_S = 4.0
ENDED = frozenset(state.value for state in ENDED_STATES)


@dataclass(slots=True)
class Progress:
    """Shows each look at the jobs; `total` is how many there will be. Use as a context manager."""

    console: Console
    total: int
    _live: Live | None = None
    _told_at_s: float = -PLAIN_EVERY_S
    _told: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        """Begin to show."""
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    def show(self, elapsed_s: float, jobs: Sequence[JobSummary]) -> None:
        """Show this look; `elapsed_s` counts from the first submission."""
        if self._live is not None:
            self._live.update(_panel(elapsed_s, jobs, self.total))
            return
        self._tell_changes(elapsed_s, jobs)
        if elapsed_s - self._told_at_s >= PLAIN_EVERY_S:
            self._told_at_s = elapsed_s
            print(f"{elapsed_s:5.1f} s  {_counts(jobs, self.total)}", flush=True)

    def _tell_changes(self, elapsed_s: float, jobs: Sequence[JobSummary]) -> None:
        """One line for each change of a job that is no point of the sweep."""
        for job in sorted(jobs, key=lambda job: job.submitted_at):
            if job.name.startswith(SWEEP) or self._told.get(job.id) == job.status:
                continue
            self._told[job.id] = job.status
            on = f" on {job.worker_id}" if job.status in ("scheduled", "running") else ""
            print(f"{elapsed_s:5.1f} s  {job.name}: {job.status}{on}", flush=True)


def _counts(jobs: Sequence[JobSummary], total: int) -> str:
    by_state = Counter(job.status for job in jobs)
    parts = [f"{by_state[state]} {state}" for state in STATE_STYLES if by_state[state]]
    return f"{total} jobs: {', '.join(parts) or 'none submitted yet'}"


def _panel(elapsed_s: float, jobs: Sequence[JobSummary], total: int) -> Group:
    ended = sum(job.status in ENDED for job in jobs)
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(f"{elapsed_s:5.1f} s"),
        ProgressBar(total=total, completed=ended, width=40),
        Text(f"{ended}/{total} ended"),
    )
    counts = Text("  ")
    by_state = Counter(job.status for job in jobs)
    for state, style in STATE_STYLES.items():
        if by_state[state]:
            counts.append(f"{by_state[state]} {state}  ", style=style)
    special = Table.grid(padding=(0, 2))
    for job in sorted(jobs, key=lambda job: job.submitted_at):
        if not job.name.startswith(SWEEP):
            tried = f"attempt {job.attempt}" if job.attempt > 1 else ""
            special.add_row(f"  {job.name}", state_text(job.status), job.worker_id or "", tried)
    return Group(head, counts, special)
