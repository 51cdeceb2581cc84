"""Reports that wait for their acknowledgement: in order, sent again until acknowledged. Pure.

One batch is in flight at a time: a single report leaves at once when nothing is in flight, and
under load rows gather while the batch before them is on its way.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice, takewhile

from schemas.reports import TasksReported
from schemas.terms import FailureClass, TaskState
from workers.executor import TaskKey

BATCH_MAX = 500
"""Rows of one report at most: with messages of 2,000 characters it stays below a record's limit."""
MESSAGE_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one task at `at` (UTC microseconds), on one incarnation."""

    incarnation: int
    key: TaskKey
    state: TaskState
    at: int
    exit_code: int = 0
    failure: FailureClass = FailureClass.NONE
    message: str = ""
    endpoint: str = ""


class Outbox:
    """Rows in their order; the first `in_flight` of them are on their way."""

    def __init__(self, node: str, pool: str) -> None:
        self._node = node
        self._pool = pool
        self._rows: deque[Row] = deque()
        self._waiting: set[tuple[int, TaskKey, TaskState]] = set()
        self.in_flight = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> None:
        """Report this; saying again what still waits to be sent adds nothing."""
        if _said(row) not in self._waiting:
            self._waiting.add(_said(row))
            self._rows.append(row)

    def take(self) -> TasksReported | None:
        """The next batch, which is then in flight; None if there is none or one is."""
        if self.in_flight or not self._rows:
            return None
        incarnation = self._rows[0].incarnation
        same = takewhile(lambda row: row.incarnation == incarnation, self._rows)
        batch = list(islice(same, BATCH_MAX))
        self._waiting.difference_update(map(_said, batch))
        self.in_flight = len(batch)
        return _report(self._node, self._pool, batch)

    def acknowledged(self) -> None:
        """The batch in flight has arrived."""
        for _ in range(self.in_flight):
            self._rows.popleft()
        self.in_flight = 0

    def failed(self) -> None:
        """The batch in flight may not have arrived: it will be taken again."""
        self._waiting.update(map(_said, islice(self._rows, self.in_flight)))
        self.in_flight = 0


def _said(row: Row) -> tuple[int, TaskKey, TaskState]:
    return row.incarnation, row.key, row.state


def _report(node: str, pool: str, rows: list[Row]) -> TasksReported:
    return TasksReported(
        node=node,
        pool=pool,
        incarnation=rows[0].incarnation,
        job_nos=[row.key.job_no for row in rows],
        attempts=[row.key.attempt for row in rows],
        tasks=[row.key.task for row in rows],
        states=[row.state for row in rows],
        ats=[row.at for row in rows],
        exit_codes=[row.exit_code for row in rows],
        failures=[row.failure for row in rows],
        messages=[row.message[:MESSAGE_MAX] for row in rows],
        endpoints=[row.endpoint for row in rows],
    )
