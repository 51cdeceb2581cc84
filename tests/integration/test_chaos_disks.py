"""The small disks of a chaos run: full when told, free again, and gone without a trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIFE = """
import shutil, sys
from pathlib import Path
from tests.chaos.disks import Disk, enter_own_mounts

root = Path(sys.argv[1])
assert enter_own_mounts()
disk = Disk(root / "kafka")
(disk.directory / "small").write_bytes(b"x" * 1000)
disk.fill()
try:
    (disk.directory / "large").write_bytes(b"x" * 1_000_000)
except OSError as error:
    print(error.strerror)
disk.free()
(disk.directory / "large").write_bytes(b"x" * 1_000_000)
disk.unmount()
shutil.rmtree(root)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_a_small_disk_is_filled_freed_and_deleted(tmp_path: Path) -> None:
    root = tmp_path / "run"
    (root / "kafka").mkdir(parents=True)
    argv = [sys.executable, "-c", LIFE, str(root)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout
    assert not root.exists()
