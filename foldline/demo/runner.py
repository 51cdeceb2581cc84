"""`foldline demo`: a system of its own, real work on it, the proof, and nothing left behind.

Starts the whole stack with four agents in a temporary directory on free ports, so that it neither
needs nor disturbs a running `foldline dev`. Plays `story.py`, judges it with `judge.py`, proves log
and views with `proof.py`, prints `report.py`. Ctrl-C and SIGTERM clean up like a normal end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from foldline.client import ApiError, ApiUnreachable, Client
from foldline.demo.jobs import TOTAL
from foldline.demo.judge import Check, judge
from foldline.demo.plain_job import NotProduced
from foldline.demo.progress import Progress
from foldline.demo.proof import prove
from foldline.demo.report import checks_text, verdict, what_happened
from foldline.demo.story import DemoFailed, Stage, play, wait_for_nodes
from foldline.dev import StackFailed, stack
from foldline.isolation import own_directory
from foldline.session import Exit, show_json
from infra.kafka_port import KafkaUnavailable
from infra.local.stack import Addresses, free_settings
from projections.pipeline import ViewUnavailable

AGENTS = 4
AGENT_OPTIONS = {
    "FOLDLINE_AGENT_CPU_MILLI": "1000",
    "FOLDLINE_AGENT_GPUS": "1",
    "FOLDLINE_AGENT_GPU_MODEL": "declared",
    "FOLDLINE_AGENT_GPU_MEMORY_MIB": "16384",
}
"""One core for each agent and one GPU that is only declared: every job gets a core of its own."""
FAILURES = (
    ApiError,
    ApiUnreachable,
    DemoFailed,
    KafkaUnavailable,
    NotProduced,
    StackFailed,
    ViewUnavailable,
)
PLAIN_WIDTH = 140
JVM_MIB = 384


def run_demo(*, keep: bool = False, as_json: bool = False) -> int:
    """Run it; 0 only if everything is as it should be. `keep` leaves the data for a look.

    `as_json` tells the story on standard error and the checks, as JSON, on standard output.
    """
    shown = sys.stderr if as_json else sys.stdout
    width = None if shown.isatty() else PLAIN_WIDTH
    console = Console(file=shown, highlight=False, width=width)
    try:
        with _terminable(), own_directory("demo", keep=keep) as home:
            checks = _run(home, console)
    except KeyboardInterrupt:
        console.print("\nDEMO INTERRUPTED: everything that it started is stopped")
        return Exit.INTERRUPTED
    except FAILURES as error:
        console.print(f"\nDEMO FAILED: {error}", markup=False, soft_wrap=True)
        return Exit.FAILED
    ok = all(check.ok for check in checks)
    if as_json:
        show_json({"ok": ok, "checks": [asdict(check) for check in checks]})
    return Exit.OK if ok else Exit.FAILED


def _run(home: Path, console: Console) -> list[Check]:
    began = time.monotonic()
    console.print(f"Foldline demo: starting Kafka, PostgreSQL, Valkey and {AGENTS} agents")
    settings = free_settings(home / "stack", agents=AGENTS, kafka_heap_mib=JVM_MIB)
    shared = home / "shared"
    shared.mkdir()
    with (
        _warmed(),
        stack(settings, told=AGENT_OPTIONS) as running,
        Client(running.api_url) as client,
    ):
        wait_for_nodes(client, AGENTS)
        up_s = time.monotonic() - began
        console.print(f"up after {up_s:.1f} s at {running.api_url}; submitting real work\n")
        stage = Stage(client, running.addresses.bootstrap, shared)
        checks = _play_and_prove(stage, running.addresses, console)
    console.print(verdict(checks, time.monotonic() - began))
    return checks


def _play_and_prove(stage: Stage, addresses: Addresses, console: Console) -> list[Check]:
    with Progress(console, TOTAL) as progress:
        happened = play(stage, progress)
    console.print(what_happened(happened))
    console.print()
    checks = judge(happened)
    checks += prove(addresses.bootstrap, addresses.dsn, addresses.redis_url, jobs=len(happened))
    console.print(checks_text(checks), soft_wrap=True)
    return checks


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does; a second one during clean-up is ignored."""

    def interrupt(_number: int, _frame: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _warmed() -> Iterator[None]:
    """Have the libraries' bytecode written while the servers start, so that no job pays for it."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    argv = [sys.executable, "-c", "import sklearn.svm"]
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()
