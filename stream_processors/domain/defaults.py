"""What a submission says and what it leaves to us: defaults filled in, and the hash of what was said.

Defaults are written into the event (`DEFAULTS_VERSION`), so a later default changes no old job.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Any

from schemas.commands import Submission
from schemas.terms import DEFAULT_TERMS, MEMORY_MAX_FACTOR, NO_DEFAULTS, JobTerms, QueueDefaults


def fill(terms: JobTerms, of_queue: QueueDefaults = NO_DEFAULTS) -> JobTerms:
    """Terms with what its queue, else version `DEFAULTS_VERSION`, gives where they say nothing."""
    key = (terms, of_queue)
    filled = _FILLED.get(key)
    if filled is None:
        changes = {
            name: _default(name, of_queue)
            for name in _DEFAULTED
            if getattr(terms, name) in ("", -1)
        }
        if not terms.retry_rules:
            changes["retry_rules"] = of_queue.retry_rules
        filled = replace(terms, **changes)
        if filled.memory_max_mib == -1:
            filled = replace(filled, memory_max_mib=MEMORY_MAX_FACTOR * filled.memory_mib)
        if _is_small(filled):
            if len(_FILLED) > _FILLED_MAX:
                _FILLED.clear()
            _FILLED[key] = filled
    return filled


def _is_small(terms: JobTerms) -> bool:
    """Whether the terms may be remembered: what will be refused may be a megabyte each."""
    names = len(terms.tenant) + len(terms.pool) + len(terms.queue)
    rows = (terms.extras, terms.gpu_models, terms.node_selector, terms.retry_rules)
    return names <= _NAMES_MAX and not any(len(row) > _ROWS_MAX for row in rows)


def _default(name: str, of_queue: QueueDefaults) -> Any:
    value = getattr(of_queue, name, -1)
    return getattr(DEFAULT_TERMS, name) if value == -1 else value


_DEFAULTED = tuple(name for name in JobTerms.__slots__ if getattr(JobTerms(), name) in ("", -1))
_SILENT_TERMS = [(name, getattr(JobTerms(), name)) for name in JobTerms.__slots__]
_FILLED: dict[tuple[JobTerms, QueueDefaults], JobTerms] = {}
_FILLED_MAX = 10_000
_NAMES_MAX, _ROWS_MAX = 200, 8


def spec_hash(submission: Submission) -> bytes:
    """16 bytes over all that a submission says, but for who sent it and its key.

    Terms count by name and only where they say something, so that neither a new field nor another
    default makes an honest repeat look different.
    """
    said = [
        (name, value)
        for name, silent in _SILENT_TERMS
        if (value := getattr(submission.terms, name)) != silent
    ]
    what = (
        said,
        submission.priority,
        submission.depends_on,
        submission.key_id,
        submission.spec_schema_id,
    )
    return blake2b(repr(what).encode() + submission.spec, digest_size=16).digest()
