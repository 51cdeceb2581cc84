"""The Python client: what it repeats, how long it waits, and what it raises."""

from __future__ import annotations

import httpx
import pytest

from foldline.client import ApiUnreachable, Client, Unavailable, WaitedTooLong
from tests.pretended_api import JOB_ID, accepted, job_body, refusal

pytestmark = pytest.mark.unit


def test_a_submission_is_repeated_under_one_key_until_it_is_answered() -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            raise httpx.ReadError("connection reset")
        return accepted() if len(keys) == 3 else refusal(503, "outcome_unknown", "try again")

    with Client("http://pretended", transport=httpx.MockTransport(answer)) as client:
        assert client.submit({"command": ["true"]}).id == JOB_ID
    assert len(set(keys)) == 1


def test_a_submission_that_is_never_answered_raises_the_last_reason() -> None:
    transport = httpx.MockTransport(lambda _: refusal(503, "outcome_unknown", "try again"))

    with Client("http://pretended", transport=transport) as client, pytest.raises(Unavailable):
        client.submit({"command": ["true"]})


def test_waiting_for_a_job_ends_after_the_given_time() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=job_body("running")))

    with Client("http://pretended", transport=transport) as client, pytest.raises(WaitedTooLong):
        client.wait(JOB_ID, timeout_s=0)


def test_a_broken_connection_is_one_typed_error() -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    with (
        Client("http://pretended", transport=httpx.MockTransport(fail)) as client,
        pytest.raises(ApiUnreachable, match="slow"),
    ):
        client.metrics()
