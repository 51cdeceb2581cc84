"""Whether the demo's jobs did what they should: each check has a name, a verdict and its figures.

Pure: it is given jobs as the API answered them and the logs that they wrote. `proof.py` adds what
the log and the views say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foldline.demo.jobs import (
    DOOMED,
    ENDLESS,
    FLAKY,
    FLAKY_ATTEMPTS,
    GANG,
    GANG_MEMBERS,
    GPU,
    INFERENCE,
    PLAIN,
    SWEEP,
    Planned,
)
from projections.answers import JobAnswer

RESULT_MARK = "RESULT "
SWEEP_BEST = 0.95
GANG_LEAST = 0.93

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Happened:
    """One job of the demo as it ended, and the results that its tasks printed."""

    planned: Planned
    job: JobAnswer
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be true; `detail` gives the figures."""

    name: str
    ok: bool
    detail: str


def results_in(log: str) -> tuple[Result, ...]:
    """The documents of the `RESULT {...}` lines in a job's log."""
    marked = (line.partition(RESULT_MARK) for line in log.splitlines())
    return tuple(json.loads(text) for _, mark, text in marked if mark)


def judge(all_jobs: Sequence[Happened]) -> list[Check]:
    """Every check on the jobs, in the order of the story."""
    kinds: dict[str, list[Happened]] = {}
    for one in all_jobs:
        kinds.setdefault(one.planned.kind, []).append(one)
    return [
        _ended_as_planned(all_jobs),
        _sweep(kinds[SWEEP]),
        *_gang(kinds[GANG][0], kinds[INFERENCE][0]),
        _flaky(kinds[FLAKY][0]),
        _doomed(kinds[DOOMED][0]),
        _cancelled(kinds[ENDLESS][0]),
        _gpu(kinds[GPU][0]),
        _plain(kinds[PLAIN][0]),
    ]


def _ended_as_planned(all_jobs: Sequence[Happened]) -> Check:
    wrong = [
        f"{one.planned.name} is {one.job.status} after {one.job.attempt} attempts"
        for one in all_jobs
        if (one.job.status, one.job.attempt) != (one.planned.ends_as.value, one.planned.attempts)
    ]
    detail = "; ".join(wrong[:5]) or f"{len(all_jobs)} jobs"
    return Check("every job ended as it should, in as many attempts", not wrong, detail)


def best_points(jobs: Sequence[Happened]) -> dict[str, Result]:
    """The most accurate point of each family of the sweep."""
    best: dict[str, Result] = {}
    for result in (result for one in jobs for result in one.results):
        family = str(result["model"])
        if family not in best or result["accuracy"] > best[family]["accuracy"]:
            best[family] = result
    return best


def _sweep(jobs: Sequence[Happened]) -> Check:
    scored = sum(len(one.results) for one in jobs)
    best = best_points(jobs)
    ok = scored == len(jobs) and bool(best)
    ok = ok and all(result["accuracy"] >= SWEEP_BEST for result in best.values())
    svm, network = best.get("svm"), best.get("network")
    told = [f"svm {svm['accuracy']:.2%} at C={svm['C']:g}, gamma={svm['gamma']:g}"] if svm else []
    if network:
        at = f"rate {network['learning_rate']:g}, momentum {network['momentum']:g}"
        told.append(f"network {network['accuracy']:.2%} at {at}")
    return Check("the sweep found good models", ok, f"best of {scored}: {'; '.join(told)}")


def _gang(gang: Happened, inference: Happened) -> list[Check]:
    ranks = sorted(result["rank"] for result in gang.results)
    weights = {result["weights_sha256"] for result in gang.results}
    accuracy = max((float(result["accuracy"]) for result in gang.results), default=0.0)
    together = ranks == list(range(GANG_MEMBERS)) and len(weights) == 1
    trained = f"{len(ranks)} members, {len(weights)} set of weights, {accuracy:.2%}"
    scored = inference.results[0]["accuracy"] if inference.results else 0.0
    order = (gang.job.ended_at, inference.job.started_at)
    after = order[0] is not None and order[1] is not None and order[0] <= order[1]
    return [
        Check("the gang trained one model together", together and accuracy >= GANG_LEAST, trained),
        Check(
            "inference waited for the gang and used its model",
            after and scored == accuracy,
            f"{scored:.2%} with the model of {accuracy:.2%}",
        ),
    ]


def _flaky(job: Happened) -> Check:
    on = [result["succeeded_on_attempt"] for result in job.results]
    name = f"the flaky job succeeded on attempt {FLAKY_ATTEMPTS}"
    return Check(name, on == [FLAKY_ATTEMPTS], f"{job.job.retry_count} retries")


def _doomed(job: Happened) -> Check:
    ok = job.job.status == job.planned.ends_as.value
    return Check("the doomed job is in the dead letters", ok, job.job.message.partition("\n")[0])


def _cancelled(job: Happened) -> Check:
    stopped = [result.get("stopped") for result in job.results]
    ok = job.job.started_at is not None and stopped == ["SIGTERM"]
    return Check("the cancelled job ran, was told to stop and left in order", ok, f"{stopped}")


def _gpu(job: Happened) -> Check:
    devices = [result["devices"] for result in job.results]
    return Check("the GPU job was given a device", ok=any(devices), detail=f"devices {devices}")


def _plain(job: Happened) -> Check:
    ok = len(job.results) == 1
    return Check("the plain Kafka producer's job ran like any other", ok, f"job {job.job.id}")
