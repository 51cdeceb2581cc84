"""How our Kafka clients and topics are set, each with its reason; plain values, no I/O.

One rule: the lowest latency that costs no correctness. `infra.kafka` uses these and nothing else
does; `schemas.topics` says what a topic is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.topics import MAX_RECORD_BYTES, Topic

MAX_BATCH_BYTES = MAX_RECORD_BYTES + 64 * 1024
"""The broker's limit is on a record with its key, headers and batch frame: room for those."""
COMPACT_SEGMENT_BYTES = 64 * 1024 * 1024
"""Kafka never compacts the segment being written: a small one lets old snapshots go."""


def client(bootstrap: str) -> dict[str, Any]:
    """What every client has: a restarted broker should be found again within a second."""
    return {
        "bootstrap.servers": bootstrap,
        "client.id": "foldline",
        "socket.nagle.disable": True,
        "socket.timeout.ms": 10_000,
        "socket.connection.setup.timeout.ms": 5_000,
        # A broker that stood still for some seconds is fenced, and then its own metadata names no
        # broker at all: who does not start over from the bootstrap list then knows none for ever.
        # Starting over resets the backoff, so its beginning is how often a dead broker is tried.
        "metadata.recovery.strategy": "rebootstrap",
        "metadata.recovery.rebootstrap.trigger.ms": 10_000,
        "topic.metadata.refresh.interval.ms": 5_000,
        "reconnect.backoff.ms": 200,
        "reconnect.backoff.max.ms": 1_000,
        "log.connection.close": False,
        "enable.metrics.push": False,
    }


def sender(message_timeout_s: float, linger_ms: float, compression: str) -> dict[str, Any]:
    """Idempotent and acknowledged by all; a record's fate is known within the timeout."""
    return {
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": linger_ms,
        "compression.type": compression,
        "message.timeout.ms": int(message_timeout_s * 1000),
        "message.max.bytes": MAX_BATCH_BYTES,
        "queue.buffering.max.kbytes": 128 * 1024,
        "retry.backoff.ms": 50,
        "partitioner": "murmur2_random",  # the default disagrees with Java's producers on a key
    }


def reader(fetch_wait_ms: int) -> dict[str, Any]:
    """Reads what it is told: nothing is committed, and an offset that is gone is an error."""
    return {
        "group.id": "foldline-readers",  # the library asks for one; nothing joins or commits
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,  # moves positions past holes at the end of a partition
        "auto.offset.reset": "error",  # a silent reset would skip inputs
        "fetch.min.bytes": 1,
        "fetch.wait.max.ms": fetch_wait_ms,
        "fetch.queue.backoff.ms": 5,  # the default puts a fetch off by a second after a backlog
        "fetch.error.backoff.ms": 50,
        "fetch.message.max.bytes": MAX_BATCH_BYTES,
        "topic.metadata.propagation.max.ms": 5_000,  # then a topic that is not there is an error
        "queued.min.messages": 10_000,
        "queued.max.messages.kbytes": 32 * 1024,
    }


def membership(group: str) -> dict[str, Any]:
    """A member that fetches nothing; the new group protocol assigns in a tenth of a second."""
    return {
        "group.id": group,
        "group.protocol": "consumer",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "latest",
        "queued.min.messages": 1,
        "fetch.message.max.bytes": 1024,
    }


def outsider(bootstrap: str, group: str) -> dict[str, Any]:
    """Knows a group's name and is no member. Silent: nobody polls for its lines."""
    quiet = {"enable.auto.commit": False, "enable.auto.offset.store": False, "log_level": 0}
    return client(bootstrap) | {"group.id": group, "session.timeout.ms": 6_000} | quiet


def topic_config(topic: Topic, replication: int = 1) -> dict[str, str]:
    """The broker's settings that the catalogue's entry means."""
    config = {
        "cleanup.policy": "compact" if topic.compact else "delete",
        "retention.ms": str(topic.retention_ms),
        "retention.bytes": str(topic.retention_bytes),
        "max.message.bytes": str(MAX_BATCH_BYTES),
        "message.timestamp.type": "LogAppendTime" if topic.append_time else "CreateTime",
        "min.insync.replicas": str(max(1, replication - 1)),
    }
    if topic.compact:
        config |= {"segment.bytes": str(COMPACT_SEGMENT_BYTES), "min.cleanable.dirty.ratio": "0.2"}
    return config


def new_topic(topic: Topic, shards: int, replication: int) -> dict[str, Any]:
    """What the broker is asked to create."""
    return {
        "topic": topic.name,
        "num_partitions": topic.partitions or shards,
        "replication_factor": replication,
        "config": topic_config(topic, replication),
    }


def count_mismatch(topic: Topic, shards: int, partitions: int) -> str | None:
    """What is wrong with the number of partitions of a topic that exists, or None."""
    wanted = topic.partitions or shards
    if partitions == wanted:
        return None
    return (
        f"topic {topic.name} has {partitions} partitions, not the {wanted} asked for: "
        "their number is fixed at creation"
    )


def policy_mismatch(topic: Topic, actual: Mapping[str, str]) -> str | None:
    """What breaks a guarantee in the settings of a topic that exists, or None.

    Only guarantees are looked at: an operator may keep public records longer or shorter.
    """
    wanted = topic_config(topic)
    guarded = ["cleanup.policy", "message.timestamp.type"]
    if topic.retention_ms == -1 and not topic.compact:
        guarded += ["retention.ms", "retention.bytes"]
    for name in guarded:
        if actual[name] != wanted[name]:
            return f"topic {topic.name} has {name}={actual[name]}, it must be {wanted[name]}"
    if int(actual["max.message.bytes"]) < MAX_BATCH_BYTES:
        return f"topic {topic.name} takes no records of {MAX_RECORD_BYTES} bytes"
    return None
