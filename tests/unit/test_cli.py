"""The command line against a pretended API: what it sends, shows, and leaves as exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from typer.testing import CliRunner, Result

from foldline.bodies import BadFile, read_bodies, with_ids
from foldline.cli import app
from foldline.render import span_text
from foldline.session import Exit, Session
from ingest.requests import ClusterBody, JobBody, QueueBody
from tests.pretended_api import JOB_ID, OTHER_ID, Handler, accepted, job_body, refusal

pytestmark = pytest.mark.unit

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def run(handler: Handler, *arguments: str, stdin: str | None = None) -> Result:
    session = Session("http://pretended", httpx.MockTransport(handler))
    return CliRunner().invoke(app, list(arguments), obj=session, input=stdin)


def sent_body(request: httpx.Request) -> Any:
    return json.loads(request.content)


def test_submit_sends_the_argv_after_the_dashes_and_prints_the_id() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return accepted()

    options = (
        "--queue research --priority 9 --gpu 0.5 --gang 4 --env A=1=2 --retries 0 --timeout 60"
    )
    result = run(answer, "submit", *options.split(), "--", "python", "-m", "x", "--wait", "--")

    assert result.stdout == f"{JOB_ID}\n"
    assert result.exit_code == Exit.OK
    assert sent_body(seen[0]) == {
        "job_type": "batch",
        "queue": "research",
        "priority": 9,
        "command": ["python", "-m", "x", "--wait", "--"],
        "env": {"A": "1=2"},
        "resources": {"gpu": "0.5"},
        "timeout_seconds": 60,
        "gang": {"enabled": True, "min_members": 4},
        "retry_policy": {"max_retries": 0},
    }
    assert seen[0].headers["Idempotency-Key"]


def test_a_file_of_jobs_is_sent_in_order_with_names_turned_into_ids(tmp_path: Path) -> None:
    seen: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(sent_body(request))
        return accepted(JOB_ID if len(seen) == 1 else OTHER_ID)

    file = tmp_path / "jobs.yaml"
    file.write_text("name: a\ncommand: [x]\n---\n- {name: b, command: [y], depends_on: [a]}\n")
    result = run(answer, "submit", str(file))

    assert result.stdout == f"{JOB_ID}\n{OTHER_ID}\n"
    assert seen[1] == {"name": "b", "command": ["y"], "depends_on": [JOB_ID]}


def test_submit_waits_and_leaves_with_one_when_the_job_fails() -> None:
    states = iter(["queued", "running", "dead_letter"])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return accepted()
        assert request.url.params["min_position"] == "0-17"
        return httpx.Response(200, json=job_body(next(states), message="exit code 3"))

    result = run(answer, "submit", "--wait", "--", "false")

    assert result.exit_code == Exit.FAILED
    assert "dead_letter after 3.0s: exit code 3" in result.stderr


def test_json_output_of_submit_and_wait_is_the_final_job_alone() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return accepted() if request.method == "POST" else httpx.Response(200, json=job_body())

    result = run(answer, "submit", "--json", "--wait", "--", "true")

    assert result.exit_code == Exit.OK
    assert json.loads(result.stdout)["status"] == "succeeded"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (refusal(404, "job_not_found", "there is no job"), Exit.NOT_FOUND),
        (refusal(409, "job_ended", "it has ended"), Exit.REFUSED),
        (refusal(422, "validation_failed", "priority is bad", "priority"), Exit.REFUSED),
        (refusal(503, "view_unavailable", "try again"), Exit.UNAVAILABLE),
        (httpx.Response(502, text="<html>bad gateway</html>"), Exit.UNAVAILABLE),
    ],
)
def test_every_kind_of_refusal_has_its_exit_code(answer: httpx.Response, code: Exit) -> None:
    result = run(lambda _: answer, "cancel", JOB_ID)

    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith("foldline: ")


def test_field_problems_are_listed_under_the_message() -> None:
    answer = refusal(422, "validation_failed", "bad", field="priority")

    assert "  priority: must be 0 to 100" in run(lambda _: answer, "jobs").stderr


def test_a_message_is_told_as_it_is_whatever_brackets_it_holds() -> None:
    result = run(lambda _: refusal(422, "bad", "[stack] port: [red]no[/red]"), "jobs")

    assert result.stderr == "foldline: [stack] port: [red]no[/red]\n"


def test_with_json_an_error_is_json_on_standard_error() -> None:
    result = run(lambda _: refusal(404, "job_not_found", "no"), "job", JOB_ID, "--json")

    assert json.loads(result.stderr)["error"]["code"] == "job_not_found"
    assert result.exit_code == Exit.NOT_FOUND


def test_an_api_that_is_not_there_is_answered_with_what_to_do() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    result = run(refuse, "queues")

    assert result.exit_code == Exit.UNAVAILABLE
    assert "foldline dev" in result.stderr
    assert "http://pretended" in result.stderr


def test_something_else_at_the_address_is_said_to_be_no_foldline() -> None:
    result = run(lambda _: httpx.Response(200, json={"hello": 1}), "queues")

    assert result.exit_code == Exit.UNAVAILABLE
    assert "not one of Foldline's" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit"],
        ["submit", "--"],
        ["submit", "jobs.yaml", "--", "true"],
        ["submit", "--priority", "101", "--", "true"],
        ["submit", "--env", "A", "--", "true"],
        ["submit", "no-such-file.yaml"],
        ["submit", "--queue", "x", "-"],
        ["apply", "-f", "-"],
        ["nonsense"],
        ["job"],
    ],
)
def test_wrong_usage_is_refused_before_anything_is_sent(arguments: list[str]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise AssertionError(request.url)

    result = run(fail, *arguments, stdin="kind: Nothing\nname: x\n")

    assert result.exit_code == Exit.USAGE
    assert result.stderr


@pytest.mark.parametrize("text", ["", "# nothing\n", "a: [", "just text", "- 1\n", "\x00"])
def test_a_file_that_holds_no_bodies_says_what_to_write(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)

    with pytest.raises(BadFile, match=r"bad\.yaml"):
        read_bodies(str(file))


def test_names_in_dependencies_become_ids_and_ids_stay() -> None:
    body = {"depends_on": ["a", {"job_id": "b", "condition": "ended"}, OTHER_ID, 7]}

    assert with_ids(body, {"a": JOB_ID, "b": JOB_ID})["depends_on"] == [
        JOB_ID,
        {"job_id": JOB_ID, "condition": "ended"},
        OTHER_ID,
        7,
    ]


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_in_the_docs_is_what_the_api_takes(file: Path) -> None:
    ids: dict[str, str] = {}
    for body in read_bodies(str(file)):
        kind = body.pop("kind", "Job")
        name = str(body["name"] if kind == "Job" else body.pop("name"))
        models: dict[str, type[BaseModel]] = {
            "Job": JobBody,
            "Queue": QueueBody,
            "Cluster": ClusterBody,
        }
        models[kind].model_validate(with_ids(body, ids))
        ids[name] = JOB_ID


def test_jobs_are_listed_with_the_filters_that_were_given() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert dict(request.url.params) == {"status": "queued", "priority_min": "5", "limit": "2"}
        return httpx.Response(200, json={"jobs": [job_body("queued")], "next_cursor": "1.2.3"})

    result = run(answer, *["jobs", "--status", "queued", "--priority-min", "5", "--limit", "2"])

    assert JOB_ID in result.stdout
    assert "[red]not markup[/red]" in result.stdout
    assert "--cursor 1.2.3" in result.stdout


def test_a_job_is_shown_with_its_attempts_and_as_json_unchanged() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=job_body())

    text = run(answer, "job", JOB_ID).stdout
    shown = json.loads(run(answer, "job", JOB_ID, "--json").stdout)

    assert "python -m train" in text
    assert "node-1" in text
    assert "1.5s" in text
    assert shown["attempts"][0]["tasks"][0]["devices"] == [1]


def test_why_prints_reasons_for_people_and_for_programs() -> None:
    reasons = [{"code": "no_room", "message": "2 of 2 nodes: gpu"}]
    body = {"job_id": JOB_ID, "status": "queued", "position": 3, "reasons": reasons}

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == f"/api/v1/jobs/{JOB_ID}/explain"
        return httpx.Response(200, json=body)

    text = run(answer, "why", JOB_ID).stdout
    assert "number 3" in text
    assert "2 of 2 nodes: gpu" in text
    assert json.loads(run(answer, "why", JOB_ID, "--json").stdout)["reasons"] == reasons


def test_logs_are_printed_as_they_are_and_follow_asks_for_the_stream() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        followed = request.url.params.get("follow") == "true"
        return httpx.Response(200, text="a [b]\nc\n" if followed else "tail\n")

    assert run(answer, "logs", "-f", JOB_ID).stdout == "a [b]\nc\n"
    assert run(answer, "logs", "-n", "1", JOB_ID).stdout == "tail\n"
    assert json.loads(run(answer, "logs", JOB_ID, "--json").stdout) == {"line": "tail"}


def test_a_refused_stream_of_logs_is_told_like_any_refusal() -> None:
    result = run(lambda _: refusal(404, "job_not_found", "there is no job"), "logs", "-f", JOB_ID)

    assert result.exit_code == Exit.NOT_FOUND


def test_apply_puts_each_kind_and_tells_what_became_of_it() -> None:
    seen: list[tuple[str, str, Any]] = []
    outcomes = iter([("pending", None), ("accepted", None), ("refused", "no such cluster")])

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            seen.append((request.method, request.url.path, sent_body(request)))
            accepted = {"position": "0-3", "command_url": "/api/v1/commands/0-3"}
            return httpx.Response(202, json=accepted)
        status, message = next(outcomes)
        body = {"position": "0-3", "status": status, "code": None, "message": message}
        return httpx.Response(200, json=body | {"job_id": None, "decided_at": None, "rows": []})

    text = (
        "kind: Cluster\nname: lab\ndescription: d\n---\n"
        "kind: Queue\nname: q\ncluster: x\nstate: paused\n"
    )
    result = run(answer, "apply", "-f", "-", stdin=text)

    assert seen == [
        ("PUT", "/api/v1/clusters/lab", {"description": "d"}),
        ("PUT", "/api/v1/queues/q", {"cluster": "x", "state": "paused"}),
    ]
    assert "cluster lab: accepted" in result.stdout
    assert "queue q: no such cluster" in result.stderr
    assert result.exit_code == Exit.REFUSED


def test_help_documents_the_exit_codes() -> None:
    result = CliRunner().invoke(app, ["--help"])

    assert "Exit codes" in result.stdout
    assert result.exit_code == Exit.OK


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4121, "412ms"),
        (-1, "0ms"),
        (9.54, "9.5s"),
        (192, "3m12s"),
        (7500, "2h05m"),
        (356400, "4d03h"),
    ],
)
def test_spans_are_told_in_two_units(seconds: float, text: str) -> None:
    assert span_text(seconds) == text
