"""A producer that knows nothing of Foldline but one Avro schema file: how any system submits jobs.

Needs a Kafka client and an Avro library in whatever language. Reads the schema file, writes one
record to the commands topic: key = the job's cluster, partitioner murmur2 (Java's default),
value = 00, the four-byte schema id, the Avro body. Prints where the record went. The same
idempotency key in the same cluster is the same job, however often it is sent.

    python plain_producer.py --schema SubmitJob.v1.avsc --key night-1 -- python -m my.training
"""

from __future__ import annotations

import argparse
import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from fastavro import parse_schema, schemaless_writer

TOPIC = "foldline.jobs.commands.v1"
DELIVERY_TIMEOUT_S = 20


def main() -> int:
    """Send one submission; 0 once Kafka has acknowledged it."""
    options = _options()
    value = encode(Path(options.schema), options.schema_id, submission(options))
    settings = {
        "bootstrap.servers": options.bootstrap,
        "partitioner": "murmur2_random",
        "enable.idempotence": True,
        "acks": "all",
        "delivery.timeout.ms": DELIVERY_TIMEOUT_S * 1000,
    }
    producer = Producer(settings)
    problems: list[str] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            problems.append(str(error))
            return
        print(json.dumps({"partition": message.partition(), "offset": message.offset()}))

    producer.produce(TOPIC, key=options.cluster, value=value, on_delivery=delivered)
    if producer.flush(DELIVERY_TIMEOUT_S + 1) or problems:
        print(f"not delivered: {'; '.join(problems) or 'no answer'}", file=sys.stderr)
        return 1
    return 0


def submission(options: argparse.Namespace) -> dict[str, Any]:
    """The record; what is left out takes the default that the schema names."""
    return {
        "terms": {
            "pool": options.cluster,
            "queue": options.queue,
            "cpu_milli": options.cpu_milli,
            "memory_mib": options.memory_mib,
        },
        "idempotency_key": options.key,
        "priority": options.priority,
        "depends_on": [],
        "key_id": 0,
        "actor": "plain-producer",
        "spec": {
            "job_type": options.job_type,
            "name": options.key,
            "command": options.command,
            "env": [_variable(pair) for pair in options.env],
            "config": options.config,
        },
    }


def _variable(pair: str) -> dict[str, str]:
    name, _, value = pair.partition("=")
    return {"name": name, "value": value}


def encode(schema_file: Path, schema_id: int, record: dict[str, Any]) -> bytes:
    """Confluent framing: a zero byte, the schema's id, the Avro body."""
    schema = parse_schema(json.loads(schema_file.read_text()))
    out = BytesIO()
    out.write(b"\x00" + schema_id.to_bytes(4, "big"))
    schemaless_writer(out, schema, record)
    return out.getvalue()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Submit one job straight to Kafka.")
    parser.add_argument("--bootstrap", default="127.0.0.1:9092")
    parser.add_argument("--schema", required=True, help="SubmitJob.v1.avsc")
    parser.add_argument("--schema-id", type=int, default=1, help="its id in ids.json")
    parser.add_argument("--key", required=True, help="idempotency key")
    parser.add_argument("--cluster", default="default")
    parser.add_argument("--queue", default="default")
    parser.add_argument("--priority", type=int, default=50)
    parser.add_argument("--job-type", default="batch")
    parser.add_argument("--cpu-milli", type=int, default=1000)
    parser.add_argument("--memory-mib", type=int, default=512)
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--config", default="{}", help="a JSON document for the job")
    parser.add_argument("command", nargs="+", help="what to run, after --")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
