"""Whatever topic, header or message the code speaks of is in the one catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import kafka_settings
from infra.kafka_port import TopicMismatch, check_topics
from schemas.codec import schema_id_of
from schemas.headers import HEADER_NAMES, CloudEvent, header, to_headers
from schemas.topics import COMMANDS, JOB_EVENTS, LOG, MAX_RECORD_BYTES, SHARDS, SNAPSHOTS, TOPICS

ROOT = Path(__file__).parent.parent.parent
ROOMS = (
    "bench",
    "foldline",
    "infra",
    "ingest",
    "projections",
    "schemas",
    "stream_processors",
    "workers",
)
TOPIC = re.compile(r"foldline\.[a-z]+(?:\.[a-z]+)*\.v\d+")
HEADER = re.compile(r"\bce_[a-z]+\b")
GROUP = re.compile(r"GROUP\b.*=")
"""A consumer group is named like a topic and is none: its line says so."""


def source_lines() -> Iterator[tuple[str, str]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                yield f"{path.relative_to(ROOT)}:{number}", line


def test_every_topic_that_is_named_anywhere_is_in_the_catalogue() -> None:
    known = {topic.name for topic in TOPICS}
    strangers = [
        f"{where}: {name}"
        for where, line in source_lines()
        if not GROUP.search(line)
        for name in TOPIC.findall(line)
        if name not in known
    ]
    assert strangers == []


def test_every_header_that_is_named_anywhere_is_in_the_catalogue() -> None:
    strangers = [
        f"{where}: {name}"
        for where, line in source_lines()
        for name in HEADER.findall(line)
        if name not in HEADER_NAMES
    ]
    assert strangers == []


def test_the_headers_of_an_event_are_those_of_the_catalogue() -> None:
    event = CloudEvent(
        id="0:7:1",
        source="/shards/0",
        type="foldline.job.queued",
        schema_id=16,
        time="2031-05-04T03:02:01Z",
        subject="job",
        partition_key="key",
        correlation_id="a",
        causation_id="b",
        traceparent="00-1-2-01",
    )
    written = to_headers(event)
    assert {name for name, _ in written} <= set(HEADER_NAMES)
    assert header(written, "ce_id") == "0:7:1"
    assert header(written, "ce_dataschema") == "/schemas/ids/16"
    assert header(written, "tracestate") == ""
    names = {name for name, _ in to_headers(CloudEvent("1", "/s", "t", 1))}
    required = {"ce_specversion", "ce_id", "ce_source", "ce_type"}
    assert names == required | {"ce_dataschema", "content-type"}


def test_topics_are_named_alike_and_every_message_has_a_schema() -> None:
    for topic in TOPICS:
        assert TOPIC.fullmatch(topic.name), topic.name
        assert topic.messages
        assert all(schema_id_of(message) > 0 for message in topic.messages)
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)


def test_history_and_inputs_never_expire_by_themselves() -> None:
    for topic in TOPICS:
        config = kafka_settings.topic_config(topic, replication=3)
        if topic.partitions == SHARDS:
            assert config["retention.ms"] == config["retention.bytes"] == "-1"
        assert config["cleanup.policy"] == ("compact" if topic is SNAPSHOTS else "delete")
        assert config["min.insync.replicas"] == "2"
        assert int(config["max.message.bytes"]) > MAX_RECORD_BYTES
    assert kafka_settings.topic_config(LOG)["message.timestamp.type"] == "LogAppendTime"
    assert kafka_settings.topic_config(LOG)["min.insync.replicas"] == "1"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cleanup.policy", "compact"),
        ("retention.ms", "604800000"),
        ("retention.bytes", "1000000"),
        ("message.timestamp.type", "CreateTime"),
        ("max.message.bytes", "1048588"),
    ],
)
def test_a_log_that_would_lose_history_or_records_is_refused(setting: str, value: str) -> None:
    leaders = {topic.name: [1] * (topic.partitions or 2) for topic in TOPICS}
    settings = {topic.name: kafka_settings.topic_config(topic) for topic in TOPICS}
    check_topics(leaders, settings, 2)
    settings[LOG.name] = settings[LOG.name] | {setting: value}
    with pytest.raises(TopicMismatch, match=re.escape(LOG.name)):
        check_topics(leaders, settings, 2)


def test_an_operator_may_keep_public_records_for_another_time() -> None:
    shorter = kafka_settings.topic_config(JOB_EVENTS) | {"retention.ms": "1000"}
    assert kafka_settings.policy_mismatch(JOB_EVENTS, shorter) is None
    assert kafka_settings.policy_mismatch(COMMANDS, shorter) is not None


def test_the_count_of_partitions_is_checked_by_topic() -> None:
    assert kafka_settings.count_mismatch(LOG, 4, 4) is None
    assert "not the 4 asked for" in str(kafka_settings.count_mismatch(LOG, 4, 3))
    assert kafka_settings.count_mismatch(JOB_EVENTS, 4, JOB_EVENTS.partitions) is None
