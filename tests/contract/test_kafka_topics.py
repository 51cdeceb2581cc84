"""What the Kafka adapter promises of the catalogue's topics, on a real broker."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented, not re-exported
    AdminClient,
    ConfigResource,
    ResourceType,
)

from infra import kafka_settings
from infra.kafka import KafkaUnavailable, ensure_topics, shard_count, wait_ready
from infra.kafka_port import TopicMismatch
from infra.local.ports import LOOPBACK, free_ports
from infra.local.stack import Addresses
from schemas.topics import SHARDS, TOPICS

WITHIN_S = 20.0


def made_shards(bootstrap: str) -> int:
    """The catalogue's topics are shared by a whole run: whoever comes first chose the shards."""
    try:
        return shard_count(bootstrap)
    except KafkaUnavailable:
        return 2


def test_topics_are_created_as_the_catalogue_says_by_whoever_comes_first(
    servers: Addresses,
) -> None:
    shards = made_shards(servers.bootstrap)
    with ThreadPoolExecutor(3) as starters:
        list(starters.map(lambda _: ensure_topics(servers.bootstrap, shards), range(3)))
    assert shard_count(servers.bootstrap) == shards
    admin = AdminClient({"bootstrap.servers": servers.bootstrap})
    known = admin.list_topics(timeout=WITHIN_S).topics
    for entry in TOPICS:
        wanted = shards if entry.partitions == SHARDS else entry.partitions
        assert len(known[entry.name].partitions) == wanted, entry.name
        resource = ConfigResource(ResourceType.TOPIC, entry.name)
        settings = admin.describe_configs([resource])[resource].result(WITHIN_S)
        for name, value in kafka_settings.topic_config(entry).items():
            assert settings[name].value == value, (entry.name, name)


def test_another_number_of_shards_is_refused_with_both_numbers(servers: Addresses) -> None:
    shards = made_shards(servers.bootstrap)
    ensure_topics(servers.bootstrap, shards)
    with pytest.raises(TopicMismatch, match=f"has {shards} partitions, not the {shards + 1}"):
        ensure_topics(servers.bootstrap, shards + 1)


def test_waiting_for_a_kafka_that_is_not_there_ends_in_time(servers: Addresses) -> None:
    wait_ready(servers.bootstrap, WITHIN_S)
    started = time.monotonic()
    with pytest.raises(KafkaUnavailable, match="no Kafka at"):
        wait_ready(f"{LOOPBACK}:{free_ports(1)[0]}", 0.5)
    assert time.monotonic() - started < 5
