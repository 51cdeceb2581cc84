"""Sees, from outside, when a job was dispatched and when an agent reported it started.

Reads `foldline.dispatch.v1` and `foldline.attempts.reports.v1` from their ends on, in a thread of
its own, and notes the moment (`time.monotonic()`) at which each job first appears in each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from types import TracebackType
from typing import Self

from infra.kafka import Place, Reader
from schemas import codec
from schemas.dispatch import Dispatch
from schemas.ids import JOB_ID_BYTES
from schemas.reports import TasksReported
from schemas.terms import TaskState
from schemas.topics import DISPATCH, REPORTS

POLL_S = 0.2
LOOK_S = 0.05


class Watch:
    """Use as a context manager: it sees what is written from the moment it is entered."""

    def __init__(self, bootstrap: str, shards: int) -> None:
        self.dispatched: dict[bytes, float] = {}
        self.started: dict[bytes, float] = {}
        self._jobs: dict[tuple[int, int], bytes] = {}
        self._early: dict[tuple[int, int], float] = {}
        self._stop = threading.Event()
        self._reader = Reader(bootstrap)
        places = [(DISPATCH.name, part) for part in range(DISPATCH.partitions)]
        places += [(REPORTS.name, shard) for shard in range(shards)]
        self._places: list[Place] = places
        self._thread = threading.Thread(target=self._run)
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        """Begin to see."""
        ends = {place: self._reader.end_offset(*place) for place in self._places}
        self._reader.assign(ends)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop seeing. Raises what the thread ended with."""
        self._stop.set()
        self._thread.join()
        self._reader.close()
        if self._failure is not None and error is None:
            raise self._failure

    def wait_for(self, jobs: Collection[bytes], timeout_s: float) -> None:
        """Return when all these jobs were reported started, or after the time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._thread.is_alive():
            if all(raw in self.started for raw in jobs):
                return
            time.sleep(LOOK_S)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for record in self._reader.poll(POLL_S):
                    if record.value is not None:
                        self._see(codec.decode(record.value), record.partition, time.monotonic())
        except Exception as error:  # noqa: BLE001 - given to the caller when the watch ends
            self._failure = error

    def _see(self, message: object, shard: int, now: float) -> None:
        if isinstance(message, Dispatch):
            starts = message.starts
            for row, no in enumerate(starts.job_nos):
                raw = starts.job_ids[row * JOB_ID_BYTES : (row + 1) * JOB_ID_BYTES]
                self._jobs[message.shard, no] = raw
                self.dispatched.setdefault(raw, now)
                if (message.shard, no) in self._early:
                    self.started.setdefault(raw, self._early.pop((message.shard, no)))
        elif isinstance(message, TasksReported):
            for no, state in zip(message.job_nos, message.states, strict=True):
                # A short task can be reported ended in the record that says it started.
                if state not in (TaskState.STARTED, TaskState.ENDED):
                    continue
                if (shard, no) in self._jobs:
                    self.started.setdefault(self._jobs[shard, no], now)
                else:  # two topics have no order: its dispatch record is read a little later
                    self._early.setdefault((shard, no), now)
