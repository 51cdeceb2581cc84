"""What travels beside a message: CloudEvents attributes and trace context.

Headers follow the CloudEvents Kafka binding 1.0, binary mode (`ce_*`, content-type) and W3C
trace context. They repeat nothing that a reader of the log must trust: the envelope is judged.
"""

from __future__ import annotations

from dataclasses import dataclass

Headers = list[tuple[str, bytes]]

HEADER_NAMES = (
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_time",
    "ce_subject",
    "ce_dataschema",
    "ce_partitionkey",
    "ce_correlationid",
    "ce_causationid",
    "content-type",
    "traceparent",
)
"""Every header we write; one that is not here fails the build."""


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """The attributes of one event. `time` is RFC 3339; empty strings are left out."""

    id: str
    source: str
    type: str
    schema_id: int
    time: str = ""
    subject: str = ""
    partition_key: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""


def to_headers(event: CloudEvent) -> Headers:
    """The Kafka headers of an event."""
    values = (
        ("ce_specversion", "1.0"),
        ("ce_id", event.id),
        ("ce_source", event.source),
        ("ce_type", event.type),
        ("ce_time", event.time),
        ("ce_subject", event.subject),
        ("ce_dataschema", f"/schemas/ids/{event.schema_id}"),
        ("ce_partitionkey", event.partition_key),
        ("ce_correlationid", event.correlation_id),
        ("ce_causationid", event.causation_id),
        ("content-type", "application/avro"),
        ("traceparent", event.traceparent),
    )
    return [(name, value.encode()) for name, value in values if value]


def header(headers: Headers, name: str) -> str:
    """The text of a header, or "" if it is not there."""
    return next((value.decode(errors="replace") for key, value in headers if key == name), "")
