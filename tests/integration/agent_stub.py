"""A process that holds tasks as an agent does, for tests that kill or freeze it.

`python agent_stub.py DATA_DIR LEASE_S COMMAND...`: journals, starts the command as one task, and
prints what it learns as JSON lines. Renews the lease each 50 ms until it is frozen or killed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from workers.executor import Ended, TaskKey, TaskOrder, Wrote
from workers.journal import Journal
from workers.leftovers import kill_leftovers
from workers.options import AgentOptions
from workers.process_executor import ProcessExecutor
from workers.processes import NS, boot_ns


def main() -> None:
    data_dir, lease_s, command = Path(sys.argv[1]), float(sys.argv[2]), tuple(sys.argv[3:])
    options = AgentOptions("n1", "p", "127.0.0.1", data_dir, 1000, 1024)
    journal = Journal(data_dir, "n1")
    left = kill_leftovers(journal.earlier, 10)
    say({"known": journal.earlier.is_known, "left": left})
    journal.begin(journal.earlier.incarnation + 1)
    executor = ProcessExecutor(options, journal)
    executor.set_deadline(boot_ns() + int(lease_s * NS))
    key = TaskKey(1, journal.earlier.incarnation + 1, 0)
    executor.start(TaskOrder(key, "job-1", command, (), "{}", (), False, 1, 1000, 512, 5), None)
    while True:
        executor.set_deadline(boot_ns() + int(lease_s * NS))
        for news in executor.poll(0.05):
            if isinstance(news, Wrote):
                say({"wrote": news.lines})
            elif isinstance(news, Ended):
                say({"ended": news.cause})


def say(words: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
