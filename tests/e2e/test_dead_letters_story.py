"""Dead letters from end to end: a job fails for good, is looked at, run again, purged; poison is kept.

By the command line against a whole running system; triage by its own process beside it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from foldline.cli import app
from foldline.dev import RunningStack
from foldline.session import Exit, Session
from infra.kafka import Sender
from projections.verify import verify
from schemas.topics import COMMANDS
from tests.api_stack import running_stack
from tests.live_stack import wait_until

FAIL = "echo step 1; echo 'loss is NaN at step 17' >&2; exit 3"
SMALL = ("--cpu", "50m", "--memory", "32Mi", "--retries", "1")
RULE = {"name": "grow", "queue": "nightly", "delay_s": 0.5, "max_times": 1, "memory_factor": 2}


@pytest.fixture(scope="module")
def running() -> Iterator[RunningStack]:
    with running_stack(agents=1) as made:
        yield made


def ask(running: RunningStack, *arguments: str) -> Any:
    """The answers of a command with --json: one document a line."""
    result = CliRunner().invoke(app, [*arguments, "--json"], obj=Session(running.api_url))
    assert result.exit_code == Exit.OK, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def say(running: RunningStack, *arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), obj=Session(running.api_url))
    assert result.exit_code == Exit.OK, result.output
    return str(result.stdout)


def doomed(running: RunningStack, *options: str) -> str:
    """A job that fails twice; its id."""
    return say(running, "submit", *SMALL, *options, "--", "sh", "-c", FAIL).strip()


def letters(running: RunningStack, *filters: str) -> dict[str, dict[str, Any]]:
    (page,) = ask(running, "dlq", "list", *filters)
    return {letter["id"]: letter for letter in page["letters"]}


def test_a_failing_job_is_laid_aside_shown_redriven_once_and_purged(running: RunningStack) -> None:
    job = doomed(running)
    wait_until("the job is laid aside", lambda: job in letters(running), 60)
    text = say(running, "dlq", "show", job)
    assert "loss is NaN at step 17" in text
    (shown,) = ask(running, "dlq", "show", job)
    assert [one["attempt"] for one in shown["history"]] == [1, 2]
    assert (shown["failure"], shown["resources"]["memory_mib"]) == ("user_error", 32)
    look = ("--fingerprint", shown["fingerprint"])
    (groups,) = ask(running, "dlq", "list", "--group", *look)
    assert groups["groups"][0]["letters"] == 1

    more = ("--memory", "64Mi", "--env", "FIXED=1")
    (dry,) = ask(running, "dlq", "redrive", *look, *more, "--dry-run")
    assert (dry["outcome"], dry["memory_mib"]) == ("would_send", 64)
    (first,) = ask(running, "dlq", "redrive", job, *more)
    (second,) = ask(running, "dlq", "redrive", job, *more)
    assert dry["job_id"] == first["job_id"] == second["job_id"], "a repeat is the same job"
    again = first["job_id"]
    wait_until("the redriven one is laid aside", lambda: again in letters(running), 60)
    (now,) = ask(running, "job", again)
    assert (now["redrives"], now["causation_id"]) == (job, f"redrive:{job}")
    assert now["resources"]["memory_mib"] == 64
    old = letters(running, "--state", "redriven")[job]
    assert old["redriven_by"] == again

    say(running, "dlq", "purge", *look, "--reason", "known")
    wait_until("the letter is purged", lambda: again in letters(running, "--state", "purged"), 30)
    assert again not in letters(running)
    assert letters(running, "--state", "purged")[again]["purge_reason"] == "known"


def test_poison_is_parked_with_its_bytes_and_stops_nothing(running: RunningStack) -> None:
    sender, offsets = Sender(running.environment["FOLDLINE_KAFKA_BOOTSTRAP"]), list[int | None]()
    for value in (b"\x00\x00\x00\xff\xffrubbish", b"z" * 5_000_000):
        sender.send(
            COMMANDS.name,
            value,
            key="default",
            headers=[("ce_id", b"\xff\x00")],
            on_result=lambda offset, _: offsets.append(offset),
        )
    sender.flush(10)
    sender.close()
    wait_until("both are parked", lambda: len(letters(running, "--kind", "input")) == 2, 60)
    found = letters(running, "--kind", "input")
    assert {name.split(":")[2] for name in found} == {str(offset) for offset in offsets}
    small, large = sorted(found, key=lambda name: int(name.split(":")[2]))
    (shown,) = ask(running, "dlq", "show", small)
    assert shown["input"]["value_base64"] == "AAAA//9ydWJiaXNo"
    assert shown["input"]["headers"] == [{"name": "ce_id", "value_base64": "/wA="}]
    assert ask(running, "dlq", "show", large)[0]["input"]["size"] == 5_000_000
    assert "rubbish" in say(running, "dlq", "show", small)

    outcomes = ask(running, "dlq", "redrive", small, large)
    assert {one["outcome"] for one in outcomes} == {"sent", "skipped"}
    wait_until(
        "the resent one is parked anew",
        lambda: set(letters(running, "--kind", "input")) - {small, large},
        30,
    )
    assert letters(running, "--state", "purged")[small]["purge_reason"].startswith("sent again")


def test_the_switch_stops_retries_and_lets_them_go_on(running: RunningStack) -> None:
    say(running, "retries", "off", "--cluster", "default")
    job = doomed(running)
    (first,) = wait_until(
        "the first attempt fails",
        lambda: [one for one in ask(running, "job", job) if one["status"] == "retrying"],
        30,
    )
    assert first["attempt"] == 1
    say(running, "retries", "on", "--all")
    wait_until("it is tried again and laid aside", lambda: job in letters(running), 60)


@contextmanager
def edge(running: RunningStack) -> Iterator[subprocess.Popen[bytes]]:
    rules = {"FOLDLINE_EDGE_RULES": json.dumps([RULE])}
    process = subprocess.Popen(
        [sys.executable, "-m", "foldline", "serve", "edge"],
        env={**os.environ, **running.environment, **rules},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_triage_redrives_by_a_rule_once_whatever_becomes_of_it(running: RunningStack) -> None:
    put = httpx.put(f"{running.api_url}/api/v1/queues/nightly", json={})
    assert put.status_code == 202
    asked = {"min_position": put.json()["position"]}
    assert httpx.get(f"{running.api_url}/api/v1/queues/nightly", params=asked).is_success

    def redriven(job: str) -> str:
        return str(letters(running, "--state", "redriven").get(job, {}).get("redriven_by", ""))

    with edge(running) as process:
        job = doomed(running, "--queue", "nightly")
        again = wait_until("triage redrives it", lambda: redriven(job), 90)
        (shown,) = ask(running, "job", again)
        assert (shown["causation_id"], shown["actor"]) == ("triage:grow:1", "triage")
        assert shown["resources"]["memory_mib"] == 64
        wait_until("it fails again", lambda: again in letters(running), 60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = len(ask(running, "jobs")[0]["jobs"])
    with edge(running) as process:
        later = doomed(running, "--queue", "nightly")
        wait_until("its successor goes on", lambda: redriven(later), 90)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert again in letters(running), "a rule that was used up leaves the letter to people"
    assert len(ask(running, "jobs")[0]["jobs"]) == before + 2, "nothing was redriven twice"


def test_log_and_views_agree_on_every_letter(running: RunningStack) -> None:
    env = running.environment
    report = verify(
        env["FOLDLINE_KAFKA_BOOTSTRAP"], env["FOLDLINE_POSTGRES_DSN"], env["FOLDLINE_REDIS_URL"]
    )
    assert report.is_ok, list(report.lines())
    audits = [view for shard in report.shards for view in shard.views if view.view == "audit"]
    assert sum(view.letters or 0 for view in audits) >= 6
