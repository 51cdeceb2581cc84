"""Avro schemas from the plain classes, so that the two cannot drift apart.

`python -m schemas.derive` writes `avro/<Class>.v<n>.avsc` for every message in the catalogue and
gives new ones an id in `avro/ids.json`. A released file is never rewritten: a changed class gets
the next version and a new id. A test holds the newest file of each class equal to the class.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from schemas import events
from schemas.terms import JobSpec, Micros
from schemas.topics import TOPICS

AVRO_DIR = Path(__file__).parent / "avro"
IDS_FILE = AVRO_DIR / "ids.json"
NAMESPACE = "foldline"

Schema = dict[str, Any] | str


def message_classes() -> list[type]:
    """Every class that is encoded under a schema id of its own, in a fixed order."""
    found: dict[type, None] = {}
    for topic in TOPICS:
        found.update(dict.fromkeys(topic.messages))
    found.update(dict.fromkeys(get_args(events.Event)))
    found[JobSpec] = None
    return list(found)


def schema_of(cls: type) -> dict[str, Any]:
    """The Avro record schema of a message class."""
    schema = _type_schema(cls, set())
    assert isinstance(schema, dict), cls
    return schema


def _type_schema(kind: Any, named: set[str]) -> Schema:
    simple: dict[Any, Schema] = {
        int: "long",
        str: "string",
        bytes: "bytes",
        bool: "boolean",
        Micros: {"type": "long", "logicalType": "timestamp-micros"},
    }
    if kind in simple:
        return simple[kind]
    if get_origin(kind) in (tuple, list):
        return {"type": "array", "items": _type_schema(get_args(kind)[0], named)}
    if kind.__name__ in named:
        return f"{NAMESPACE}.{kind.__name__}"
    named.add(kind.__name__)
    if issubclass(kind, StrEnum):
        return _enum_schema(kind)
    assert is_dataclass(kind), f"no Avro form for {kind}"
    return _record_schema(cast(type, kind), named)


def _enum_schema(kind: type[StrEnum]) -> Schema:
    symbols = [member.value for member in kind]
    assert "UNKNOWN" in symbols, f"{kind.__name__} needs UNKNOWN for readers older than a symbol"
    return {
        "type": "enum",
        "name": kind.__name__,
        "namespace": NAMESPACE,
        "symbols": symbols,
        "default": "UNKNOWN",
    }


def _record_schema(kind: type, named: set[str]) -> Schema:
    hints = get_type_hints(kind)
    columns = []
    for field in fields(kind):
        column: dict[str, Any] = {
            "name": field.name,
            "type": _type_schema(hints[field.name], named),
        }
        if field.default is not MISSING:
            column["default"] = _json_default(field.default)
        elif field.default_factory is not MISSING:
            column["default"] = _json_default(tuple(field.default_factory()))
        columns.append(column)
    doc = (kind.__doc__ or "").strip()
    return {
        "type": "record",
        "name": kind.__name__,
        "namespace": NAMESPACE,
        "doc": doc,
        "fields": columns,
    }


def _json_default(value: Any) -> Any:
    if isinstance(value, tuple):
        assert not value, "only empty arrays can be defaults"
        return []
    if is_dataclass(value):
        return {item.name: _json_default(getattr(value, item.name)) for item in fields(value)}
    return str(value) if isinstance(value, StrEnum) else value


def without_docs(schema: Any) -> Any:
    """What of a schema is on the wire: a new docstring makes no new version."""
    if isinstance(schema, dict):
        return {key: without_docs(item) for key, item in schema.items() if key != "doc"}
    return [without_docs(item) for item in schema] if isinstance(schema, list) else schema


def _newest(ids: dict[str, Any], name: str) -> dict[str, Any] | None:
    entries = [entry for entry in ids.values() if entry["name"] == name]
    return max(entries, key=lambda entry: entry["version"], default=None)


def write(released: bool = True) -> list[str]:
    """Bring `avro/` up to the classes; returns the names of files written.

    With `released` False the newest version of a changed class is rewritten in place (only right
    before anything was released with it).
    """
    ids: dict[str, Any] = json.loads(IDS_FILE.read_text()) if IDS_FILE.exists() else {}
    written = []
    for cls in message_classes():
        schema = schema_of(cls)
        text = json.dumps(schema, indent=2) + "\n"
        entry = _newest(ids, cls.__name__)
        if entry:
            old = (AVRO_DIR / entry["file"]).read_text()
            same = (
                without_docs(json.loads(old)) == without_docs(schema) if released else old == text
            )
            if same:
                continue
        if entry is None or released:
            version = entry["version"] + 1 if entry else 1
            entry = {"name": cls.__name__, "version": version}
            entry["file"] = f"{cls.__name__}.v{version}.avsc"
            ids[str(max((int(key) for key in ids), default=0) + 1)] = entry
        (AVRO_DIR / entry["file"]).write_text(text)
        written.append(entry["file"])
    IDS_FILE.write_text(json.dumps(ids, indent=2) + "\n")
    return written


def main(arguments: list[str]) -> None:
    """Command line: `--unreleased` rewrites in place."""
    for name in write(released="--unreleased" not in arguments):
        print(f"wrote {name}")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
