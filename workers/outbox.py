"""Reports that wait for their acknowledgement: in order, sent again until acknowledged. Pure.

One batch is in flight at a time: a single report leaves at once when nothing is in flight, and
under load rows gather while the batch before them is on its way. What waits is bounded: `is_full`
tells who asks for more to stop, and last lines are the first thing to be left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from schemas.reports import TasksReported
from schemas.terms import FailureClass, TaskState
from workers.executor import TaskKey

BATCH_MAX = 500
BATCH_CHARS = 1_000_000
"""Rows and characters of one report at most, so that it stays below a record's limit."""
MESSAGE_MAX = 2_000
ROWS_MAX = 100_000
TAIL_CHARS_MAX = 16_000_000
"""Of all rows that wait: beyond it, rows go without their last lines."""
LEFT_OUT = "(left out: too many reports waited for Kafka)"


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
    tail: str = ""


class Outbox:
    """Rows in their order; the first `in_flight` of them are on their way."""

    def __init__(self, node: str, pool: str) -> None:
        self._node = node
        self._pool = pool
        self._rows: deque[Row] = deque()
        self._waiting: set[tuple[int, TaskKey, TaskState]] = set()
        self._tail_chars = 0
        self.in_flight = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def is_full(self) -> bool:
        """Whether nothing should be taken on that would make another row."""
        return len(self._rows) >= ROWS_MAX

    def add(self, row: Row) -> None:
        """Report this; saying again what still waits to be sent adds nothing."""
        if _said(row) in self._waiting:
            return
        if row.tail and self._tail_chars + len(row.tail) > TAIL_CHARS_MAX:
            row = replace(row, tail=LEFT_OUT)
        self._tail_chars += len(row.tail)
        self._waiting.add(_said(row))
        self._rows.append(row)

    def take(self) -> TasksReported | None:
        """The next batch, which is then in flight; None if there is none or one is."""
        if self.in_flight or not self._rows:
            return None
        batch = list(self._next_rows())
        self._waiting.difference_update(map(_said, batch))
        self.in_flight = len(batch)
        return _report(self._node, self._pool, batch)

    def acknowledged(self) -> None:
        """The batch in flight has arrived."""
        for _ in range(self.in_flight):
            self._tail_chars -= len(self._rows.popleft().tail)
        self.in_flight = 0

    def failed(self) -> None:
        """The batch in flight may not have arrived: it will be taken again."""
        self._waiting.update(map(_said, islice(self._rows, self.in_flight)))
        self.in_flight = 0

    def _next_rows(self) -> Iterator[Row]:
        """The first row, and those behind it of the same incarnation that fit beside it."""
        incarnation = self._rows[0].incarnation
        chars = 0
        for number, row in enumerate(islice(self._rows, BATCH_MAX)):
            chars += len(row.message) + len(row.tail)
            if number and (row.incarnation != incarnation or chars > BATCH_CHARS):
                return
            yield row


def _said(row: Row) -> tuple[int, TaskKey, TaskState]:
    return row.incarnation, row.key, row.state


def _plain(text: str) -> str:
    """Text that any store takes: a NUL is none."""
    return text[:MESSAGE_MAX].replace("\0", "\ufffd")


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
        messages=[_plain(row.message) for row in rows],
        endpoints=[row.endpoint for row in rows],
        tail_rows=[number for number, row in enumerate(rows) if row.tail],
        tails=[row.tail for row in rows if row.tail],
    )
