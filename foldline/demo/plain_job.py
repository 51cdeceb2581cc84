"""The demo's job that comes straight from Kafka: runs `plain_producer.py` as a program of its own.

That program is started by its path, with nothing but the schema file and its id to go by. The job's
id is computed here as anybody can compute it: it follows from cluster, key and partition.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from foldline.demo.jobs import PLAIN, Planned, module
from schemas.codec import schema_id_of, schema_ids
from schemas.commands import SubmitJob
from schemas.derive import AVRO_DIR
from schemas.ids import format_job_id, job_id
from schemas.terms import DEFAULT_TERMS

PRODUCER = Path(__file__).with_name("plain_producer.py")
KEY = "plain"
CONFIG = {"model": "svm", "C": 1.0, "kernel": "linear"}
WITHIN_S = 60.0


class NotProduced(Exception):
    """The plain producer did not get its record acknowledged; the message quotes it."""


def planned() -> Planned:
    """What should come of it; `body` is only for its name, for it is never sent to the API."""
    return Planned(PLAIN, {"name": KEY})


def produce(bootstrap: str) -> str:
    """Send it; answers the job's id. Raises `NotProduced`."""
    schema_id = schema_id_of(SubmitJob)
    name, version = schema_ids()[schema_id]
    argv = [
        sys.executable,
        str(PRODUCER),
        "--bootstrap", bootstrap,
        "--schema", str(AVRO_DIR / f"{name}.v{version}.avsc"),
        "--schema-id", str(schema_id),
        "--key", KEY,
        "--job-type", "training",
        "--config", json.dumps(CONFIG),
        "--",
        *module("sweep_job"),
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    if done.returncode:
        raise NotProduced(f"the plain producer failed: {done.stderr.strip()}")
    shard = int(json.loads(done.stdout)["partition"])
    return format_job_id(job_id(shard, DEFAULT_TERMS.tenant, DEFAULT_TERMS.pool, KEY))
