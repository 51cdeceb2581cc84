"""Every answer of the API has the shape that its clients count on, whatever is wrong behind it.

The application is the real one; what it talks to are doubles (`tests/api_world.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from projections.answers import (
    CommandAnswer,
)
from projections.read_ports import (
    ForeignAnswer,
    LogLine,
)
from tests.api_world import BODY, JOBS, World, api_world, error_of, submitted

pytestmark = pytest.mark.contract


@pytest.fixture
def world() -> Iterator[World]:
    with api_world() as made:
        yield made


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/jobs/"])
def test_a_slash_at_the_end_makes_no_difference_and_no_redirect(world: World, path: str) -> None:
    assert world.client.post(path, json=BODY).status_code == 201
    assert world.client.get(path).status_code == 200
    assert world.client.get("/api/v1/health/live/").status_code == 200


def test_what_is_not_json_is_answered_as_malformed(world: World) -> None:
    for content in (b"{", b"", b"\xff\xfe{", b"[" * 100_000, b'{"priority": ' + b"9" * 5000 + b"}"):
        answer = world.client.post(
            JOBS, content=content, headers={"Content-Type": "application/json"}
        )
        expected = 422 if content == b"" else 400
        error = error_of(answer, expected)
        assert error["code"] == ("validation_failed" if content == b"" else "malformed_json")


def test_other_media_than_json_are_refused_with_the_header_to_send(world: World) -> None:
    answer = world.client.post(JOBS, content=b"command=true", headers={"Content-Type": "text/csv"})
    error = error_of(answer, 415)
    assert "Content-Type: application/json" in error["message"]


def test_a_body_that_is_json_but_no_object_is_refused(world: World) -> None:
    bodies: list[Any] = [[], "x", 7, None]
    for body in bodies:
        error = error_of(world.client.post(JOBS, content=json.dumps(body)), 422)
        assert error["details"]


def test_every_wrong_field_is_named(world: World) -> None:
    body = {"command": [], "priority": 500, "deadlin": 1, "resources": {"cpu": "-2"}}
    error = error_of(world.client.post(JOBS, json=body), 422)
    assert error["code"] == "validation_failed"
    fields = {detail["field"] for detail in error["details"]}
    assert fields == {"command", "priority", "deadlin", "resources.cpu"}


def test_a_body_over_the_limit_is_refused_unread(world: World) -> None:
    error = error_of(world.client.post(JOBS, content=b"x" * (9 << 20)), 413)
    assert error["code"] == "too_large"


def test_half_a_surrogate_pair_is_refused_and_never_breaks_the_answer(world: World) -> None:
    for body in (b'{"command": ["\\ud800"]}', b'{"command": ["a"], "\\udfff": 1}'):
        answer = world.client.post(JOBS, content=body)
        error_of(answer, 422)


def test_an_idempotency_key_must_be_printable(world: World) -> None:
    answer = world.client.post(JOBS, json=BODY, headers={"Idempotency-Key": "a b"})
    assert error_of(answer, 422)["details"][0]["field"].lower() == "idempotency-key"


def test_unknown_addresses_and_methods_are_errors_of_our_shape(world: World) -> None:
    assert error_of(world.client.get("/nowhere"), 404)["code"] == "not_found"
    answer = world.client.request("PATCH", JOBS)
    assert error_of(answer, 405)["code"] == "method_not_allowed"
    assert answer.headers["Allow"] == "GET, POST"


def test_a_fault_of_ours_tells_nothing_but_its_request_id(world: World) -> None:
    with capture_logs([structlog.contextvars.merge_contextvars]) as logged:
        answer = world.client.get("/api/v1/metrics/", headers={"X-Request-Id": "mine-1"})
    error = error_of(answer, 500)
    assert error["request_id"] == logged[0]["request_id"] == "mine-1"
    assert logged[0]["exc_info"]
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_a_request_id_that_cannot_be_logged_is_replaced(world: World) -> None:
    answer = world.client.get("/nowhere", headers={"X-Request-Id": "a b\tc"})
    assert error_of(answer, 404)["request_id"] != "a b\tc"


def test_a_view_that_is_down_is_said_with_when_to_try_again(world: World) -> None:
    world.views.is_down = True
    for path in (JOBS, "/api/v1/queues/", "/api/v1/clusters/", "/api/v1/commands/0-1"):
        answer = world.client.get(path)
        assert error_of(answer, 503)["code"] == "view_unavailable"
        assert answer.headers["Retry-After"]


def test_every_read_says_how_far_its_view_has_come(world: World) -> None:
    world.views.behind = 3
    for path in (JOBS, "/api/v1/queues/", "/api/v1/clusters/"):
        assert world.client.get(path).headers["Foldline-Position"] == "0-2,1-2,2-2,3-2"
    assert world.client.get("/api/v1/queues/none").headers["Foldline-Position"]


@pytest.mark.parametrize("path", [JOBS, "/api/v1/queues/", "/api/v1/clusters/"])
def test_min_position_waits_and_then_says_how_far_the_view_is(world: World, path: str) -> None:
    world.views.behind = 3
    assert world.client.get(path, params={"min_position": "0-2,1-2"}).status_code == 200
    answer = world.client.get(path, params={"min_position": "0-3"})
    error = error_of(answer, 503)
    assert error["code"] == "not_caught_up"
    assert answer.headers["Foldline-Position"].startswith("0-2")
    by_header = world.client.get(path, headers={"Foldline-Min-Position": "0-3"})
    assert error_of(by_header, 503)["code"] == "not_caught_up"
    for wrong in ("x", "99-1"):
        assert error_of(world.client.get(path, params={"min_position": wrong}), 422)["details"]


def test_filters_reach_the_view_as_asked(world: World) -> None:
    asked = {"status": ["queued", "running"], "queue": "q", "priority_min": 5, "limit": 500}
    assert world.client.get(JOBS, params=asked).status_code == 200
    page = world.views.pages[0]
    assert (page.status, page.queue, page.priority_min) == (["queued", "running"], "q", 5)
    assert page.limit == 50
    cursor = {"cursor": "1700000000000000.2.17", "limit": 1, "offset": 3}
    assert world.client.get(JOBS, params=cursor).status_code == 200
    assert (world.views.pages[1].shard, world.views.pages[1].job_no) == (2, 17)


@pytest.mark.parametrize(
    "params",
    [{"status": "lost"}, {"limit": 0}, {"cursor": "x"}, {"colour": "red"}, {"job_type": "\x00"}],
)
def test_filters_that_mean_nothing_are_refused(world: World, params: dict[str, Any]) -> None:
    assert error_of(world.client.get(JOBS, params=params), 422)["details"]


def test_unknown_jobs_queues_clusters_and_commands_are_not_found(world: World) -> None:
    world.views.behind = 9
    codes = {
        f"{JOBS}nonsense": "job_not_found",
        f"{JOBS}00000000-0000-8000-8000-000000000000": "job_not_found",
        f"{JOBS}nonsense/logs": "job_not_found",
        f"{JOBS}nonsense/explain": "job_not_found",
        "/api/v1/queues/none": "queue_not_found",
        "/api/v1/clusters/none": "cluster_not_found",
        "/api/v1/commands/0-1": "command_not_found",
    }
    assert {path: error_of(world.client.get(path), 404)["code"] for path in codes} == codes


def test_a_command_that_is_not_decided_is_pending(world: World) -> None:
    world.views.commands["0-5"] = CommandAnswer(
        position="0-5",
        status="pending",
        code=None,
        message=None,
        job_id=None,
        decided_at=None,
        rows=[],
    )
    assert world.client.get("/api/v1/commands/0-5").json()["status"] == "pending"


def test_explanations_are_passed_on_and_their_absence_names_the_position(world: World) -> None:
    sent = submitted(world).json()
    answer = world.client.get(f"{JOBS}{sent['id']}/explain")
    error = error_of(answer, 503)
    assert error["code"] == "follower_unavailable"
    assert sent["position"] in error["message"]
    assert answer.headers["Foldline-Position"] == sent["position"]
    world.follower.answer = ForeignAnswer(200, {"state": "queued"}, {"Foldline-Position": "0-7"})
    explained = world.client.get(f"{JOBS}{sent['id']}/explain")
    assert explained.json() == {"state": "queued"}
    assert explained.headers["Foldline-Position"] == "0-7"
    assert world.follower.asked[-1] == (sent["id"], sent["position"])


def lines() -> list[LogLine]:
    """Two lines of one task, and a note between."""
    at = 1_700_000_000_000_000
    return [
        LogLine(1, 0, "n1", "stdout", 0, at, "first"),
        LogLine(1, 0, "n1", "", 1, at, "3 lines were left out"),
        LogLine(1, 0, "n1", "stderr", 4, at, "second"),
    ]


def test_logs_are_text_with_notes_in_brackets(world: World) -> None:
    world.logs.lines = lines()
    job_id = submitted(world).json()["id"]
    answer = world.client.get(f"{JOBS}{job_id}/logs")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.text == "first\n[3 lines were left out]\nsecond\n"
    stamped = world.client.get(f"{JOBS}{job_id}/logs", params={"timestamps": True, "tail": 1})
    assert stamped.text == "2023-11-14T22:13:20.000000Z second\n"


def test_lines_of_several_tasks_say_whose_they_are(world: World) -> None:
    world.logs.lines = lines()
    job_id = submitted(world, tasks=2).json()["id"]
    text = world.client.get(f"{JOBS}{job_id}/logs", params={"tail": 1}).text
    assert text == "[1/0] second\n"
    world.client.get(f"{JOBS}{job_id}/logs", params={"task": 1, "attempt": 2})
    assert (world.logs.asked[-1].task, world.logs.asked[-1].attempt) == (1, 2)


def test_logs_are_events_where_they_are_asked_for(world: World) -> None:
    world.logs.lines = lines()
    job_id = submitted(world).json()["id"]
    answer = world.client.get(f"{JOBS}{job_id}/logs", headers={"Accept": "text/event-stream"})
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = [line for line in answer.text.splitlines() if line.startswith("event:")]
    assert events == ["event: line", "event: note", "event: line", "event: end"]


def test_too_many_log_readers_are_asked_to_come_again(world: World) -> None:
    world.logs.is_busy = True
    job_id = submitted(world).json()["id"]
    assert error_of(world.client.get(f"{JOBS}{job_id}/logs"), 503)["code"] == "busy"


@pytest.mark.parametrize("prefix", ["/api/v1/health", "/health"])
def test_health_is_503_with_its_checks_where_something_is_missing(
    world: World, prefix: str
) -> None:
    assert world.client.get(f"{prefix}/live").json() == {"status": "ok"}
    assert world.client.get(f"{prefix}/ready").status_code == 200
    world.checks.is_well = False
    answer = world.client.get(f"{prefix}/ready")
    assert answer.status_code == 503
    assert answer.json()["checks"][0]["ok"] is False


def test_schemas_are_served_as_a_registry_s_clients_ask_for_them(world: World) -> None:
    subject = "foldline.jobs.events.v1-foldline.JobEvent"
    assert subject in world.client.get("/subjects").json()
    latest = world.client.get(f"/subjects/{subject}/versions/latest").json()
    assert latest["subject"] == subject
    assert latest["version"] in world.client.get(f"/subjects/{subject}/versions").json()
    by_id = world.client.get(f"/schemas/ids/{latest['id']}").json()
    assert json.loads(by_id["schema"])["name"] == "JobEvent"
    missing = world.client.get("/schemas/ids/99999")
    assert missing.status_code == 404
    assert missing.json()["error_code"] == 40403
    assert world.client.get("/subjects/none/versions").json()["error_code"] == 40401
    assert world.client.get(f"/subjects/{subject}/versions/77").json()["error_code"] == 40402


def test_the_document_describes_every_error_in_our_shape(world: World) -> None:
    document = world.client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                content = answer.get("content", {}).get("application/json", {})
                name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
                shapes = {"ErrorAnswer", "RegistryError", "HealthAnswer"}
                assert int(status) < 400 or name in shapes, (path, method, status)


def test_figures_for_prometheus_are_counted_by_route(world: World) -> None:
    world.client.get(f"{JOBS}nonsense")
    answer = world.client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    wanted = 'foldline_http_requests_total{method="GET",route="/api/v1/jobs/{job_id}",status="404"}'
    assert wanted in answer.text
