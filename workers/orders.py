"""Dispatched starts become orders: columns to rows, specs decoded. Pure.

Where to look next: `ledger.py` decides what becomes of an order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from schemas.codec import MalformedRecord, UnknownSchema, decode_spec
from schemas.dispatch import Dispatch, Starts
from schemas.ids import JOB_ID_BYTES, format_job_id
from schemas.terms import FailureClass, JobSpec
from workers.executor import TaskKey, TaskOrder


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A start whose spec this agent cannot use: it ends at once, with this failure."""

    key: TaskKey
    failure: FailureClass
    message: str


def is_square(dispatch: Dispatch) -> bool:
    """Whether each row of its parts has all of its values: what no engine of ours would break."""
    starts, releases, stops = dispatch.starts, dispatch.releases, dispatch.stops
    rows = len(starts.job_nos)
    lengths = {len(getattr(starts, name)) for name in _START_COLUMNS}
    square = lengths == {rows} and len(starts.job_ids) == rows * JOB_ID_BYTES
    square = square and all(0 <= index < len(starts.terms) for index in starts.terms_of)
    return square and all(
        len({len(getattr(part, name)) for name in part.__slots__}) == 1
        for part in (releases, stops)
    )


_START_COLUMNS = [name for name in Starts.__slots__ if name not in {"job_ids", "terms"}]


def read_starts(starts: Starts) -> Iterator[tuple[int, TaskOrder | Unreadable]]:
    """Each row's `seq` and order."""
    for row in range(len(starts.job_nos)):
        yield starts.seqs[row], _read_row(starts, row)


def _read_row(starts: Starts, row: int) -> TaskOrder | Unreadable:
    key = TaskKey(starts.job_nos[row], starts.attempts[row], starts.tasks[row])
    if starts.key_ids[row]:
        message = (
            f"the spec is encrypted with key {starts.key_ids[row]}, which this node has not: "
            "submit it in clear, or to a pool whose nodes have the key"
        )
        return Unreadable(key, FailureClass.POISON, message)
    try:
        spec = decode_spec(starts.spec_schema_ids[row], starts.specs[row])
    except UnknownSchema as error:
        return Unreadable(key, FailureClass.INFRASTRUCTURE, f"{error}: this agent is too old")
    except MalformedRecord as error:
        return Unreadable(key, FailureClass.POISON, str(error))
    if not spec.command:
        return Unreadable(key, FailureClass.IMAGE_ERROR, "the job names no command to run")
    return _order(starts, row, key, spec)


def _order(starts: Starts, row: int, key: TaskKey, spec: JobSpec) -> TaskOrder:
    terms = starts.terms[starts.terms_of[row]]
    raw_id = starts.job_ids[row * JOB_ID_BYTES : (row + 1) * JOB_ID_BYTES]
    return TaskOrder(
        key=key,
        job_id=format_job_id(raw_id),
        command=spec.command,
        env=tuple((variable.name, variable.value) for variable in spec.env),
        config=spec.config,
        devices=tuple(starts.devices[row]),
        gang=terms.is_gang,
        tasks=terms.tasks,
        cpu_milli=terms.cpu_milli,
        memory_mib=terms.memory_mib,
        grace_s=terms.grace_s,
        progress_timeout_s=max(0, terms.progress_timeout_s),
    )
