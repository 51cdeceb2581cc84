"""From a file or from options to the bodies that the API takes.

A file is YAML or JSON: one document, several (`---`), or a list. Within one file a job may depend
on an earlier one by its `name`. Reads files, sends nothing. `ingest/requests.py` judges bodies;
here only what cannot be read as one is refused, with `BadFile`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from foldline.options import JobOptions

Body = dict[str, Any]

STDIN = "-"


class BadFile(Exception):
    """The file cannot be read, or does not hold what is expected; the message says what to do."""


def read_bodies(path: str) -> list[Body]:
    """Every document of a file ("-" is standard input), in order."""
    try:
        text = sys.stdin.read() if path == STDIN else Path(path).read_text(encoding="utf-8")
        documents = list(yaml.safe_load_all(text))
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} is neither YAML nor JSON: {error}") from error
    found: list[Body] = []
    for document in documents:
        found += _bodies(path, document)
    if not found:
        raise BadFile(f"{path} is empty: write one job, or several with --- between them")
    return found


def _bodies(path: str, document: object) -> list[Body]:
    if document is None:
        return []
    found: list[Body] = []
    for item in document if isinstance(document, list) else [document]:
        if not isinstance(item, dict):
            kind = type(item).__name__
            raise BadFile(f"{path}: expected a mapping of fields to values, found a {kind}")
        found.append(item)
    return found


def with_ids(body: Mapping[str, Any], ids: Mapping[str, str]) -> Body:
    """The body with names of earlier jobs of the file in `depends_on` replaced by their ids."""
    wanted = body.get("depends_on")
    if not isinstance(wanted, list):
        return dict(body)
    return {**body, "depends_on": [_with_id(item, ids) for item in wanted]}


def _with_id(item: object, ids: Mapping[str, str]) -> object:
    if isinstance(item, str):
        return ids.get(item, item)
    if isinstance(item, dict) and isinstance(item.get("job_id"), str):
        return {**item, "job_id": ids.get(item["job_id"], item["job_id"])}
    return item


def body_of(command: Sequence[str], options: JobOptions) -> Body:
    """The body of one job that runs `command`."""
    resources = given({"cpu": options.cpu, "memory": options.memory, "gpu": options.gpu})
    body = given(
        {
            "job_type": options.job_type,
            "name": options.name,
            "cluster": options.cluster,
            "queue": options.queue,
            "priority": options.priority,
            "command": list(command),
            "env": dict(variable(pair) for pair in options.env or ()) or None,
            "resources": resources or None,
            "timeout_seconds": options.timeout,
        }
    )
    if options.gang is not None:
        body["gang"] = {"enabled": True, "min_members": options.gang}
    if options.retries is not None:
        body["retry_policy"] = {"max_retries": options.retries}
    return body


def variable(pair: str) -> tuple[str, str]:
    """Name and value of `--env NAME=VALUE`. Raises `BadFile`."""
    name, equals, value = pair.partition("=")
    if not name or not equals:
        raise BadFile(f"--env {pair}: write it as NAME=VALUE")
    return name, value


def given(values: Mapping[str, Any]) -> Body:
    """What of these was said at all."""
    return {name: value for name, value in values.items() if value is not None}
