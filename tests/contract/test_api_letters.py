"""What the endpoints about dead letters send on and answer, and how overload is told.

The application is the real one; what it talks to are doubles (`tests/api_world.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from foldline.known_letters import ViewAdmission
from infra.settings import AdmissionSettings
from ingest.ports import CommandNotAcknowledged, InputLetter, JobLetter, KnownLetter, Overload
from projections.pipeline import START, ViewUnavailable
from schemas.codec import decode, encode_body
from schemas.commands import PurgeDeadLetters, PutPool, PutQueue, SubmitJob
from schemas.ids import format_job_id, job_id, partition_of
from schemas.terms import (
    DEFAULT_TERMS,
    FailureClass,
    JobSpec,
    JobTerms,
    QueueDefaults,
    RetryRule,
    Switch,
)
from stream_processors.domain.state import Load
from tests.api_world import SHARDS, World, api_world, error_of, submitted

pytestmark = pytest.mark.contract

REDRIVE, PURGE = "/api/v1/dlq/redrive", "/api/v1/dlq/purge"
TERMS = replace(DEFAULT_TERMS, memory_max_mib=4096)
SHARD = partition_of("default", SHARDS)


@pytest.fixture
def world() -> Iterator[World]:
    with api_world() as made:
        yield made


def letter(key: str, terms: JobTerms = TERMS, key_id: int = 0) -> KnownLetter:
    schema_id, spec = encode_body(JobSpec("training", name=key, image="train:1", command=("x",)))
    name = format_job_id(job_id(SHARD, "default", "default", key))
    return KnownLetter(name, SHARD, 17, JobLetter(terms, 50, key_id, schema_id, spec))


def unreadable(value: bytes = b"\x00rubbish", size: int = 8, **changes: Any) -> KnownLetter:
    what = InputLetter("commands", b"default", [("ce_id", b"\xff")], size, value)
    return KnownLetter(f"{SHARD}:commands:7", SHARD, 17, replace(what, **changes))


def submissions(world: World) -> list[SubmitJob]:
    found = [decode(sent.value) for sent in world.sink.sent]
    return [command for command in found if isinstance(command, SubmitJob)]


def test_a_redrive_is_a_new_submission_that_names_its_cause_and_its_letter(world: World) -> None:
    one = letter("a")
    world.letters.letters = [one]
    body = {
        "ids": [one.letter_id],
        "changes": {"resources": {"memory": "4Gi"}, "image": "train:2", "max_retries": 1},
    }
    answer = world.client.post(REDRIVE, json=body)
    assert answer.status_code == 202
    (outcome,) = answer.json()["outcomes"]
    (command,) = submissions(world)
    assert (command.redrives, command.causation_id) == (
        one.letter_id,
        f"redrive:{one.letter_id}",
    )
    assert (command.terms.memory_mib, command.terms.max_retries) == (4096, 1)
    assert command.spec.image == "train:2"
    assert (outcome["outcome"], outcome["position"]) == ("sent", f"{SHARD}-0")
    shown = world.client.get(f"/api/v1/jobs/{outcome['job_id']}").json()
    assert (shown["status"], shown["redrives"]) == ("pending", one.letter_id)


def test_a_dry_run_says_which_job_it_would_be_and_sends_nothing(world: World) -> None:
    one = letter("a")
    world.letters.letters = [one]
    body = {"ids": [one.letter_id], "changes": {"memory_factor": 1.5}}
    dry = world.client.post(REDRIVE, json={**body, "dry_run": True}).json()
    assert not world.sink.sent
    assert (dry["redriven"], dry["outcomes"][0]["memory_mib"]) == (1, 1536)
    wet = world.client.post(REDRIVE, json=body).json()
    again = world.client.post(REDRIVE, json=body).json()
    ids = {each["outcomes"][0]["job_id"] for each in (dry, wet, again)}
    assert len(ids) == 1, "a repeated redrive is the same job"
    assert submissions(world)[0].idempotency_key == submissions(world)[1].idempotency_key


def test_a_filter_is_gone_through_page_by_page(world: World) -> None:
    world.letters.letters = [letter(f"j{number}") for number in range(5)]
    body: dict[str, Any] = {"filter": {"failure": ["out_of_memory"]}, "limit": 2}
    seen: list[str] = []
    while True:
        answer = world.client.post(REDRIVE, json=body).json()
        seen += [outcome["letter_id"] for outcome in answer["outcomes"]]
        assert answer["remaining"] == 5 - len(seen)
        if answer["next_cursor"] is None:
            break
        body["cursor"] = answer["next_cursor"]
    assert seen == [one.letter_id for one in world.letters.letters]
    filters, _, limit = world.letters.asked[0]
    assert (filters.failure, filters.state, limit) == (["out_of_memory"], "open", 2)


def test_a_rate_bounds_what_one_request_does(world: World) -> None:
    world.letters.letters = [letter(f"j{number}") for number in range(30)]
    body = {"filter": {}, "rate_per_s": 2, "dry_run": True}
    answer = world.client.post(REDRIVE, json=body).json()
    assert (answer["redriven"], answer["remaining"]) == (10, 20)
    body = {"ids": [one.letter_id for one in world.letters.letters], "rate_per_s": 2, "dry_run": 1}
    assert error_of(world.client.post(REDRIVE, json=body), 422)["code"] == "validation_failed"
    answer = world.client.post(REDRIVE, json={**body, "dry_run": True}).json()
    assert (answer["redriven"], answer["remaining"], answer["skipped"]) == (10, 20, 0)


@pytest.mark.parametrize(
    ("known", "changes", "reason"),
    [
        (letter("a", key_id=3), {}, "encrypted"),
        (letter("a"), {"resources": {"gpu": "1500m"}}, "gpu"),
        (unreadable(size=9_000_000), {}, "kept"),
        (unreadable(input="reports"), {}, "report"),
        (unreadable(), {"image": "x"}, "without changes"),
    ],
)
def test_what_cannot_run_again_is_skipped_with_its_reason(
    world: World, known: KnownLetter, changes: dict[str, Any], reason: str
) -> None:
    world.letters.letters = [known]
    answer = world.client.post(REDRIVE, json={"ids": [known.letter_id], "changes": changes})
    if answer.status_code == 422:  # the body itself says it
        assert reason in error_of(answer, 422)["message"]
        return
    (outcome,) = answer.json()["outcomes"]
    assert outcome["outcome"] == "skipped"
    assert reason in outcome["message"]
    assert not world.sink.sent


def test_an_unreadable_input_is_sent_again_byte_for_byte_and_its_letter_purged(
    world: World,
) -> None:
    one = unreadable()
    world.letters.letters = [one]
    answer = world.client.post(REDRIVE, json={"ids": [one.letter_id]}).json()
    assert answer["outcomes"][0]["outcome"] == "sent"
    again, purge = world.sink.sent
    assert (again.value, again.headers, again.shard) == (
        b"\x00rubbish",
        [("ce_id", b"\xff")],
        SHARD,
    )
    command = decode(purge.value)
    assert isinstance(command, PurgeDeadLetters)
    assert command.ids == (one.letter_id,)
    assert command.reason == f"sent again, as command {SHARD}-0"


def test_letters_that_nobody_knows_are_named(world: World) -> None:
    answer = world.client.post(REDRIVE, json={"ids": ["nonsense"]}).json()
    assert answer["outcomes"][0]["message"] == "there is no such dead letter"
    answer = world.client.post(PURGE, json={"ids": ["nonsense"]}).json()
    assert (answer["unknown"], answer["purged"]) == (["nonsense"], 0)


def test_a_choice_must_be_by_ids_or_by_filter(world: World) -> None:
    for body in ({}, {"ids": ["x"], "filter": {}}):
        for path in (REDRIVE, PURGE):
            assert error_of(world.client.post(path, json=body), 422)["code"] == "validation_failed"


def test_a_purge_is_one_command_for_each_shard(world: World) -> None:
    other = replace(unreadable(), letter_id="0:commands:9", shard=(SHARD + 1) % SHARDS)
    world.letters.letters = [letter("a"), letter("b"), other]
    answer = world.client.post(PURGE, json={"filter": {}, "reason": "known"}).json()
    assert (answer["purged"], len(answer["positions"])) == (3, 2)
    commands = [decode(sent.value) for sent in world.sink.sent]
    assert all(isinstance(one, PurgeDeadLetters) and one.reason == "known" for one in commands)
    assert sorted(len(one.ids) for one in commands) == [1, 2]
    dry = world.client.post(PURGE, json={"filter": {}, "dry_run": True}).json()
    assert (dry["purged"], dry["positions"], len(world.sink.sent)) == (3, [], 2)


def test_without_the_view_nothing_is_done_and_the_caller_is_told(world: World) -> None:
    world.letters.is_down = True
    answer = world.client.post(REDRIVE, json={"filter": {}})
    assert error_of(answer, 503)["code"] == "view_unavailable"
    assert answer.headers["Retry-After"] == "1"


def test_a_failure_in_the_middle_says_how_many_were_sent(world: World) -> None:
    world.letters.letters = [letter("a"), letter("b")]
    put = world.sink.put

    async def second_fails(command: Any) -> Any:
        if world.sink.sent:
            raise CommandNotAcknowledged("no answer within 5 s")
        return await put(command)

    world.sink.put = second_fails  # type: ignore[method-assign]  # fails in the middle
    error = error_of(world.client.post(REDRIVE, json={"filter": {}}), 503)
    assert error["message"].startswith("1 letters were redriven before this")


def test_letters_are_listed_by_what_the_caller_asks(world: World) -> None:
    at = datetime(2031, 1, 2, tzinfo=UTC)
    world.letter_views.rows = [row(at)]
    asked = {"queue": "research", "since": "2031-01-01T00:00:00Z", "limit": 5000}
    answer = world.client.get("/api/v1/dlq/", params=asked)
    assert answer.status_code == 200
    (found,) = answer.json()["letters"]
    assert (found["id"], found["failure"]) == ("0:commands:7", "poison")
    (page,) = world.letter_views.pages
    assert (page.filters.queue, page.limit) == ("research", 50)
    assert page.filters.since == datetime(2031, 1, 1, tzinfo=UTC)
    shown = world.client.get("/api/v1/dlq/0:commands:7").json()
    assert shown["input"]["value_base64"] == "eA=="
    missing = world.client.get("/api/v1/dlq/0:commands:8")
    assert error_of(missing, 404)["code"] == "letter_not_found"
    wrong = world.client.get("/api/v1/dlq/", params={"state": "lost"})
    assert error_of(wrong, 422)["details"][0]["field"] == "state"


def row(at: datetime) -> dict[str, Any]:
    """A parked input as the audit view has it."""
    words = ("tenant", "pool", "queue", "job_type", "name", "log_tail", "purged_by", "purge_reason")
    nothing = ("terms", "spec", "priority", "causation_id", "redrives", "redriven_at", "purged_at")
    return {
        **dict.fromkeys(words, ""),
        **dict.fromkeys((*nothing, "redriven_by"), None),
        "shard": 0,
        "letter_id": "0:commands:7",
        "job_no": None,
        "kind": "input",
        "state": "open",
        "at": at,
        "attempts": 0,
        "failure": "poison",
        "fingerprint": "commands/malformed",
        "message": "what",
        "history": [],
        "headers": [],
        "sha256": bytes(32),
        "key": b"",
        "value": b"x",
        "input": {"input": "commands", "offset": 7, "taken_at": 1, "code": "malformed", "size": 1},
    }


def test_a_tenant_over_its_limit_gets_429_and_an_overloaded_shard_503(world: World) -> None:
    world.limits.overloads = [
        Overload(is_tenants=True, message="tenant 'default' has 10 jobs"),
        Overload(is_tenants=False, message="too many jobs"),
    ]
    answer = submitted(world)
    assert error_of(answer, 429)["code"] == "tenant_over_limit"
    assert answer.headers["Retry-After"] == "5"
    answer = submitted(world)
    assert error_of(answer, 503)["code"] == "shard_over_limit"
    assert answer.headers["Retry-After"] == "5"
    assert not world.sink.sent
    assert submitted(world).status_code == 201


class Hot:
    """A hot view that knows these loads."""

    def __init__(self, everyone: Load, one: Load) -> None:
        self.loads_known = (everyone, one)
        self.asked = 0
        self.is_down = False

    def loads(self, shard: int, tenant: str) -> Any:
        from projections.hot_read import Reading  # noqa: PLC0415 - of this double alone

        del shard, tenant
        self.asked += 1
        if self.is_down:
            raise ViewUnavailable("Redis: nobody answers")
        return Reading(START, self.loads_known)


@pytest.mark.anyio
async def test_loads_are_judged_by_the_limits_and_asked_for_rarely() -> None:
    limits = AdmissionSettings(
        pending_jobs_max=10, tenant_pending_jobs_max=5, tenant_pending_bytes_max=0
    )
    for everyone, one, expected in (
        (Load(9, 0), Load(4, 1 << 60), None),
        (Load(9, 0), Load(5, 0), True),
        (Load(10, 0), Load(4, 0), False),
        (Load(1, 1 << 60), Load(1, 0), False),
    ):
        hot = Hot(everyone, one)
        admission = ViewAdmission(hot, limits)  # type: ignore[arg-type]  # a double
        found = await admission.overload(0, "default")
        assert (None if found is None else found.is_tenants) is expected
        await admission.overload(0, "default")
        assert hot.asked == 1
    away = Hot(Load(99, 0), Load(99, 0))
    away.is_down = True
    admission = ViewAdmission(away, limits)  # type: ignore[arg-type]  # a double
    assert await admission.overload(0, "default") is None, "the fold is the judge"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_retry_policies_defaults_and_switches_become_terms(world: World) -> None:
    rules = [{"failure": "timeout", "max_retries": 0}, {"failure": "node_lost"}]
    policy = {"memory_growth": 2, "max_memory": "8Gi", "rules": rules}
    answer = submitted(
        world, retry_policy=policy, progress_timeout_seconds=60, deadline_seconds=3600
    )
    assert answer.status_code == 201
    (command,) = submissions(world)
    terms = command.terms
    assert (terms.memory_growth_milli, terms.memory_max_mib) == (2000, 8192)
    assert (terms.progress_timeout_s, terms.deadline_s) == (60, 3600)
    assert terms.retry_rules == (
        RetryRule(FailureClass.NODE_LOST),
        RetryRule(FailureClass.TIMEOUT, max_retries=0),
    )
    twice = {"rules": [{"failure": "timeout"}, {"failure": "timeout"}]}
    assert error_of(submitted(world, retry_policy=twice), 422)["code"] == "invalid_terms"
    queue = {"defaults": {"retry_policy": {"max_retries": 1}}, "retries_per_hour": 60}
    assert world.client.put("/api/v1/queues/q", json=queue).status_code == 202
    put = decode(world.sink.sent[-1].value)
    assert isinstance(put, PutQueue)
    assert (put.defaults, put.retries_per_hour) == ((QueueDefaults(max_retries=1),), 60)
    assert world.client.put("/api/v1/queues/q", json={}).status_code == 202
    kept = decode(world.sink.sent[-1].value)
    assert isinstance(kept, PutQueue)
    assert (kept.defaults, kept.retries_per_hour) == ((), -1)
    body = {"retries": "off", "tenant_retries_per_hour": 9}
    assert world.client.put("/api/v1/clusters/west", json=body).status_code == 202
    pool = decode(world.sink.sent[-1].value)
    assert isinstance(pool, PutPool)
    assert (pool.retries, pool.tenant_retries_per_hour) == (Switch.OFF, 9)
