"""Rows of the audit view's events table: what each kind of event says, and of what. Pure.

A row names a job, an attempt, a task and an incarnation of a node where the event does (0, or -1
for the task, where it does not), and carries the rest as `detail`: values that say nothing are
left out, and no detail at all is None. The codes of kinds are those of `event_kinds` in
`projections/migrations/audit/`; a code is given once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

from schemas import events
from schemas.codec import to_plain
from schemas.events import Event
from schemas.ids import format_job_id
from schemas.terms import ParkedRecord

Detail = dict[str, Any]
EventRow = tuple[int, int, int, int, Detail | None]
"""Job number, attempt, task, node number, detail."""

NO_TASK = -1

KINDS: dict[type, int] = {
    events.JobsSubmitted: 1,
    events.SubmissionsRepeated: 2,
    events.CommandsRefused: 3,
    events.CancelsRequested: 4,
    events.QueueChanged: 5,
    events.PoolChanged: 6,
    events.NodeRegistered: 7,
    events.NodesDraining: 8,
    events.NodesLost: 9,
    events.TasksPlaced: 10,
    events.TasksReady: 11,
    events.GangsReleased: 12,
    events.TasksStarted: 13,
    events.JobsStarted: 14,
    events.TasksEnded: 15,
    events.AttemptsEnding: 16,
    events.ReportsRefused: 17,
    events.JobsSucceeded: 18,
    events.JobsFailed: 19,
    events.RetriesScheduled: 20,
    events.JobsRequeued: 21,
    events.JobsDeadLettered: 22,
    events.JobsCancelled: 23,
    events.InputsParked: 24,
    events.DeadLettersPurged: 25,
    events.DeadlinesPassed: 26,
}
"""Every event but `JobsForgotten`, which tells of the fold's memory and of no job."""

_SAYS_MORE = object()
_FAILURE = (("failures", "failure", "none"), ("messages", "message", ""))
_FINGERPRINT = ("fingerprints", "fingerprint", "")
_ASKED = (
    ("offsets", "command_offset", _SAYS_MORE),
    ("reasons", "reason", ""),
    ("actors", "actor", ""),
)
_DETAILS: dict[type, tuple[tuple[str, str, object], ...]] = {
    events.SubmissionsRepeated: (("offsets", "command_offset", _SAYS_MORE),),
    events.CommandsRefused: (
        ("offsets", "command_offset", _SAYS_MORE),
        ("rows", "row", 0),
        ("codes", "code", ""),
        ("messages", "message", ""),
    ),
    events.CancelsRequested: _ASKED,
    events.NodesDraining: (("reasons", "reason", ""),),
    events.NodesLost: (("reasons", "reason", ""),),
    events.TasksReady: (("endpoints", "endpoint", ""),),
    events.GangsReleased: (("endpoints", "endpoint", ""),),
    events.TasksEnded: (("exit_codes", "exit_code", 0), *_FAILURE),
    events.AttemptsEnding: _FAILURE,
    events.ReportsRefused: (
        ("offsets", "report_offset", _SAYS_MORE),
        ("nodes", "node", ""),
        ("incarnations", "incarnation", _SAYS_MORE),
        ("codes", "code", ""),
        ("counts", "count", _SAYS_MORE),
    ),
    events.JobsFailed: _FAILURE,
    events.RetriesScheduled: (
        ("due_ats", "due_at", _SAYS_MORE),
        ("costs", "cost", _SAYS_MORE),
        *_FAILURE,
        _FINGERPRINT,
    ),
    events.JobsDeadLettered: (*_FAILURE, _FINGERPRINT),
    events.JobsCancelled: _ASKED,
}
"""Columns that become details: the column, its name in the detail, the value that says nothing."""


def event_rows(event: Event) -> Iterator[EventRow]:
    """The rows of an event of the table `KINDS`, in its order."""
    if isinstance(event, events.JobsSubmitted):
        numbers = range(event.first_no, event.first_no + len(event.terms_of))
        return _rows(numbers, {}, repeat(None))
    if isinstance(event, events.QueueChanged | events.PoolChanged | events.NodeRegistered):
        node_no = event.node_no if isinstance(event, events.NodeRegistered) else 0
        return iter([(0, 0, NO_TASK, node_no, _plain(event))])
    if isinstance(event, events.DeadLettersPurged):
        return iter([(0, 0, NO_TASK, 0, _plain(event))])
    if isinstance(event, events.InputsParked):
        return _rows([0] * len(event.records), {}, map(_parked, event.records))
    columns = {name: getattr(event, name, None) for name in ("attempts", "tasks", "node_nos")}
    details = _details(event)
    numbers_of: Iterable[int] | None = getattr(event, "job_nos", None)
    if numbers_of is None:
        numbers_of = [0] * _length(event)
    return _rows(numbers_of, columns, details)


def _rows(
    numbers: Iterable[int],
    columns: dict[str, list[int] | None],
    details: Iterable[Detail | None],
) -> Iterator[EventRow]:
    attempts = columns.get("attempts") or repeat(0)
    tasks = columns.get("tasks") or repeat(NO_TASK)
    node_nos = columns.get("node_nos") or repeat(0)
    return zip(numbers, attempts, tasks, node_nos, details, strict=False)


def _length(event: Event) -> int:
    """Rows of an event that names no job."""
    for name in ("node_nos", "offsets"):
        column = getattr(event, name, None)
        if column is not None:
            return len(column)
    raise AssertionError(f"{type(event).__name__} has no column that says how many rows it has")


def _details(event: Event) -> Iterable[Detail | None]:
    layout = _DETAILS.get(type(event))
    if layout is None:
        return repeat(None)
    first, *rest = [getattr(event, column) for column, _, _ in layout]
    # A column that events did not always have is empty in those from before.
    columns = [column or [""] * len(first) for column in rest]
    made = [_detail(layout, values) for values in zip(first, *columns, strict=True)]
    if isinstance(event, events.RetriesScheduled):
        _add_sparse(made, event)
    if isinstance(event, events.CommandsRefused):
        for detail, job_id in zip(made, event.job_ids, strict=True):
            if detail is not None and job_id:
                detail["job_id"] = format_job_id(job_id)
    return made


def _detail(layout: tuple[tuple[str, str, object], ...], values: tuple[Any, ...]) -> Detail | None:
    found = {
        name: value
        for (_, name, nothing), value in zip(layout, values, strict=True)
        if value != nothing
    }
    return found or None


def _add_sparse(made: list[Detail | None], event: events.RetriesScheduled) -> None:
    """Nodes to keep off and memory to ask for, of the rows that have them; every row has a detail."""
    for row, node in zip(event.avoid_rows, event.avoid_nodes, strict=True):
        _of(made, row).setdefault("avoid", []).append(node)
    for row, memory_mib in zip(event.memory_rows, event.memories_mib, strict=True):
        _of(made, row)["memory_mib"] = memory_mib


def _of(made: list[Detail | None], row: int) -> Detail:
    detail = made[row]
    assert detail is not None, "a retry says at least when it is due"
    return detail


def _parked(record: ParkedRecord) -> Detail:
    """Without the bytes, which `dead_letters` has."""
    return {
        "input": record.input,
        "offset": record.offset,
        "code": record.code,
        "message": record.message,
        "size": record.size,
    }


def _plain(event: Event) -> Detail:
    plain: Detail = to_plain(event)
    return plain
