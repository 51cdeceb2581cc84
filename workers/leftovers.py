"""What an earlier agent of this node left running, found by its journal and killed.

Reads /proc and the journal. Kills a process only if the journal proves it ours: its pid with its
start time, its session or group while the leader's start time fits, or the run's token in its
environment, which goes with daemons that left session and group. Used once, when an agent starts.
"""

from __future__ import annotations

import time
from pathlib import Path

from workers.journal import TOKEN_VARIABLE, Earlier
from workers.processes import Status, all_processes, boot_id, descendants_of, kill_exactly, status

LOOK_EVERY_S = 0.02


def kill_leftovers(earlier: Earlier, patience_s: float) -> list[int]:
    """SIGKILL all that is left and wait for its death; the pids that would not die in time."""
    if not earlier.is_known or earlier.boot != boot_id():
        return []
    give_up = time.monotonic() + patience_s
    while True:
        left = find_leftovers(earlier)
        for process in left:
            kill_exactly(process.pid, process.start)
        if not left or time.monotonic() > give_up:
            return [process.pid for process in left]
        time.sleep(LOOK_EVERY_S)


def find_leftovers(earlier: Earlier) -> list[Status]:
    """Everything alive that the earlier run started, descendants included."""
    starts = _proven_starts(earlier)
    mark = f"{TOKEN_VARIABLE}={earlier.token}".encode()
    found: dict[int, Status] = {}
    for process in all_processes():
        if process.is_dead or process.pid in found:
            continue
        if _is_left(process, starts, mark):
            found[process.pid] = process
            for pid in descendants_of(process.pid):
                below = status(pid)
                if below is not None and not below.is_dead:
                    found[pid] = below
    return list(found.values())


def _proven_starts(earlier: Earlier) -> dict[int, int]:
    """Start time by pid, of every leader in the journal."""
    starts: dict[int, int] = {}
    for group in earlier.groups.values():
        starts[group.session] = group.session_start
        starts[group.group] = group.group_start
    return starts


def _is_left(process: Status, starts: dict[int, int], mark: bytes) -> bool:
    for leader in (process.pid, process.session, process.group):
        if leader in starts:
            found = status(leader)
            if found is not None and found.start == starts[leader]:
                return True
    return mark in _environment(process.pid)


def _environment(pid: int) -> list[bytes]:
    """What the process was started with; empty for other users' processes, which are not ours."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
