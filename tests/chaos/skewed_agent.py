"""`foldline serve agent` with clocks that jump: run as a module, with the clock's file.

Only how the clocks are read is replaced, in the agent and in its fork server.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

from tests.chaos.clock import install

ROOT = Path(__file__).resolve().parents[2]


def main(clock_file: str) -> int:
    clock = install(clock_file)
    from foldline.serve import serve  # noqa: PLC0415 - after the clocks were replaced
    from workers import driver, process_executor  # noqa: PLC0415 - the same

    replaced = (
        (driver, "time", SimpleNamespace(time_ns=clock.wall_ns, monotonic=time.monotonic)),
        (process_executor, "FORKSERVER", _fork_server(clock_file)),
    )
    for owner, name, value in replaced:
        assert hasattr(owner, name), f"{owner} has no {name} any more"
        setattr(owner, name, value)
    return serve("agent")


def _fork_server(clock_file: str) -> str:
    return (
        f"import sys; sys.path.append({str(ROOT)!r}); from tests.chaos.clock import install;"
        f" install({clock_file!r}); from workers import forkserver as f; f.main()"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
