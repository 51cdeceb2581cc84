"""kill -9 of every process and every server once while 200 jobs flow: nothing lost, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from foldline.dev import stack
from infra.kafka import Reader
from infra.local.stack import free_settings
from schemas.codec import decode
from schemas.topics import JOB_EVENTS
from tests.live_stack import LiveStack, wait_until

JOBS = 200
VICTIMS = (
    "engine",
    "audit",
    "agent-1",
    "kafka",
    "hot",
    "relay",
    "postgres",
    "api",
    "follower",
    "valkey",
)
TOLD = {"FOLDLINE_AGENT_LEASE_S": "6", "FOLDLINE_AGENT_HEARTBEAT_S": "1"}


@pytest.fixture
def live(stack_dir: Path) -> Iterator[LiveStack]:
    with stack(free_settings(stack_dir, agents=3), told=TOLD) as running:
        live = LiveStack(running, stack_dir / "journal")
        yield live
        live.http.close()


def submit_all(live: LiveStack) -> None:
    """Mostly short plain jobs, and now and then a gang of three or a chain of two."""
    for number in range(JOBS):
        key, seconds = f"job-{number}", 0.2 + number % 7 * 0.2
        if number % 25 == 0:
            live.submit(key, seconds, gang={"enabled": True, "min_members": 3})
        elif number % 25 == 1:
            live.submit(key, seconds, depends_on=[live.jobs[-1]])
        else:
            live.submit(key, seconds)


def public_states(live: LiveStack) -> dict[str, list[str]]:
    """By job: the states that the public topic told, in order, repeats with equal ids left out."""
    reader = Reader(live.running.addresses.bootstrap)
    places = {(JOB_EVENTS.name, number): 0 for number in range(JOB_EVENTS.partitions)}
    reader.assign(places)
    ends = {place: reader.end_offset(*place) for place in places}
    seen: set[bytes] = set()
    told: dict[str, list[str]] = {}
    try:
        while any(reader.position(*place) < end for place, end in ends.items()):
            for message in reader.poll(1.0):
                event_id = dict(message.headers)["ce_id"]
                if event_id in seen:
                    continue
                seen.add(event_id)
                event = decode(message.value or b"")
                told.setdefault(event.job_id, []).append(event.state.value)
    finally:
        reader.close()
    return told


def test_every_process_and_server_is_killed_once_and_no_job_is_lost_or_doubled(
    live: LiveStack,
) -> None:
    submitting = Thread(target=submit_all, args=(live,))
    submitting.start()
    wait_until("jobs flow", lambda: len(live.runs()) > 10, 60)
    for name in VICTIMS:
        live.kill_and_see_it_back(name)
    submitting.join(240)
    assert len(live.jobs) == JOBS
    states = live.wait_all_ended(240)
    assert len(states) == JOBS, "every submission is one job"
    assert {states[job] for job in live.jobs} == {"succeeded"}, json.dumps(states)
    live.assert_nothing_ran_twice()
    live.assert_all_succeeded_by_one_whole_attempt()
    live.verify_within(60)

    def all_told() -> dict[str, list[str]]:
        told = public_states(live)
        done = all(told.get(job, [""])[-1] == "succeeded" for job in live.jobs)
        return told if done else {}

    final = wait_until("the relay has told every end", all_told, 60)
    for job in live.jobs:
        assert final[job][0] == "queued", final[job]
        assert final[job].count("succeeded") == 1, final[job]
