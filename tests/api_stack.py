"""A whole system of its own for tests that speak to it through its API alone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foldline.dev import RunningStack, stack
from infra.local.stack import free_settings


@contextmanager
def running_stack(agents: int) -> Iterator[RunningStack]:
    """Servers and processes on free ports, in a directory that PostgreSQL's system user reaches."""
    path = Path(tempfile.mkdtemp(prefix="foldline-"))
    path.chmod(0o711)
    try:
        with stack(free_settings(path, agents=agents)) as running:
            yield running
    finally:
        shutil.rmtree(path)
