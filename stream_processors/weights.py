"""How much of a log record an input takes, at most: what keeps every decision below the limit.

A decision echoes its inputs (what it says of them is bounded apart: `domain/attempts.py`,
`domain/placement.py`), so the engine takes inputs up to a budget of bytes. These are upper bounds of
that echo, from the input as it came and as it was read. Pure.
"""

from __future__ import annotations

from schemas.commands import SubmitJobs
from schemas.reports import RegisterNode, TasksReported
from stream_processors.domain.draft import Command, Report, Unreadable

ROW_BYTES = 400
"""What a row of a command adds at most beyond its own bytes: a name, defaults, a refusal."""
REPORT_ROW_BYTES = 24
"""The same of a reported task, which moves on its job apart."""
REPORT_BYTES = 600
"""The same of a report as a whole: a refusal that names its node."""


def command_weight(size: int, command: Command) -> int:
    """Of a record of `size` bytes in the commands topic."""
    if isinstance(command, Unreadable):
        return ROW_BYTES + _parked(command)
    rows = len(command.terms_of) if isinstance(command, SubmitJobs) else 1
    return size + rows * ROW_BYTES


def report_weight(size: int, report: Report) -> int:
    """Of a record of `size` bytes in the reports topic."""
    if isinstance(report, Unreadable):
        return REPORT_BYTES + _parked(report)
    if isinstance(report, TasksReported):
        return size + REPORT_BYTES + len(report.job_nos) * REPORT_ROW_BYTES
    if isinstance(report, RegisterNode):
        return size + REPORT_BYTES
    return REPORT_BYTES


def _parked(unreadable: Unreadable) -> int:
    """What is kept of an input that cannot be read, and the message about it, twice."""
    told = 4 * len(unreadable.message)
    record = unreadable.record
    if record is None:
        return told
    headers = sum(4 * len(header.name) + len(header.value) + 8 for header in record.headers)
    return 2 * told + len(record.value) + len(record.key) + headers + ROW_BYTES
