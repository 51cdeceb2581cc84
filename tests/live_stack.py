"""A whole running system under test: load with journals of its own, kills, and the final account.

Every task writes a line when it starts and one when it ends, so that doubled, overlapping and lost
runs are found without asking the system under test.
"""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from foldline.dev import RunningStack
from projections.verify import VerifyReport, verify

T = TypeVar("T")
TASK = (
    'echo "start $FOLDLINE_JOB_ID $FOLDLINE_ATTEMPT $FOLDLINE_TASK $(cut -d" " -f1 /proc/uptime)"'
    ' >> "$JOURNAL"; sleep "$SECONDS_TO_RUN";'
    ' echo "end $FOLDLINE_JOB_ID $FOLDLINE_ATTEMPT $FOLDLINE_TASK $(cut -d" " -f1 /proc/uptime)"'
    ' >> "$JOURNAL"'
)


def wait_until(what: str, condition: Callable[[], T], within_s: float) -> T:
    """Poll a condition until it holds; fail with its name when it does not in time."""
    deadline = time.monotonic() + within_s
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.1)


@dataclass
class LiveStack:
    """The running system, the journal of its tasks, and what was submitted."""

    running: RunningStack
    journal: Path
    jobs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.journal.touch()
        self.journal.chmod(0o666)
        self.http = httpx.Client(base_url=f"{self.running.api_url}/api/v1", timeout=30.0)

    def submit(self, key: str, seconds: float, **body: Any) -> str:
        """Submit until it is accepted: with its key, a repeated submission is the same job."""
        ask = {
            "job_type": "test",
            "command": ["sh", "-c", TASK],
            "env": {"JOURNAL": str(self.journal), "SECONDS_TO_RUN": str(seconds)},
            "resources": {"cpu": "50m", "memory": "32Mi"},
            "retry_policy": {"max_retries": 0},
        } | body
        deadline = time.monotonic() + 120
        while True:
            answer = self._post(ask, key)
            if answer is not None and answer.status_code in {200, 201}:
                job_id = str(answer.json()["id"])
                self.jobs.append(job_id)
                return job_id
            assert answer is None or answer.status_code == 503, answer.text
            assert time.monotonic() < deadline, "no submission was accepted for 120 s"
            time.sleep(0.1)

    def _post(self, ask: dict[str, Any], key: str) -> httpx.Response | None:
        """The API's answer; None while there is nobody to answer."""
        try:
            return self.http.post("/jobs/", json=ask, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            return None

    def kill(self, name: str) -> int:
        """kill -9 one process of the system; answers the pid that it had."""
        pid = wait_until(f"{name} runs", lambda: self.running.pid(name), 60) or 0
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_and_see_it_back(self, name: str) -> None:
        """kill -9 one process; return when another one has taken its place."""
        old = self.kill(name)
        wait_until(f"{name} is back", lambda: self.running.pid(name) not in (None, old), 60)

    def states(self) -> dict[str, str]:
        """The state of every submitted job, by the audit view; {} while it cannot be asked."""
        found: dict[str, str] = {}
        cursor: str | None = ""
        try:
            while cursor is not None:
                params = {"limit": "500"} | ({"cursor": cursor} if cursor else {})
                answer = self.http.get("/jobs/", params=params)
                if answer.status_code != 200:
                    return {}
                body = answer.json()
                found.update({job["id"]: job["status"] for job in body["jobs"]})
                cursor = body["next_cursor"]
        except httpx.TransportError:
            return {}
        return found

    def wait_all_ended(self, within_s: float) -> dict[str, str]:
        """Wait until every submitted job has ended; answers their states."""
        final = {"succeeded", "failed", "dead_letter", "cancelled", "refused"}

        def ended() -> dict[str, str]:
            states = self.states()
            done = states and all(states.get(job) in final for job in self.jobs)
            return states if done else {}

        return dict(wait_until("all jobs have ended", ended, within_s))

    def runs(self) -> dict[tuple[str, int, int], list[tuple[str, float]]]:
        """By (job, attempt, task): what the tasks themselves wrote, in order."""
        found: dict[tuple[str, int, int], list[tuple[str, float]]] = defaultdict(list)
        for line in self.journal.read_text().splitlines():
            what, job, attempt, task, at = line.split()
            found[job, int(attempt), int(task)].append((what, float(at)))
        return found

    def assert_nothing_ran_twice(self) -> None:
        """Each task of each attempt started once at most; attempts of a job never overlapped."""
        by_job: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
        for (job, attempt, task), lines in self.runs().items():
            starts = [at for what, at in lines if what == "start"]
            assert len(starts) == 1, f"task {job}/{attempt}/{task} started {len(starts)} times"
            by_job[job].append((attempt, starts[0], max(at for _, at in lines)))
        for job, attempts in by_job.items():
            for attempt, _, ended in attempts:
                for later, started, _ in attempts:
                    if later > attempt:
                        assert started >= ended, f"attempts {attempt} and {later} of {job} overlap"

    def assert_all_succeeded_by_one_whole_attempt(self) -> None:
        """Every submitted job's last attempt wrote its end, and no other attempt did."""
        ends: dict[str, set[int]] = defaultdict(set)
        for (job, attempt, _), lines in self.runs().items():
            if any(what == "end" for what, _ in lines):
                ends[job].add(attempt)
        for job in self.jobs:
            assert ends[job], f"{job} succeeded but no task of it wrote its end"

    def verify_within(self, seconds: float) -> VerifyReport:
        """The log from its first record, and every view equal to the fold where it stands."""
        addresses = self.running.addresses

        def caught_up() -> VerifyReport | None:
            report = verify(addresses.bootstrap, addresses.dsn, addresses.redis_url)
            return report if report.is_ok else None

        found = wait_until("the log is whole and the views equal the fold", caught_up, seconds)
        assert found is not None
        return found
