"""A user's day with the API on a whole running system: submit, watch, explain, cancel, page, repeat."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from foldline.dev import RunningStack
from tests.api_stack import running_stack
from tests.live_stack import wait_until

SMALL = {"resources": {"cpu": "50m", "memory": "32Mi"}}
ENDED = {"succeeded", "failed", "dead_letter", "cancelled", "refused"}


@pytest.fixture(scope="module")
def running() -> Iterator[RunningStack]:
    with running_stack(agents=2) as made:
        yield made


@pytest.fixture(scope="module")
def api(running: RunningStack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{running.api_url}/api/v1", timeout=30.0) as client:
        yield client


def submit(api: httpx.Client, *argv: str, key: str = "", **body: Any) -> dict[str, Any]:
    headers = {"Idempotency-Key": key} if key else {}
    answer = api.post("/jobs/", json={"command": list(argv), **SMALL, **body}, headers=headers)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def show(api: httpx.Client, job_id: str) -> dict[str, Any]:
    answer = api.get(f"/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ended(api: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job, once it has ended."""

    def look() -> dict[str, Any]:
        job = show(api, job_id)
        return job if job["status"] in ENDED else {}

    return wait_until(f"job {job_id} ends", look, 60)


def test_a_job_is_seen_from_its_submission_to_its_last_line(api: httpx.Client) -> None:
    sent = submit(api, "sh", "-c", "echo out; echo err >&2", config={"a": [1, None]}, name="first")
    assert show(api, sent["id"])["status"] in {"pending", "queued", "scheduled", "running"} | ENDED
    job = ended(api, sent["id"])
    assert (job["status"], job["attempt"], job["retry_count"]) == ("succeeded", 1, 0)
    assert job["worker_id"] == job["attempts"][0]["tasks"][0]["node"]
    assert job["attempts"][0]["tasks"][0]["exit_code"] == 0
    assert (job["config"], job["name"]) == ({"a": [1, None]}, "first")
    text = api.get(f"/jobs/{sent['id']}/logs").text
    assert sorted(text.splitlines()) == ["err", "out"]
    outcome = api.get(f"/commands/{sent['position']}").json()
    assert (outcome["status"], outcome["job_id"]) == ("accepted", sent["id"])


def test_followed_logs_come_while_the_job_runs_and_end_with_it(api: httpx.Client) -> None:
    script = "for i in 1 2 3 4; do echo tick $i; sleep 0.3; done"
    sent = submit(api, "sh", "-c", script)
    lines: list[str] = []
    while_running: list[str] = []
    with api.stream("GET", f"/jobs/{sent['id']}/logs", params={"follow": True}) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            while_running.append(show(api, sent["id"])["status"])
    assert lines == ["tick 1", "tick 2", "tick 3", "tick 4"]
    assert "running" in while_running
    tail = api.get(f"/jobs/{sent['id']}/logs", params={"tail": 1}).text
    assert tail == "tick 4\n"
    events = {"Accept": "text/event-stream"}
    stream = api.get(f"/jobs/{sent['id']}/logs", headers=events).text
    assert stream.count("event: line") == 4
    assert stream.rstrip().endswith("data: {}")


def test_a_failing_job_is_retried_and_then_laid_aside_with_its_reason(api: httpx.Client) -> None:
    policy = {"max_retries": 1, "backoff_seconds": 0}
    sent = submit(api, "sh", "-c", "echo no; exit 3", retry_policy=policy)
    job = ended(api, sent["id"])
    assert (job["status"], job["attempt"], job["failure"]) == ("dead_letter", 2, "user_error")
    assert [task["exit_code"] for one in job["attempts"] for task in one["tasks"]] == [3, 3]
    second = api.get(f"/jobs/{sent['id']}/logs", params={"attempt": 2}).text
    assert second == "no\n"


def test_a_gang_runs_whole_and_its_lines_say_whose_they_are(api: httpx.Client) -> None:
    sent = submit(
        api, "sh", "-c", "echo $RANK of $WORLD_SIZE", gang={"min_members": 3, "topology": "ring"}
    )
    job = ended(api, sent["id"])
    assert job["status"] == "succeeded"
    assert job["gang"] == {"min_members": 3, "topology": "ring"}
    lines = sorted(api.get(f"/jobs/{sent['id']}/logs").text.splitlines())
    assert lines == [f"[1/{rank}] {rank} of 3" for rank in range(3)]


