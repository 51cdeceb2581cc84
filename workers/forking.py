"""What the process executor needs once, before its first task: fork server, lease file, limits.

What cannot be had is a typed error that says what to do about it.
"""

from __future__ import annotations

import mmap
import resource
import socket
import subprocess
import sys
from pathlib import Path

from workers.journal import DataDirUnwritable

ROOT = Path(__file__).resolve().parents[1]
FORKSERVER = (
    f"import sys; sys.path.append({str(ROOT)!r}); from workers import forkserver as f; f.main()"
)


class ExecutorBroken(Exception):
    """Tasks cannot be run: the fork server is gone, or what was asked for is not there."""


def share_lease(path: Path) -> memoryview:
    """The deadline that supervisors read: one number in a small file that they map.

    Raises DataDirUnwritable.
    """
    try:
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            return memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
    except OSError as error:
        raise DataDirUnwritable(path, error) from error


def start_forkserver(
    program: str, lease_path: Path
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The socket to ask it by, and its process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        argv = [sys.executable, "-I", "-S", "-c", program, str(theirs.fileno()), str(lease_path)]
        process = subprocess.Popen(
            argv,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    return ours, process


def raise_descriptor_limit() -> None:
    """Each running task holds three descriptors here; its own limit stays as it was."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_cgroup(path: Path | None) -> None:
    """Raises ExecutorBroken where tasks could have no memory limit of the kernel's."""
    if path is None:
        return
    control = path / "cgroup.subtree_control"
    if not control.exists() or "memory" not in control.read_text().split():
        raise ExecutorBroken(
            f"cgroup_dir {path} is no cgroup v2 directory whose children have the memory "
            "controller: delegate one (systemd: Delegate=yes) or leave it out"
        )
