"""What a submission says and what it leaves to us: defaults filled in, and the hash of what was said.

Defaults are written into the event (`DEFAULTS_VERSION`), so a later default changes no old job.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b

from schemas.commands import Submission
from schemas.terms import DEFAULT_TERMS, JobTerms


def fill(terms: JobTerms) -> JobTerms:
    """Terms with the defaults (version `DEFAULTS_VERSION`) where the submission says nothing."""
    filled = _FILLED.get(terms)
    if filled is None:
        changes = {
            name: getattr(DEFAULT_TERMS, name)
            for name in _DEFAULTED
            if getattr(terms, name) in ("", -1)
        }
        filled = replace(terms, **changes)
        if len(_FILLED) > _FILLED_MAX:
            _FILLED.clear()
        _FILLED[terms] = filled
    return filled


_DEFAULTED = tuple(name for name in JobTerms.__slots__ if getattr(JobTerms(), name) in ("", -1))
_SILENT_TERMS = [(name, getattr(JobTerms(), name)) for name in JobTerms.__slots__]
_FILLED: dict[JobTerms, JobTerms] = {}
_FILLED_MAX = 10_000


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
