"""The node's locked journal: who runs its tasks, so that a later agent can kill what is left.

Lives in the node's data directory beside the lock that keeps a second agent out. The first line is
the header (boot id, the run's token, the last incarnation), the others name a task's session and
group with their start times, or say that it is gone. A task runs only once it is written here.
Lines are not forced to the disk: a crash of the host ends every task with it. The header is,
for incarnations only go up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers.chronicle import Chronicle
from workers.processes import boot_id, boot_ns

COMPACT_LINES = 5_000
TOKEN_VARIABLE = "FOLDLINE_TASK_MARK"  # noqa: S105 - the name of a variable
"""In every task's environment: marks what an agent's run started, wherever it went since."""


class NodeTaken(Exception):
    """Another agent of this node runs on this machine."""


class DataDirUnwritable(Exception):
    """The node's data directory takes nothing: nothing new may run."""

    def __init__(self, path: Path, cause: OSError) -> None:
        super().__init__(f"{path} cannot be written: {cause.strerror}")
        self.is_full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        """Room may come back; what is not allowed stays so."""


@dataclass(frozen=True, slots=True)
class Group:
    """A supervisor (and its session) and the task's process (and its group), with start times."""

    session: int
    session_start: int
    group: int
    group_start: int


@dataclass(slots=True)
class Earlier:
    """What an earlier agent of this node wrote down. `token` is "" without a journal."""

    boot: str = ""
    token: str = ""
    incarnation: int = 0
    groups: dict[int, Group] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        """Whether there was a journal that could be read."""
        return bool(self.token)


class Journal:
    """The journal of this run of the agent; `earlier` is what the last one left in it.

    Raises NodeTaken, or DataDirUnwritable where the directory takes nothing.
    """

    def __init__(self, data_dir: Path, node: str) -> None:
        self._path = data_dir / "journal"
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(data_dir / "lock", node)
        except OSError as error:
            raise DataDirUnwritable(data_dir, error) from error
        self.earlier = _read(self._path)
        self.token = secrets.token_hex(16)
        self.chronicle = Chronicle(data_dir)
        self._boot = boot_id()
        self.chronicle.agent(node, self._boot, self.token, boot_ns())
        self._incarnation = self.earlier.incarnation
        self._groups: dict[int, Group] = {}
        self._lines = 0
        self._size = 0
        self._file = -1

    @property
    def incarnation(self) -> int:
        """The present incarnation."""
        return self._incarnation

    def begin(self, incarnation: int) -> None:
        """A new incarnation: durable when this returns. What the last run left must be dead.

        Raises DataDirUnwritable: then it has not begun.
        """
        before, self._incarnation = self._incarnation, incarnation
        try:
            self._rewrite()
        except OSError as error:
            self._incarnation = before
            raise DataDirUnwritable(self._path, error) from error
        self.chronicle.incarnation(incarnation, boot_ns())

    def add(self, group: Group) -> None:
        """This group is about to run a task. Raises DataDirUnwritable: then it must not."""
        try:
            self._append([group.session, group.session_start, group.group, group.group_start])
        except OSError as error:
            raise DataDirUnwritable(self._path, error) from error
        self._groups[group.session] = group

    def remove(self, session: int) -> None:
        """Everything of this group is dead.

        Where that cannot be written the line stays: its start time shows that it is over.
        """
        if self._groups.pop(session, None) is not None:
            with contextlib.suppress(OSError):
                self._append([session])

    def close(self) -> None:
        """Give the lock back."""
        if self._file >= 0:
            os.close(self._file)
        os.close(self._lock)

    def _append(self, row: list[int]) -> None:
        assert self._file >= 0, "a task runs only in an incarnation that has begun"
        if self._lines > COMPACT_LINES:
            self._compact()
        line = _line(row)
        try:
            _write_all(self._file, line)
        except OSError:
            # Half a line would spoil the next one; to give back room always works.
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)
        self._lines += 1

    def _compact(self) -> None:
        """Leave out what is gone. Where there is no room for that, what is there goes on."""
        try:
            self._rewrite()
        except OSError:
            self._lines //= 2

    def _rewrite(self) -> None:
        header = {"boot": self._boot, "token": self.token, "incarnation": self._incarnation}
        rows = [
            [group.session, group.session_start, group.group, group.group_start]
            for group in self._groups.values()
        ]
        fresh = self._path.with_suffix(".new")
        file = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o600)
        text = b"".join(map(_line, [header, *rows]))
        try:
            _write_all(file, text)
            os.fsync(file)
            fresh.replace(self._path)
        except OSError:
            os.close(file)
            fresh.unlink()
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        self._lines = 0
        self._size = len(text)


def _write_all(file: int, data: bytes) -> None:
    """Raises OSError where not all of it finds room."""
    if os.write(file, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _line(row: Any) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _lock(path: Path, node: str) -> int:
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(file, 32).decode().strip() or "unknown"
        os.close(file)
        raise NodeTaken(
            f"node {node} already has an agent on this machine (process {holder} holds {path}): "
            "stop it first, or give this one another node name and data directory"
        ) from None
    os.truncate(file, 0)
    with contextlib.suppress(OSError):  # who holds it is for people: the lock is what counts
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    return file


def _read(path: Path) -> Earlier:
    """What can be read; a line cut short by a crash names nothing that was let go."""
    try:
        header, *rows = path.read_bytes().splitlines()
        values = json.loads(header)
        earlier = Earlier(values["boot"], values["token"], values["incarnation"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Earlier()
    for row in rows:
        try:
            numbers = json.loads(row)
        except ValueError:
            continue
        if len(numbers) == 1:
            earlier.groups.pop(numbers[0], None)
        else:
            earlier.groups[numbers[0]] = Group(*numbers)
    return earlier
