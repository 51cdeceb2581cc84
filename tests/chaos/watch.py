"""Sees what goes on while chaos reigns: which jobs have ended, and which task processes live.

`Ends` tails the public topic of job events, only so that the load knows how much is under way.
`Witness` looks through /proc for processes that carry the run's mark, again and again: what it
saw alive, and when last, is evidence that no part of the system under test can spoil.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from infra.kafka import KafkaUnavailable, Reader
from schemas.codec import decode
from schemas.terms import ENDED_STATES
from schemas.topics import JOB_EVENTS
from tests.chaos.options import MARK
from tests.chaos.task import TaskKey
from tests.chaos.world import boot_s

LOOK_EVERY_S = 0.4
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Ends:
    """`ended` holds the ids of jobs that the relay said have ended."""

    def __init__(self, bootstrap: str) -> None:
        self.ended: set[str] = set()
        self._closing = Event()
        self._bootstrap = bootstrap
        self._thread = Thread(target=self._run, name="ends", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        reader = Reader(self._bootstrap)
        reader.assign({(JOB_EVENTS.name, n): 0 for n in range(JOB_EVENTS.partitions)})
        while not self._closing.is_set():
            try:
                messages = reader.poll(0.5)
            except KafkaUnavailable:
                time.sleep(0.5)
                continue
            for message in messages:
                event = decode(message.value or b"")
                if event.state in ENDED_STATES:
                    self.ended.add(event.job_id)
        reader.close()


@dataclass(slots=True)
class Sighting:
    """One process of a task, seen alive: boot clock seconds."""

    key: TaskKey
    node: str
    started: float
    last_seen: float


class Witness:
    """`sightings` by (pid, start tick). Processes are children of tasks too: their `sleep`s."""

    def __init__(self, mark: str) -> None:
        self.sightings: dict[tuple[int, int], Sighting] = {}
        self._mark = f"{MARK}={mark}".encode()
        self._dismissed: dict[tuple[int, int], bytes] = {}
        self._closing = Event()
        self._thread = Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def alive(self) -> list[Sighting]:
        """What lives right now."""
        now = boot_s()
        self._look()
        return [one for one in list(self.sightings.values()) if one.last_seen >= now]

    def _run(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        dismissed: dict[tuple[int, int], bytes] = {}
        for name in os.listdir("/proc"):  # noqa: PTH208 - twice a second, over all processes
            if not name.isdigit():
                continue
            now = boot_s()
            found = _stat(name)
            if found is None:
                continue
            start, comm = found
            who = (int(name), start)
            sighting = self.sightings.get(who)
            if sighting is not None:
                sighting.last_seen = now
            elif self._dismissed.get(who) == comm:
                dismissed[who] = comm
            elif variables := _environment(name):  # none while it is becoming its program
                if self._mark in variables:
                    self.sightings[who] = _recognise(variables, start, now)
                else:
                    dismissed[who] = comm
        self._dismissed = dismissed


def _environment(pid: str) -> list[bytes]:
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
    return data.split(b"\0") if data else []


def _recognise(variables: list[bytes], start: int, now: float) -> Sighting:
    told = dict(one.decode().split("=", 1) for one in variables if b"=" in one)
    key = (told["FOLDLINE_JOB_ID"], int(told["FOLDLINE_ATTEMPT"]), int(told["FOLDLINE_TASK"]))
    return Sighting(key, told["FOLDLINE_NODE"], start / TICKS_PER_S, now)


def _stat(pid: str) -> tuple[int, bytes] | None:
    """Start tick and name of a process that is not a zombie."""
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, rest = data.rpartition(b")")
    fields = rest.split()
    if fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19]), head.partition(b"(")[2]
