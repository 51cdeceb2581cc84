"""Whatever is sent to the running API, it answers as its OpenAPI document says, and never with 500.

Schemathesis draws requests, legal and illegal, from the document that the service itself gives out.
The endless stream of followed logs is left out. There are no agents, and what is submitted goes to a
paused queue, so that no drawn command is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from foldline.api import build_app
from tests.api_stack import running_stack

pytestmark = [pytest.mark.e2e, pytest.mark.stack]

QUEUE = "fuzz"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
POSITION = re.compile(r"[0-9]{1,5}-[0-9]{1,18}(,[0-9]{1,5}-[0-9]{1,18})*")
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    negative_data_rejection,
]
EXAMPLES = 12


REFUSALS = ["400", "404", "405", "409", "413", "415", "422", "503"]
"""413 too: some drawn bodies are illegal by being longer than anybody may send."""
CONFIG = schemathesis.Config.from_dict(
    {"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}}
)
DOCUMENT = schemathesis.openapi.from_dict(build_app().openapi(), config=CONFIG)


@pytest.fixture(scope="module")
def stack_url() -> Iterator[str]:
    """The API of a whole system without agents: what is drawn can never be run."""
    with running_stack(agents=0) as running:
        yield running.api_url


@pytest.fixture(scope="module")
def fuzzed_url(stack_url: str) -> str:
    """The API's address, once the queue for what is drawn is there and paused."""
    put = httpx.put(f"{stack_url}/api/v1/queues/{QUEUE}", json={"state": "paused"})
    position = put.raise_for_status().json()["position"]
    status = ""
    deadline = monotonic() + 30
    while monotonic() < deadline:
        status = httpx.get(f"{stack_url}/api/v1/commands/{position}").json().get("status", "")
        if status == "accepted":
            return stack_url
        sleep(0.05)
    raise AssertionError(f"the queue {QUEUE} was not created: its command is {status or 'unknown'}")


def test_the_running_api_gives_out_the_document_that_is_drawn_from(stack_url: str) -> None:
    assert httpx.get(f"{stack_url}/openapi.json").json() == DOCUMENT.raw_schema


@DOCUMENT.exclude(path="/api/v1/jobs/{job_id}/logs").parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_endpoint_answers_as_documented_and_never_with_500(
    case: schemathesis.Case[Any], fuzzed_url: str
) -> None:
    harmless(case)
    answer = case.call_and_validate(base_url=fuzzed_url, checks=CHECKS)
    assert answer.status_code != 500, answer.text
    assert "Traceback" not in answer.text
    if answer.status_code >= 400 and case.path.startswith("/api/v1") and "health" not in case.path:
        error = answer.json()["error"]
        assert set(error) == {"code", "message", "details", "request_id"}
        assert error["message"]


def harmless(case: schemathesis.Case[Any]) -> None:
    """Redirect what would run, change what others use, or wait for what never comes.

    Only legal values are replaced, by other legal ones: illegal ones must stay to be refused.
    """
    body = case.body
    if case.path == "/api/v1/jobs/" and isinstance(body, dict):
        queue = body.get("queue", QUEUE)
        if isinstance(queue, str) and NAME.fullmatch(queue):
            body["queue"] = QUEUE
    name = (case.path_parameters or {}).get("name")
    if case.method == "PUT" and isinstance(name, str) and NAME.fullmatch(name):
        case.path_parameters["name"] = f"drawn-{name[:40]}"
    for values, key in ((case.query, "min_position"), (case.headers, "Foldline-Min-Position")):
        position = (values or {}).get(key)
        if isinstance(position, str) and POSITION.fullmatch(position):
            del values[key]
