"""A small file system for tests that fill a disk. Needs the right to mount; skips without it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def mounted(path: Path) -> Iterator[Path]:
    """A file system of 512 KiB and a hundred files, there until the generator goes on."""
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k,nr_inodes=100", "tmpfs", str(path)],
        check=False,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    yield path
    # Lazily: a process that a test killed may not have let go of it yet.
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room, for bytes and for files; remove what is returned to give it back."""
    ballast = disk / "ballast"
    ballast.mkdir()
    with (ballast / "bytes").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096) == 4096:
            pass
    with contextlib.suppress(OSError):
        for number in range(1000):
            (ballast / str(number)).touch()
    with pytest.raises(OSError, match="No space left"):
        (disk / "more").mkdir()
    return ballast
