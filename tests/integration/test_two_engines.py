"""Two engine processes: each owns shards, one takes over from the other, and a frozen owner that
wakes up behind its successor changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from foldline.dev import stack
from infra.local.stack import free_settings
from schemas.ids import partition_of
from tests.live_stack import LiveStack, wait_until

OTHER = next(
    f"pool{n}" for n in range(100) if partition_of(f"pool{n}", 2) != partition_of("default", 2)
)
TOLD = {
    "FOLDLINE_AGENT_LEASE_S": "6",
    "FOLDLINE_AGENT_HEARTBEAT_S": "1",
}


@pytest.fixture
def live(stack_dir: Path) -> Iterator[LiveStack]:
    with stack(free_settings(stack_dir, agents=2), told=TOLD) as running:
        live = LiveStack(running, stack_dir / "journal")
        yield live
        live.http.close()


@contextmanager
def second_engine(live: LiveStack, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "foldline", "serve", "engine"]
    environment = {**os.environ, **live.running.environment, **TOLD}
    with log.open("wb") as output:
        process = subprocess.Popen(argv, env=environment, stderr=output, stdout=output)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(30)


def says(log: Path, event: str) -> int:
    return log.read_text().count(f'"event": "{event}"')


def test_engines_share_shards_and_a_frozen_owner_is_superseded_without_harm(
    live: LiveStack, stack_dir: Path
) -> None:
    log = stack_dir / "second-engine.log"
    put = live.http.put(f"/clusters/{OTHER}", json={"description": "on the other shard"})
    assert put.status_code == 202, put.text
    first = live.running.pid("engine")
    assert first is not None
    live.submit("before", 0.1)
    with second_engine(live, log):
        wait_until("the second engine owns a shard", lambda: says(log, "owning"), 60)
        for number in range(20):
            live.submit(f"job-{number}", 0.5)
            live.submit(f"other-{number}", 0.5, cluster=OTHER)
        os.kill(first, signal.SIGSTOP)
        try:
            wait_until("the second engine owns both shards", lambda: says(log, "owning") >= 2, 90)
            live.submit("while-frozen", 0.1)
        finally:
            os.kill(first, signal.SIGCONT)
        live.submit("after", 0.1)
        here = [job for job in live.jobs if job.startswith(shard_prefix("default"))]
        wait_until(
            "all jobs of the default cluster have succeeded",
            lambda: all(live.states().get(job) == "succeeded" for job in here),
            120,
        )
    assert len(here) == 23
    assert sum(state == "queued" for state in live.states().values()) == 20, "no nodes there"
    live.assert_nothing_ran_twice()
    live.verify_within(60)


def shard_prefix(pool: str) -> str:
    """How ids of jobs of this pool begin."""
    return f"{partition_of(pool, 2):04x}"
