"""A job's body becomes the command that it means, or every wrong field is named with its remedy."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.http.tokens import CommandPlace
from ingest.recent import RecentJobs
from ingest.requests import JobBody, QueueBody
from ingest.submit import (
    CommandTooLarge,
    Context,
    outgoing,
    prepare,
    spec_of,
    submission_of,
    terms_of,
)
from schemas import codec
from schemas.commands import SubmitJob
from schemas.headers import header
from schemas.ids import parse_job_id, partition_of, shard_of
from schemas.terms import DEFAULT_TERMS, EnvVar, Label, Micros, Topology
from stream_processors.domain.defaults import fill, spec_hash

pytestmark = pytest.mark.unit

FULL: dict[str, Any] = {
    "job_type": "training",
    "priority": 100,
    "cluster": "default",
    "queue": "research",
    "image": "train:1",
    "command": ["python", "-m", "train"],
    "config": {"b": 1, "a": [1.5, None]},
    "env": {"B": "2", "A": "1"},
    "labels": {"team": "vision"},
    "resources": {"cpu": "2", "memory": "8Gi", "gpu": 1},
    "gang": {"enabled": True, "min_members": 4, "topology": "ring"},
    "timeout_seconds": 3600,
    "retry_policy": {"max_retries": 3, "backoff_multiplier": 1.5},
    "node_selector": {"zone": "b", "disk": "ssd"},
}
CONTEXT = Context("event-1", "request-1", "", "2026-01-01T00:00:00Z")


def body_of(**changes: Any) -> JobBody:
    """The full body with some fields changed; None leaves one out."""
    values = {**FULL, **changes}
    return JobBody.model_validate(
        {key: value for key, value in values.items() if value is not None}
    )


def problems(**changes: Any) -> dict[str, str]:
    """What is wrong with the changed body, by field."""
    with pytest.raises(ValidationError) as caught:
        body_of(**changes)
    return {".".join(map(str, one["loc"])): one["msg"] for one in caught.value.errors()}


def test_the_body_of_the_documentation_becomes_these_terms() -> None:
    terms = terms_of(body_of())
    assert (terms.pool, terms.queue, terms.tasks, terms.min_members) == (
        "default",
        "research",
        4,
        4,
    )
    assert terms.topology is Topology.RING
    assert (terms.cpu_milli, terms.memory_mib, terms.gpu_milli) == (2000, 8192, 1000)
    assert (terms.timeout_s, terms.max_retries, terms.backoff_multiplier_milli) == (3600, 3, 1500)
    assert terms.node_selector == (Label("disk", "ssd"), Label("zone", "b"))
    assert terms.backoff_s == terms.grace_s == -1


def test_what_is_left_out_takes_the_fold_s_default() -> None:
    terms = fill(terms_of(JobBody.model_validate({"command": ["true"]})))
    assert terms == replace(DEFAULT_TERMS, memory_max_mib=4 * DEFAULT_TERMS.memory_mib)


def test_the_spec_carries_the_rest_with_its_maps_sorted() -> None:
    spec = spec_of(body_of())
    assert spec.command == ("python", "-m", "train")
    assert spec.env == (EnvVar("A", "1"), EnvVar("B", "2"))
    assert spec.config == '{"a":[1.5,null],"b":1}'


@given(st.permutations(sorted(FULL)))
def test_equal_bodies_make_equal_bytes_in_whatever_order(order: list[str]) -> None:
    shuffled = JobBody.model_validate({key: FULL[key] for key in order})
    again = prepare(shuffled, "key", 8)
    first = prepare(body_of(), "key", 8)
    assert codec.encode(again.command) == codec.encode(first.command)
    assert again.content == first.content


def test_another_body_has_another_content_and_the_same_id() -> None:
    first, second = prepare(body_of(), "key", 8), prepare(body_of(priority=1), "key", 8)
    assert first.job_id == second.job_id
    assert first.content != second.content


def test_the_content_is_the_hash_that_the_fold_computes() -> None:
    prepared = prepare(body_of(), "key", 8)
    submission = codec.decode_submission(codec.encode(prepared.command))
    assert submission.spec == submission_of(prepared.command).spec
    assert submission.spec_schema_id == submission_of(prepared.command).spec_schema_id
    assert spec_hash(submission) == prepared.content


def test_a_job_s_shard_is_its_pool_s_partition() -> None:
    prepared = prepare(body_of(cluster="west"), "key", 8)
    raw = parse_job_id(prepared.job_id)
    assert raw is not None
    assert shard_of(raw) == prepared.shard == partition_of("west", 8)


def test_tasks_of_a_gang_are_its_members() -> None:
    assert terms_of(body_of(tasks=4)).tasks == 4
    assert terms_of(body_of(gang={"enabled": True}, tasks=3)).min_members == 3
    alone = terms_of(body_of(gang={"enabled": False, "min_members": 4}, tasks=2))
    assert (alone.tasks, alone.min_members, alone.topology) == (2, 0, Topology.NONE)


def test_a_gang_without_or_with_two_sizes_is_refused() -> None:
    assert "needs gang.min_members" in problems(gang={"enabled": True})[""]
    assert "must equal tasks" in problems(tasks=3)[""]


def test_dependencies_are_ids_or_ids_with_a_condition() -> None:
    one = prepare(body_of(), "a", 8).job_id
    two = prepare(body_of(), "b", 8).job_id
    body = body_of(depends_on=[one, {"job_id": two, "condition": "ended"}])
    command = prepare(body, "c", 8).command
    assert [(item.job_id, item.condition.value) for item in command.depends_on] == [
        (one, "succeeded"),
        (two, "ended"),
    ]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("command", [], "at least 1"),
        ("command", [""], "at least 1"),
        ("command", ["a\x00b"], "NUL"),
        ("command", "python", "valid list"),
        ("priority", 101, "less than or equal to 100"),
        ("priority", True, "valid integer"),
        ("priority", "high", "valid integer"),
        ("priority", 10**40, "less than or equal to 100"),
        ("queue", "Big Queue", "a-z"),
        ("queue", "\ud800", "a-z"),
        ("name", "\ud800", "unicode"),
        ("command", ["\udfff"], "unicode"),
        ("env", {"A=B": "x"}, "variable's name"),
        ("config", [1], "JSON object"),
        ("config", {"x": float("inf")}, "NaN, Infinity"),
        ("config", {"x": "\ud800"}, "surrogate"),
        ("config", {"x": ["\x00"]}, "NUL"),
        ("resources", {"cpu": "-1"}, "never negative"),
        ("resources", {"cpu": True}, "quantity"),
        ("resources", {"cpu": None}, "quantity"),
        ("resources", {"memory": "9999999Ei"}, "beyond any machine"),
        ("resources", {"gpu": 1.5}, "whole number"),
        ("resources", {"gpus": 1}, "Extra inputs"),
        ("gang", {"min_members": 2, "topology": "star"}, "'ring'"),
        ("timeout_seconds", 0, "greater than or equal to 1"),
        ("retry_policy", {"backoff_multiplier": 0.5}, "greater than or equal to 1"),
        ("depends_on", ["not-an-id"], "job's id"),
        ("depends_on", [7], "dictionary"),
        ("deadline", 3, "Extra inputs"),
    ],
)
def test_what_cannot_be_taken_is_named_with_its_remedy(field: str, value: Any, says: str) -> None:
    found = problems(**{field: value})
    assert len(found) == 1
    place, message = found.popitem()
    assert place.startswith(field)
    assert says in message


def test_a_document_too_deep_to_handle_is_refused() -> None:
    deep: Any = {}
    for _ in range(5_000):
        deep = {"x": deep}
    assert "nested deeper" in problems(config=deep)["config"]


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=8,
        ),
        max_size=5,
    )
)
def test_any_json_object_comes_through_as_it_was(config: dict[str, Any]) -> None:
    body = JobBody.model_validate({"command": ["true"], "config": config})
    assert json.loads(body.config) == config


def test_a_command_over_the_limit_is_refused_before_it_is_sent() -> None:
    command = prepare(body_of(config={"x": "y" * (1 << 20)}), "key", 8).command
    with pytest.raises(CommandTooLarge, match="at most 1048576"):
        outgoing(command, (0, "default"), "subject", CONTEXT)


def test_a_command_s_headers_name_its_event_and_trace() -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    context = Context("event-1", "request-1", trace, "2026-01-01T00:00:00Z")
    message = outgoing(prepare(body_of(), "key", 8).command, (3, "default"), "the-job", context)
    assert header(message.headers, "ce_id") == "event-1"
    assert header(message.headers, "ce_correlationid") == "request-1"
    assert header(message.headers, "ce_subject") == "the-job"
    assert header(message.headers, "traceparent") == trace
    assert (message.shard, message.key) == (3, "default")
    assert isinstance(codec.decode(message.value), SubmitJob)


def test_recent_submissions_are_forgotten_oldest_first_by_number_and_by_size() -> None:
    recent = RecentJobs(most=3, most_bytes=100)
    jobs = [prepare(body_of(), str(number), 8) for number in range(5)]

    def kept() -> list[int]:
        return [number for number, job in enumerate(jobs) if recent.find(job.job_id)]

    for number, job in enumerate(jobs[:4]):
        recent.accept(job, 10, CommandPlace(job.shard, number), Micros(1))
    assert kept() == [1, 2, 3]
    recent.begin(jobs[4], 85)
    assert kept() == [3, 4]
    recent.abandon(jobs[3].job_id)
    recent.abandon(jobs[4].job_id)
    assert kept() == [3]
    recent.begin(jobs[4], 101)
    assert kept() == []


def test_a_queue_s_state_is_one_of_three_words() -> None:
    assert QueueBody.model_validate({}).state == "open"
    with pytest.raises(ValidationError, match="'draining'"):
        QueueBody.model_validate({"state": "closed"})
