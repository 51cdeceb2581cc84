"""A process that runs a stack of its own: nothing of this user's settings may reach it.

The demo and the measurements start servers, agents and all in a temporary directory; a variable or
a settings file that names other servers, or another shard count, would lead them astray.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "FOLDLINE_"


@contextmanager
def own_directory(name: str, *, keep: bool = False) -> Iterator[Path]:
    """A temporary directory for one stack, deleted at the end unless it is to be kept.

    Until then this process and its children see no setting of this user. The directory is
    passable, for PostgreSQL may run as a system user.
    """
    home = Path(tempfile.mkdtemp(prefix=f"foldline-{name}-"))
    home.chmod(0o711)
    hidden = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith(PREFIX)}
    os.environ["FOLDLINE_STACK_DATA_DIR"] = str(home / "stack")
    try:
        yield home
    finally:
        del os.environ["FOLDLINE_STACK_DATA_DIR"]
        os.environ.update(hidden)
        if keep:
            print(f"the data is kept in {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
