"""Schemas only grow: what was released is read for ever, by the rules that each topic promises.

`tests/corpus` holds a sample of every released version; `schemas/avro/ids.json` is the lock file.
Compatibility is judged by the official Avro library, against every version there ever was.
"""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import avro.schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from schemas import topics
from schemas.codec import decode, encode, schema_id_of, schema_ids, schema_text, to_plain
from schemas.derive import AVRO_DIR, IDS_FILE, message_classes, schema_of, without_docs
from schemas.terms import JobSpec
from tests.corpus.add_samples import CORPUS, corpus_file, schema_hash, shown

CLASSES = message_classes()
CORPUS_FILES = sorted(CORPUS.glob("*.json"))
PUBLIC = {cls for topic in topics.TOPICS if topic.public for cls in topic.messages} | {JobSpec}
"""What strangers read and write; specs lie in public records as bytes of their own schema."""
HOW_TO_ADD = "add it with: python -m tests.corpus.add_samples"

every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def versions(name: str) -> list[Any]:
    """Every released schema of a message, oldest first."""
    found = sorted((version, key) for key, (of, version) in schema_ids().items() if of == name)
    return [json.loads(schema_text(key)[2]) for _, key in found]


def can_read(reader: Any, writer: Any) -> list[str]:
    """What keeps a reader from reading what a writer wrote; empty if nothing does."""
    checked = ReaderWriterCompatibilityChecker().get_compatibility(
        avro.schema.parse(json.dumps(reader)), avro.schema.parse(json.dumps(writer))
    )
    if checked.compatibility == SchemaCompatibilityType.compatible:
        return []
    return sorted(map(str, checked.messages))


def problems(history: list[Any], *, full: bool) -> list[str]:
    """Every break among all versions: new readers must read old records, and if `full` old ones
    new records too."""
    found = []
    for older, old in enumerate(history):
        for new in history[older + 1 :]:
            found += can_read(reader=new, writer=old)
            if full:
                found += can_read(reader=old, writer=new)
    return found


@every_class
def test_the_newest_schema_is_the_class(cls: type) -> None:
    newest = versions(cls.__name__)[-1]
    assert without_docs(newest) == without_docs(schema_of(cls)), (
        "the class has changed: write its next version with `make schemas`"
    )
    assert versions(cls.__name__)[-1] == json.loads(schema_text(schema_id_of(cls))[2])


@every_class
def test_all_versions_understand_each_other_as_promised(cls: type) -> None:
    assert problems(versions(cls.__name__), full=cls in PUBLIC) == []


def test_the_lock_file_names_each_schema_file_once() -> None:
    entries = json.loads(IDS_FILE.read_text())
    files = [entry["file"] for entry in entries.values()]
    assert sorted(files) == sorted(path.name for path in AVRO_DIR.glob("*.avsc"))
    assert [int(key) for key in entries] == list(range(1, len(entries) + 1))
    for entry in entries.values():
        assert entry["file"] == f"{entry['name']}.v{entry['version']}.avsc"


def test_every_schema_in_the_lock_file_has_its_sample() -> None:
    missing = [pair for pair in schema_ids().values() if not corpus_file(*pair).exists()]
    assert missing == [], HOW_TO_ADD
    assert len(CORPUS_FILES) == len(schema_ids())


@pytest.mark.parametrize("path", CORPUS_FILES, ids=lambda path: path.stem)
def test_what_was_released_is_read_for_ever(path: Any) -> None:
    kept = json.loads(path.read_text())
    assert schema_ids()[kept["id"]] == (kept["name"], kept["version"]), "a released id has moved"
    assert schema_hash(kept["id"]) == kept["schema_sha256"], "a released schema was changed"
    message = decode(bytes.fromhex(kept["bytes"]))
    assert type(message).__name__ == kept["name"]
    assert within(kept["value"], shown(to_plain(message))) == []
    if schema_id_of(type(message)) == kept["id"]:
        assert encode(message).hex() == kept["bytes"]


def within(old: Any, new: Any, where: str = "") -> list[str]:
    """Where a value of today differs from an old one in anything that the old one said."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            problem for key in old for problem in within(old[key], new.get(key), f"{where}.{key}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            problem
            for place, (one, other) in enumerate(zip(old, new, strict=True))
            for problem in within(one, other, f"{where}[{place}]")
        ]
    return [] if old == new else [f"{where}: {old!r} is now {new!r}"]


def changed(change: str) -> list[Any]:
    """Two versions of a small message, the second changed in one way."""
    old: dict[str, Any] = {
        "type": "record",
        "name": "M",
        "fields": [
            {"name": "a", "type": "long"},
            {
                "name": "e",
                "type": {
                    "type": "enum",
                    "name": "E",
                    "symbols": ["UNKNOWN", "x"],
                    "default": "UNKNOWN",
                },
            },
        ],
    }
    new = deepcopy(old)
    if change == "field with default":
        new["fields"].append({"name": "b", "type": "long", "default": 0})
    elif change == "field without default":
        new["fields"].append({"name": "b", "type": "long"})
    elif change == "field removed":
        del new["fields"][0]
    elif change == "other type":
        new["fields"][0]["type"] = "string"
    elif change == "symbol added":
        new["fields"][1]["type"]["symbols"].append("y")
    elif change == "renamed":
        new["fields"][0]["name"] = "c"
    return [old, new]


@pytest.mark.parametrize(
    ("change", "backward", "full"),
    [
        ("nothing", True, True),
        ("field with default", True, True),
        ("field without default", False, False),
        ("field removed", True, False),
        ("other type", False, False),
        ("symbol added", True, True),
        ("renamed", False, False),
    ],
)
def test_a_change_that_breaks_a_promise_is_found(change: str, backward: bool, full: bool) -> None:
    history = changed(change)
    assert (problems(history, full=False) == []) == backward
    assert (problems(history, full=True) == []) == full


def test_a_break_against_any_older_version_is_found_and_not_only_the_last() -> None:
    old, new = changed("field with default")
    newest = deepcopy(new)
    del newest["fields"][-1]["default"]
    assert problems([new, newest], full=True) == []
    assert problems([old, new, newest], full=True) != []
