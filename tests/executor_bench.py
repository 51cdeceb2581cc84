"""A process executor in the test's own process, with one task at a time and all that it said."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.agent_world import options
from workers.executor import Ended, TaskKey, TaskNews, TaskOrder, Wrote
from workers.journal import Journal
from workers.process_executor import ProcessExecutor
from workers.processes import NS, boot_ns

BOUND_S = 20.0
KEY = TaskKey(1, 1, 0)


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll, with a bound."""
    give_up = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < give_up, f"not in {BOUND_S} s: {what}"
        time.sleep(0.02)


class ProcessBench:
    """Its journal, its executor and the news of it."""

    def __init__(self, data_dir: Path, **changes: Any) -> None:
        self.journal = Journal(data_dir, "n1")
        self.journal.begin(1)
        given = options(data_dir=data_dir, address="127.0.0.1", **changes)
        self.executor = ProcessExecutor(given, self.journal)
        self.executor.set_deadline(boot_ns() + 3600 * NS)
        self.news: list[TaskNews] = []

    def start(
        self,
        *command: str,
        key: TaskKey = KEY,
        memory_mib: int = 512,
        env: tuple[tuple[str, str], ...] = (),
        progress_timeout_s: int = 0,
    ) -> None:
        job = f"job-{key.job_no}"
        order = TaskOrder(
            key, job, command, env, "{}", (), False, 1, 1000, memory_mib, 5, progress_timeout_s
        )
        self.executor.start(order, None)

    def look(self) -> None:
        self.news += self.executor.poll(0.05)

    def saw(self, kind: type, key: TaskKey = KEY) -> bool:
        self.look()
        return any(type(item) is kind and item.key == key for item in self.news)

    def end(self, key: TaskKey = KEY) -> Ended:
        until(lambda: self.saw(Ended, key), f"the end of {key}")
        return next(item for item in self.news if isinstance(item, Ended) and item.key == key)

    def lines(self, count: int) -> list[str]:
        """The first `count` lines that the task wrote."""
        found: list[str] = []

        def enough() -> bool:
            self.look()
            found[:] = [x for item in self.news if isinstance(item, Wrote) for x in item.lines]
            return len(found) >= count

        until(enough, f"{count} lines of the task")
        return found

    def close(self) -> None:
        self.executor.close()
        self.journal.close()
