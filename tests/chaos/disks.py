"""A small disk for each server, that can be made full and free again. Needs root; Linux only.

The disks are mounted in a mount namespace of this process and its children alone, so that nothing
is left mounted when the last of them ends, however it ends. Full means that the disk has shrunk to what is on it:
no ballast costs memory.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

CLONE_NEWNS = 0x00020000
SIZE = 2 * 1024 * 1024 * 1024
SPARE = 16 * 1024
TRIES = 20


def enter_own_mounts() -> bool:
    """From here on mounts are this process's own; False where that is not allowed."""
    if os.geteuid() != 0 or ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        return False
    return _mount("--make-rprivate", "/")


class Disk:
    """A tmpfs over the directory, which must exist."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        is_mounted = _mount("-t", "tmpfs", "-o", f"size={SIZE},mode=0711", "chaos", str(directory))
        assert is_mounted, f"no disk could be mounted at {directory}"

    def fill(self) -> None:
        """Leave next to nothing free."""
        for _ in range(TRIES):
            found = os.statvfs(self.directory)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            if self._resize(used + SPARE):
                return
        raise AssertionError(f"{self.directory} could not be filled")

    def free(self) -> None:
        """As large as in the beginning."""
        assert self._resize(SIZE)

    def unmount(self) -> None:
        """Gone, with what is on it, so that the directory can be deleted."""
        subprocess.run(["umount", "--lazy", str(self.directory)], check=True, capture_output=True)

    def _resize(self, size: int) -> bool:
        return _mount("-o", f"remount,size={size}", str(self.directory))


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
