"""What the endpoints that write send on, and what they answer when something is wrong behind them.

The application is the real one; what it talks to are doubles (`tests/api_world.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ingest.ports import (
    CommandNotAcknowledged,
    KnownJob,
    SinkOverloaded,
)
from projections.answers import (
    CommandAnswer,
)
from schemas.codec import decode
from schemas.commands import CancelJob, PutPool, PutQueue, SubmitJob
from schemas.headers import header
from schemas.topics import MAX_COMMAND_BYTES
from tests.api_world import JOBS, World, api_world, error_of, submitted

pytestmark = pytest.mark.contract


@pytest.fixture
def world() -> Iterator[World]:
    with api_world() as made:
        yield made


def test_a_submission_is_answered_with_id_place_and_links(world: World) -> None:
    answer = submitted(world, queue="research")
    assert answer.status_code == 201
    body = answer.json()
    assert answer.headers["Location"] == body["url"] == f"/api/v1/jobs/{body['id']}"
    assert body["status"] == "pending"
    assert body["command_url"] == f"/api/v1/commands/{body['position']}"
    command = decode(world.sink.sent[0].value)
    assert isinstance(command, SubmitJob)
    assert command.terms.queue == "research"
    assert header(world.sink.sent[0].headers, "ce_subject") == body["id"]


def test_the_same_key_and_body_is_the_same_job_sent_once(world: World) -> None:
    first, second = submitted(world, "k"), submitted(world, "k")
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert len(world.sink.sent) == 1


def test_without_a_key_every_submission_is_another_job(world: World) -> None:
    assert submitted(world).json()["id"] != submitted(world).json()["id"]


def test_the_same_key_with_another_body_is_refused(world: World) -> None:
    submitted(world, "k")
    error = error_of(submitted(world, "k", priority=7), 422)
    assert error["code"] == "idempotency_key_reused"


def test_a_key_that_only_the_views_know_is_checked_too(world: World) -> None:
    job_id = submitted(world, "k").json()["id"]
    world.ingest.recent.__init__()  # as in another process
    world.known.jobs[job_id] = KnownJob("default", "queued", b"another content")
    assert error_of(submitted(world, "k"), 422)["code"] == "idempotency_key_reused"
    world.known.jobs[job_id] = KnownJob("default", "queued", b"")
    assert submitted(world, "k").json()["id"] == job_id


def test_a_submission_does_not_need_the_views(world: World) -> None:
    world.known.is_down = world.views.is_down = True
    assert submitted(world, "k").status_code == 201


def test_without_acknowledgement_the_caller_learns_that_the_outcome_is_unknown(
    world: World,
) -> None:
    world.sink.failures = [CommandNotAcknowledged("no answer within 5 s")]
    answer = submitted(world, "k")
    error = error_of(answer, 503)
    assert error["code"] == "outcome_unknown"
    assert "Idempotency-Key: k" in error["message"]
    assert answer.headers["Retry-After"] == "1"
    assert submitted(world, "k").status_code == 201


def test_a_submission_without_key_gets_one_to_repeat_it_with(world: World) -> None:
    world.sink.failures = [CommandNotAcknowledged("no answer within 5 s")]
    answer = submitted(world)
    assert answer.status_code == 503
    again = submitted(world, answer.headers["Idempotency-Key"])
    assert again.status_code == 201


def test_an_overloaded_sink_says_that_nothing_was_sent(world: World) -> None:
    world.sink.failures = [SinkOverloaded("10000 are under way")]
    error = error_of(submitted(world), 503)
    assert error["code"] == "overloaded"
    assert "nothing was sent" in error["message"]


def test_a_job_can_be_read_right_after_its_submission(world: World) -> None:
    sent = submitted(world, priority=9, name="mine").json()
    answer = world.client.get(f"{JOBS}{sent['id']}")
    assert answer.status_code == 200
    job = answer.json()
    assert (job["status"], job["priority"], job["name"]) == ("pending", 9, "mine")
    assert job["resources"]["cpu_milli"] == 1000


def test_a_refused_submission_is_shown_with_its_reason(world: World) -> None:
    sent = submitted(world, queue="nowhere").json()
    world.views.behind = 1
    world.views.commands[sent["position"]] = CommandAnswer(
        position=sent["position"],
        status="refused",
        code="queue_not_found",
        message="create it",
        job_id=sent["id"],
        decided_at=None,
        rows=[],
    )
    job = world.client.get(f"{JOBS}{sent['id']}").json()
    assert (job["status"], job["message"]) == ("refused", "create it")


def test_a_command_over_the_limit_is_refused_unsent(world: World) -> None:
    error = error_of(submitted(world, config={"x": "y" * MAX_COMMAND_BYTES}), 413)
    assert error["code"] == "too_large"
    assert not world.sink.sent


def test_a_cancel_becomes_a_command_for_the_job_s_own_shard(world: World) -> None:
    job_id = submitted(world).json()["id"]
    world.known.jobs[job_id] = KnownJob("default", "running", b"")
    answer = world.client.delete(f"{JOBS}{job_id}", params={"reason": "no longer needed"})
    assert answer.status_code == 202
    assert answer.json()["id"] == job_id
    sent = world.sink.sent[-1]
    assert decode(sent.value) == CancelJob(job_id, "no longer needed", "anonymous")
    assert sent.shard == world.sink.sent[0].shard


def test_a_cancel_of_what_is_unknown_or_over_is_refused(world: World) -> None:
    unknown = "00000000-0000-8000-8000-000000000000"
    assert error_of(world.client.delete(f"{JOBS}{unknown}"), 404)["code"] == "job_not_found"
    assert error_of(world.client.delete(f"{JOBS}nonsense"), 404)["code"] == "job_not_found"
    world.known.jobs[unknown] = KnownJob("default", "succeeded", b"")
    assert error_of(world.client.delete(f"{JOBS}{unknown}"), 409)["code"] == "job_ended"


def test_a_cancel_is_sent_though_the_views_are_down(world: World) -> None:
    world.known.is_down = True
    answer = world.client.delete(f"{JOBS}00000000-0000-8000-8000-000000000000")
    assert answer.status_code == 202


def test_queues_and_clusters_are_put_by_commands(world: World) -> None:
    body = {"cluster": "west", "state": "paused", "description": "night"}
    answer = world.client.put("/api/v1/queues/research", json=body)
    assert answer.status_code == 202
    queue = decode(world.sink.sent[0].value)
    assert isinstance(queue, PutQueue)
    assert (queue.pool, queue.name, queue.state.value) == ("west", "research", "paused")
    assert world.client.put("/api/v1/clusters/west", json={}).status_code == 202
    pool = decode(world.sink.sent[1].value)
    assert isinstance(pool, PutPool)
    assert world.sink.sent[0].shard == world.sink.sent[1].shard
    assert error_of(world.client.put("/api/v1/queues/Big", json={}), 422)


def test_submissions_side_by_side_with_one_key_are_one_job(world: World) -> None:
    async def both() -> set[str]:
        async def one() -> str:
            answer = await asyncio.to_thread(submitted, world, "same")
            return str(answer.json()["id"])

        return set(await asyncio.gather(*(one() for _ in range(8))))

    assert len(asyncio.run(both())) == 1
