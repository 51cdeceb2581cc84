"""The released corpus: one sample of bytes for every message of every released version.

`python -m tests.corpus.add_samples` writes a file for each schema id that has none; files that are
there are never changed, because records like theirs lie in logs for ever. `--unreleased NAME ...`
makes the newest sample of these messages anew (only right before anything was released with it).
`tests/unit/test_schema_compat.py` decodes every one of them with the code of today.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from schemas.codec import encode, schema_id_of, schema_ids, schema_text, to_plain
from schemas.derive import message_classes, without_docs
from tests.message_samples import sample

CORPUS = Path(__file__).parent


def corpus_file(name: str, version: int) -> Path:
    return CORPUS / f"{name}.v{version}.json"


def schema_hash(schema_id: int) -> str:
    """Of what is on the wire: a docstring may change."""
    wire = without_docs(json.loads(schema_text(schema_id)[2]))
    return sha256(json.dumps(wire, sort_keys=True).encode()).hexdigest()


def shown(value: Any) -> Any:
    """A plain value as JSON takes it: bytes in hex."""
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shown(item) for item in value]
    return f"hex {value.hex()}" if isinstance(value, bytes) else value


def sample_of(cls: type) -> dict[str, Any]:
    """What is kept of the version that a class is written with today."""
    message = sample(cls)
    schema_id = schema_id_of(cls)
    name, version = schema_ids()[schema_id]
    return {
        "id": schema_id,
        "name": name,
        "version": version,
        "schema_sha256": schema_hash(schema_id),
        "bytes": encode(message).hex(),
        "value": shown(to_plain(message)),
    }


def add(renewed: frozenset[str]) -> list[str]:
    """Write what is missing, and what is to be made anew; the names of the files written."""
    written = []
    for cls in message_classes():
        made = sample_of(cls)
        path = corpus_file(made["name"], made["version"])
        if not path.exists() or cls.__name__ in renewed:
            path.write_text(json.dumps(made, indent=1) + "\n")
            written.append(path.name)
    return written


if __name__ == "__main__":
    names = sys.argv[1:]
    unreleased = frozenset(names[1:]) if names[:1] == ["--unreleased"] else frozenset[str]()
    sys.stdout.write("".join(f"wrote {name}\n" for name in add(unreleased)))
