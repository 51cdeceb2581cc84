"""The commands about dead letters against a pretended API: what they send, show, and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from foldline.bodies import BadFile
from foldline.cli import app
from foldline.letter_options import LetterFilterOptions, filters_of
from foldline.session import Exit, Session
from ingest.dlq.requests import PurgeBody, RedriveBody
from tests.pretended_api import JOB_ID, OTHER_ID

pytestmark = pytest.mark.unit

Answer = dict[str, Any]


class Pretended:
    """Keeps what was asked, and answers redrives and purges in pages of two."""

    def __init__(self, letters: int = 5) -> None:
        self.letters = letters
        self.asked: list[httpx.Request] = []
        self.fails_at = -1

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if len(self.asked) - 1 == self.fails_at:
            error = {"code": "overloaded", "message": "later", "details": [], "request_id": "r"}
            return httpx.Response(503, json={"error": error})
        if request.method == "GET":
            return httpx.Response(200, json=GETS[request.url.path](request))
        body = json.loads(request.content)
        if request.url.path.endswith("/redrive"):
            RedriveBody.model_validate_json(request.content)
            return httpx.Response(202, json=self._redriven(body))
        PurgeBody.model_validate_json(request.content)
        return httpx.Response(202, json=self._purged(body))

    def bodies(self) -> list[Answer]:
        return [json.loads(request.content) for request in self.asked]

    def _page(self, body: Answer) -> tuple[list[str], int, str | None]:
        if body.get("ids"):
            return body["ids"][:2], len(body["ids"][2:]), None
        start = int(body.get("cursor", "0.0.x").split(".")[0])
        most = min(2, body.get("limit", 2))
        stop = min(start + most, self.letters)
        more = f"{stop}.0.x" if stop < self.letters else None
        return [f"letter-{n}" for n in range(start, stop)], self.letters - stop, more

    def _redriven(self, body: Answer) -> Answer:
        ids, remaining, cursor = self._page(body)
        outcomes = [
            {"letter_id": one, "outcome": "sent", "job_id": JOB_ID, "memory_mib": 64} for one in ids
        ]
        return {
            "dry_run": body["dry_run"],
            "redriven": len(ids),
            "skipped": 0,
            "outcomes": outcomes,
            "remaining": remaining,
            "next_cursor": cursor,
        }

    def _purged(self, body: Answer) -> Answer:
        ids, remaining, cursor = self._page(body)
        known = [one for one in ids if one != OTHER_ID]
        return {
            "dry_run": body["dry_run"],
            "purged": len(known),
            "ids": known,
            "unknown": [one for one in ids if one == OTHER_ID],
            "positions": ["0-1"],
            "remaining": remaining,
            "next_cursor": cursor,
        }


def summary() -> Answer:
    return {
        "id": JOB_ID,
        "kind": "job",
        "state": "open",
        "at": "2031-01-02T03:04:05Z",
        "failure": "out_of_memory",
        "fingerprint": "41df57445f5477a9",
        "message": "[red]killed[/red]",
        "attempts": 2,
        "tenant": "default",
        "cluster": "default",
        "queue": "research",
        "job_type": "training",
        "name": "mine",
        "redriven_by": None,
        "redriven_at": None,
        "purged_at": None,
        "purged_by": "",
        "purge_reason": "",
        "url": "",
        "job_url": None,
    }


def listed(_request: httpx.Request) -> Answer:
    return {"letters": [summary()], "next_cursor": "17.0.x"}


def grouped(_request: httpx.Request) -> Answer:
    group = {"fingerprint": "41df57445f5477a9", "failure": "out_of_memory", "letters": 12}
    times = {"first_at": "2031-01-02T03:04:05Z", "last_at": "2031-01-02T03:04:05Z"}
    return {"groups": [group | times | {"latest_id": JOB_ID, "message": "killed"}]}


def whole(request: httpx.Request) -> Answer:
    parked = {
        "topic": "foldline.jobs.commands.v1",
        "partition": 0,
        "offset": 7,
        "code": "malformed",
        "taken_at": None,
        "size": 300,
        "sha256": "ab",
        "key_base64": "ZGVmYXVsdA==",
        "headers": [{"name": "ce_id", "value_base64": "/wA="}],
        "value_base64": "AHJ1YmJpc2g=",
    }
    is_input = request.url.path.endswith("7")
    failed = {"attempt": 2, "ended_at": None, "failure": "out_of_memory", "message": "killed"}
    return summary() | {
        "kind": "input" if is_input else "job",
        "log_tail": "the last words",
        "history": [failed | {"exit_code": -9, "nodes": ["n1", "n2"], "log_tail": ""}],
        "tasks": 1,
        "priority": 1,
        "resources": {"cpu_milli": 1000, "memory_mib": 1536, "gpu_milli": 0, "extras": {}},
        "timeout_seconds": 60,
        "retry_policy": None,
        "image": "",
        "command": ["python", "train.py"],
        "causation_id": "",
        "redrives": OTHER_ID,
        "input": parked if is_input else None,
    }


GETS: dict[str, Callable[[httpx.Request], Answer]] = {
    "/api/v1/dlq/": listed,
    "/api/v1/dlq/groups": grouped,
    f"/api/v1/dlq/{JOB_ID}": whole,
    "/api/v1/dlq/0:commands:7": whole,
}


def run(handler: Pretended, *arguments: str) -> Result:
    session = Session("http://pretended", httpx.MockTransport(handler))
    return CliRunner().invoke(app, ["dlq", *arguments], obj=session)


def test_list_asks_for_what_the_options_say_and_shows_where_to_go_on() -> None:
    api = Pretended()
    options = "--failure out_of_memory --failure timeout --queue research --since 2h --state any"
    result = run(api, "list", *options.split())
    assert result.exit_code == Exit.OK
    params = api.asked[0].url.params
    assert params.get_list("failure") == ["out_of_memory", "timeout"]
    assert (params["queue"], params["state"], params["limit"]) == ("research", "any", "50")
    assert datetime.fromisoformat(params["since"]).tzinfo is not None
    assert JOB_ID in result.stdout
    assert "[red]killed[/red]" in result.stdout
    assert "more: --cursor 17.0.x" in result.stdout


def test_letters_that_look_alike_are_counted() -> None:
    result = run(Pretended(), "list", "--group")
    assert result.exit_code == Exit.OK
    assert "12  out_of_memory  41df57445f5477a9" in result.stdout


def test_a_letter_is_shown_with_attempts_and_last_lines() -> None:
    result = run(Pretended(), "show", JOB_ID)
    for text in ("the last words", "n1, n2", "python train.py", "memory 1536Mi", OTHER_ID):
        assert text in result.stdout


def test_an_input_is_shown_as_hexdump() -> None:
    result = run(Pretended(), "show", "0:commands:7")
    assert "00000000  00 72 75 62 62 69 73 68" in result.stdout
    assert ".rubbish" in result.stdout
    assert r"'\xff\x00'" in result.stdout


def test_a_redrive_sends_the_changes_and_goes_on_until_nothing_remains() -> None:
    api = Pretended()
    options = (
        "--failure out_of_memory --memory 16Gi --image train:2 --max-retries 0 --env A=1=2"
        " --to-queue night --rate 3"
    )
    result = run(api, "redrive", *options.split())
    assert result.exit_code == Exit.OK, result.output
    first, *rest = api.bodies()
    assert first == {
        "filter": {"failure": ["out_of_memory"]},
        "dry_run": False,
        "limit": 100,
        "rate_per_s": 3,
        "changes": {
            "resources": {"memory": "16Gi"},
            "image": "train:2",
            "env": {"A": "1=2"},
            "queue": "night",
            "max_retries": 0,
        },
    }
    assert [body["cursor"] for body in rest] == ["2.0.x", "4.0.x"]
    assert result.stdout.count(JOB_ID) == 5
    assert "5 redriven, 0 skipped" in result.stderr


def test_a_limit_and_a_dry_run_are_kept_to() -> None:
    api = Pretended()
    result = run(api, "redrive", "--all", "--limit", "3", "--dry-run")
    assert result.exit_code == Exit.OK
    assert [body["limit"] for body in api.bodies()] == [3, 1]
    assert all(body["dry_run"] for body in api.bodies())
    assert "3 would be redriven" in result.stderr


def test_ids_are_sent_until_all_were_dealt_with() -> None:
    api = Pretended()
    result = run(api, "redrive", "a", "b", "c", "b")
    assert result.exit_code == Exit.OK
    assert [body["ids"] for body in api.bodies()] == [["a", "b", "c"], ["c"]]


def test_a_failure_on_the_way_says_that_repeating_is_safe() -> None:
    api = Pretended()
    api.fails_at = 1
    result = run(api, "redrive", "--all")
    assert result.exit_code == Exit.UNAVAILABLE
    assert "repeating it is safe" in result.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["a", "--queue", "q"], ["a", "--all"], ["--all", "--env", "x"]]
)
def test_letters_must_be_named_or_chosen_in_one_way(arguments: list[str]) -> None:
    api = Pretended()
    assert run(api, "redrive", *arguments).exit_code == Exit.USAGE
    assert not api.asked


def test_a_purge_names_what_is_unknown() -> None:
    api = Pretended()
    result = run(api, "purge", JOB_ID, OTHER_ID, "--reason", "known")
    assert result.exit_code == Exit.NOT_FOUND
    assert api.bodies()[0] == {
        "ids": [JOB_ID, OTHER_ID],
        "dry_run": False,
        "reason": "known",
    }
    assert OTHER_ID in result.stderr
    assert "1 purged" in result.stderr
    assert run(Pretended(), "purge", "--all").exit_code == Exit.OK


def test_moments_can_be_said_as_how_long_ago() -> None:
    now = datetime(2031, 1, 10, 12, tzinfo=UTC)
    for text, expected in (
        ("90m", "2031-01-10T10:30:00+00:00"),
        ("3d", "2031-01-07T12:00:00+00:00"),
        ("2031-01-01", "2031-01-01T00:00:00+00:00"),
        ("2031-01-01T05:00:00+05:00", "2031-01-01T05:00:00+05:00"),
    ):
        assert filters_of(LetterFilterOptions(since=text), now) == {"since": expected}
    with pytest.raises(BadFile):
        filters_of(LetterFilterOptions(until="yesterday"), now)


def test_the_switch_is_put_into_each_cluster_as_it_is() -> None:
    puts: list[tuple[str, Any]] = []

    def api(request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/v1")
        if request.method == "PUT":
            puts.append((path, json.loads(request.content)))
            return httpx.Response(202, json={"position": "0-1", "command_url": ""})
        if path.startswith("/commands/"):
            told = {"position": "0-1", "status": "accepted", "rows": []}
            nothing = dict.fromkeys(("code", "message", "job_id", "decided_at"))
            return httpx.Response(200, json=told | nothing)
        sizes = ("waiting", "gpus", "gpus_free", "cpu_milli", "cpu_free_milli", "memory_mib")
        one: Answer = dict.fromkeys((*sizes, "memory_free_mib"), 0) | {"nodes": []}
        clusters = [one | {"name": name, "description": f"the {name}"} for name in ("east", "west")]
        answer = {"clusters": clusters} if path == "/clusters/" else clusters[1]
        return httpx.Response(200, json=answer)

    def retries(*arguments: str) -> Result:
        session = Session("http://pretended", httpx.MockTransport(api))
        return CliRunner().invoke(app, ["retries", *arguments], obj=session)

    assert retries("off", "--all").exit_code == Exit.OK
    assert retries("on", "--cluster", "west").exit_code == Exit.OK
    assert puts == [
        ("/clusters/east", {"description": "the east", "retries": "off"}),
        ("/clusters/west", {"description": "the west", "retries": "off"}),
        ("/clusters/west", {"description": "the west", "retries": "on"}),
    ]
    assert retries("off").exit_code == Exit.USAGE
    assert retries("off", "--all", "--cluster", "west").exit_code == Exit.USAGE
