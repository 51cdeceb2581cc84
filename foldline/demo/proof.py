"""The demo's proof: the log holds from its first record, and both views equal the fold of it.

A view may still be taking in the last records when it is asked, so it is compared only once both
views have come to where the log ends. `projections/verify.py` does the work.
"""

from __future__ import annotations

import time

from foldline.demo.judge import Check
from projections.verify import ShardFinding, VerifyReport, verify

CAUGHT_UP_WITHIN_S = 20.0
AGAIN_S = 0.5


def prove(bootstrap: str, dsn: str, redis_url: str, jobs: int) -> list[Check]:
    """The checks; `jobs` is how many the log must know."""
    deadline = time.monotonic() + CAUGHT_UP_WITHIN_S
    report = verify(bootstrap, dsn, redis_url)
    while not _has_caught_up(report) and time.monotonic() < deadline:
        time.sleep(AGAIN_S)
        report = verify(bootstrap, dsn, redis_url)
    return [_log(report, jobs), *(_view(report, name) for name in ("audit", "hot"))]


def _has_caught_up(report: VerifyReport) -> bool:
    return all(
        view.position.next_offset >= shard.next_offset
        for shard in report.shards
        for view in shard.views
    )


def _log(report: VerifyReport, jobs: int) -> Check:
    records = sum(shard.records for shard in report.shards)
    found = sum(shard.jobs for shard in report.shards)
    problems = [f"shard {shard.shard}: {shard.problem}" for shard in report.shards if shard.problem]
    if found != jobs:
        problems.append(f"the log knows {found} jobs, {jobs} were submitted")
    detail = "; ".join(problems) or f"{records} records, {found} jobs, {_chains(report.shards)}"
    return Check("the log is whole from its first record", not problems, detail)


def _chains(shards: tuple[ShardFinding, ...]) -> str:
    return "chain " + " ".join(shard.value.hex()[:12] for shard in shards)


def _view(report: VerifyReport, name: str) -> Check:
    found = [
        (shard.shard, view) for shard in report.shards for view in shard.views if view.view == name
    ]
    problems = [f"shard {shard}: {view.problem}" for shard, view in found if view.problem]
    jobs = sum(view.jobs for _, view in found)
    server = {"audit": "PostgreSQL", "hot": "Redis"}[name]
    at = ", ".join(f"{shard}:{view.position.next_offset}" for shard, view in found)
    held = "jobs" if name == "audit" else "live jobs"
    detail = "; ".join(problems) or f"{jobs} {held} at offset {at}, digests equal"
    return Check(f"{server} equals the fold at its position", not problems and bool(found), detail)
