"""One task as its supervisor knows it, and the child process that becomes the task's program.

The child waits for the supervisor's word, then turns into the program; if it cannot, it says why
on the status pipe as `errno where text`. Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from typing import Any

from workers.processes import die_with_parent

DEFAULT_AGAIN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that this process or Python ignores, and that the task must not inherit so."""


class Task:
    """What to run, where (a directory that is removed at the end), and within which limits."""

    __slots__ = (
        "argv",
        "cgroup",
        "chronicle",
        "cwd",
        "env",
        "grace_s",
        "memory_mib",
        "names",
        "progress",
        "progress_timeout_s",
    )

    def __init__(self, text: str) -> None:
        values: dict[str, Any] = json.loads(text)
        self.argv: list[str] = values["argv"]
        self.env: dict[str, str] = values["env"]
        self.cwd: str = values["cwd"]
        self.memory_mib: int = values["memory_mib"]
        self.cgroup: str = values["cgroup"]
        self.grace_s: float = values["grace_s"]
        self.progress: str = values["progress"]
        self.progress_timeout_s: int = values["progress_timeout_s"]
        self.chronicle: str = values["chronicle"]
        self.names: dict[str, Any] = values["names"]


def be_the_task(task: Task, go: int, status: int, streams: tuple[int, int]) -> None:
    """In the child: wait for the word, then become the task's program. Never returns."""
    where = "exec"
    try:
        os.setpgid(0, 0)
        die_with_parent()
        signal.set_wakeup_fd(-1)
        for ignored in (*DEFAULT_AGAIN, signal.SIGCHLD):
            signal.signal(ignored, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)
        if os.read(go, 1) != b"g":
            os._exit(1)  # the supervisor died first
        where = "chdir"
        os.chdir(task.cwd)
        where = "exec"
        os.execvpe(task.argv[0], task.argv, task.env)  # noqa: S606 - no shell is what is wanted
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL
        text = error.strerror if isinstance(error, OSError) else str(error)
        os.write(status, f"{number} {where} {text}".encode())
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not go on
        os.write(status, f"{errno.EIO} fork {error!r}".encode())
    os._exit(127)
