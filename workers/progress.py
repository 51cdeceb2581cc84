"""Progress of a task: how its program reports it, and how its supervisor notices that it stopped.

A task reports progress by changing the file that FOLDLINE_PROGRESS_FILE names: any change of its
time, size or identity counts. From Python call `report_progress()`, from a shell
`touch "$FOLDLINE_PROGRESS_FILE"`. A job with `progress_timeout_s` whose task does not for so long
is ended. Standard library only: supervisors run on it, and users' programs import it.
"""

from __future__ import annotations

import os

FILE_VARIABLE = "FOLDLINE_PROGRESS_FILE"
FILE_NAME = ".foldline-progress"
"""In the task's working directory, which goes when the task ends."""
NS = 1_000_000_000
LOOKS = 10
"""Looks in one timeout: a task that hangs is ended at most a tenth of the timeout late."""
LOOK_MIN_NS = NS // 20
LOOK_MAX_NS = 5 * NS

Mark = tuple[int, int, int]


def report_progress() -> None:
    """Say that this task is getting on. Outside a task it does nothing.

    Raises OSError when the file cannot be written.
    """
    path = os.environ.get(FILE_VARIABLE)
    if not path:
        return
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.utime(file)
    finally:
        os.close(file)


class ProgressWatch:
    """One task's progress, by looking at its file. Moments are nanoseconds of the boot clock.

    The file's own time is never compared with a clock: a change counts from when it was seen, so
    a step of the wall clock ends nothing.
    """

    __slots__ = ("_every_ns", "_path", "_seen", "_since_ns", "_timeout_ns", "due_ns")

    def __init__(self, path: str, timeout_s: int, now_ns: int) -> None:
        self._path = path
        self._timeout_ns = timeout_s * NS
        self._every_ns = min(LOOK_MAX_NS, max(LOOK_MIN_NS, self._timeout_ns // LOOKS))
        self._seen = _mark(path)
        self._since_ns = now_ns
        self.due_ns = now_ns + self._every_ns

    def is_stuck(self, now_ns: int) -> bool:
        """Look, and say whether the last change is the timeout ago; look again at `due_ns`."""
        mark = _mark(self._path)
        if mark != self._seen:
            self._seen, self._since_ns = mark, now_ns
        ends_ns = self._since_ns + self._timeout_ns
        self.due_ns = min(now_ns + self._every_ns, max(ends_ns, now_ns + 1))
        return now_ns >= ends_ns


def why_stuck(timeout_s: int) -> str:
    """For people: why the task was ended, and what it should have done."""
    return (
        f"no progress for {timeout_s} s (progress_timeout_s = {timeout_s}): "
        f"the task did not touch {FILE_VARIABLE}"
    )


def _mark(path: str) -> Mark | None:
    """What changes when somebody writes the file; None while there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a supervisor looks often: no Path each time
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
