"""A node agent as a process, for tests: `python agent_process.py JSON`, see `main`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from workers.driver import run_agent
from workers.options import AgentOptions


def main() -> int:
    given = json.loads(sys.argv[1])
    options = AgentOptions(
        node=given["node"],
        pool=given["pool"],
        address="127.0.0.1",
        data_dir=Path(given["data_dir"]),
        cpu_milli=4000,
        memory_mib=4096,
        lease_s=given["lease_s"],
        heartbeat_s=given["lease_s"] / 5,
        drain_s=given["drain_s"],
    )
    return run_agent(options, given["bootstrap"], given["shards"])


if __name__ == "__main__":
    sys.exit(main())
