"""What the engine tells a node's agent: one record per node and batch, after the log has counted.

Written to `foldline.dispatch.v1` keyed by node name. An agent obeys a record only if `epoch` is
not lower than the highest it has seen and `incarnation` is its own; it forgets what was placed
below `floor`. Starts, releases and stops may be repeated: each thing is taken once.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.terms import JobTerms


@dataclass(frozen=True, slots=True)
class Starts:
    """Tasks to start, in columns. `job_ids` has 16 bytes a row. `seqs` is the placing record's.

    Row i runs on devices `devices[i]` (one byte per index) under `terms[terms_of[i]]`; a gang
    member waits, ready, for its release.
    """

    job_nos: list[int]
    job_ids: bytes
    attempts: list[int]
    tasks: list[int]
    seqs: list[int]
    terms: list[JobTerms]
    terms_of: list[int]
    devices: list[bytes]
    key_ids: list[int]
    spec_schema_ids: list[int]
    specs: list[bytes]


@dataclass(frozen=True, slots=True)
class Releases:
    """Gang members whose barrier opened; `endpoints` is rank 0's host:port."""

    job_nos: list[int]
    attempts: list[int]
    tasks: list[int]
    endpoints: list[str]


@dataclass(frozen=True, slots=True)
class Stops:
    """Tasks to end: SIGTERM, `graces_s` seconds, SIGKILL. One that never started: a tombstone."""

    job_nos: list[int]
    attempts: list[int]
    tasks: list[int]
    seqs: list[int]
    graces_s: list[int]
    reasons: list[str]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """All that one decision (or one resending) has for one node.

    `registered` acknowledges the registration of `incarnation`; `register_again` says that this
    incarnation is not, or no longer, known: end its tasks and come back with a higher one.
    """

    shard: int
    epoch: int
    node: str
    incarnation: int
    floor: int
    registered: bool
    register_again: bool
    starts: Starts
    releases: Releases
    stops: Stops


NO_STARTS = Starts([], b"", [], [], [], [], [], [], [], [], [])
NO_RELEASES = Releases([], [], [], [])
NO_STOPS = Stops([], [], [], [], [], [])