def test_a_waiting_job_is_explained_and_both_end_when_the_first_is_cancelled(
    api: httpx.Client,
) -> None:
    first = submit(api, "sleep", "600")
    second = submit(api, "true", depends_on=[first["id"]])
    wait_until("the first runs", lambda: show(api, first["id"])["status"] == "running", 60)
    why = api.get(f"/jobs/{second['id']}/explain").json()
    assert (why["status"], why["reasons"][0]["code"]) == ("queued", "dependencies")
    answer = api.delete(f"/jobs/{first['id']}", params={"reason": "no longer needed"})
    assert answer.status_code == 202
    assert ended(api, first["id"])["status"] == "cancelled"
    assert ended(api, second["id"])["status"] == "cancelled"
    again = api.delete(f"/jobs/{first['id']}")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "job_ended")


def test_a_refused_submission_tells_why_and_what_to_do(api: httpx.Client) -> None:
    sent = submit(api, "true", queue="nowhere")
    job = ended(api, sent["id"])
    assert job["status"] == "refused"
    assert "PUT /queues/nowhere" in job["message"]
    outcome = api.get(f"/commands/{sent['position']}").json()
    assert (outcome["status"], outcome["code"]) == ("refused", "queue_not_found")


def test_a_caller_reads_its_own_writes_by_their_position(api: httpx.Client) -> None:
    put = api.put("/queues/night", json={"state": "paused", "description": "for the night"})
    position = put.json()["position"]
    queue = api.get("/queues/night", params={"min_position": position}).json()
    assert (queue["state"], queue["depth"]) == ("paused", 0)
    sent = submit(api, "true", queue="night")
    queue = api.get("/queues/night", params={"min_position": sent["position"]}).json()
    assert (queue["depth"], queue["last_hour"]["submitted"]) == (1, 1)
    listed = api.get("/jobs/", params={"queue": "night", "min_position": sent["position"]}).json()
    assert [job["id"] for job in listed["jobs"]] == [sent["id"]]
    assert api.put("/queues/night", json={"state": "open"}).status_code == 202
    assert ended(api, sent["id"])["status"] == "succeeded"


def test_pages_hold_every_job_once(api: httpx.Client) -> None:
    sent = [submit(api, "true", job_type="paged") for _ in range(11)]
    asked: dict[str, Any] = {"job_type": "paged", "limit": 4, "min_position": sent[-1]["position"]}
    found: list[str] = []
    pages = 0
    while True:
        page = api.get("/jobs/", params=asked).json()
        found += [job["id"] for job in page["jobs"]]
        pages += 1
        if page["next_cursor"] is None:
            break
        asked["cursor"] = page["next_cursor"]
    assert sorted(found) == sorted(job["id"] for job in sent)
    assert pages == 3
    rest = api.get("/jobs/", params={"job_type": "paged", "offset": 8}).json()
    assert [job["id"] for job in rest["jobs"]] == found[8:]


def test_a_key_stays_the_same_job_over_a_restart_of_the_api(
    running: RunningStack, api: httpx.Client
) -> None:
    body = {"config": {"b": 1, "a": 2}, "retry_policy": {"backoff_multiplier": 1.5}, "tasks": 2}
    first = submit(api, "true", key="once", **body)
    ended(api, first["id"])
    old = running.pid("api")
    assert old is not None
    os.kill(old, signal.SIGTERM)

    def is_back() -> bool:
        try:
            return running.pid("api") not in (None, old) and api.get("/health/live").is_success
        except httpx.TransportError:
            return False

    wait_until("the API is back", is_back, 60)
    again = submit(api, "true", key="once", **body)
    assert again["id"] == first["id"]
    after = {"min_position": again["position"]}
    assert api.get(f"/commands/{again['position']}", params=after).json()["status"] == "repeated"
    other = api.post(
        "/jobs/", json={"command": ["false"], **SMALL}, headers={"Idempotency-Key": "once"}
    )
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_figures_and_nodes_say_what_has_happened(api: httpx.Client) -> None:
    sent = submit(api, "true")
    ended(api, sent["id"])
    figures = api.get("/metrics/", params={"min_position": sent["position"]}).json()
    assert figures["last_24_hours"]["submitted"] >= 1
    assert figures["dispatch"]["jobs"] >= 1
    assert 0 < figures["dispatch"]["p50_ms"] <= figures["dispatch"]["p99_ms"]
    cluster = api.get("/clusters/default").json()
    assert [node["draining"] for node in cluster["nodes"]] == [False, False]
    assert cluster["cpu_free_milli"] <= cluster["cpu_milli"]
    ready = api.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
