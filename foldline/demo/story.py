"""The demo's course: submit everything, cancel one job while it runs, wait until all have ended.

Speaks to the API as any user would, and to Kafka only through `plain_producer.py`, in a process of
its own. What is submitted is in `jobs.py`; what must come of it in `judge.py`.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from foldline.client import Client
from foldline.demo import plain_job
from foldline.demo.jobs import ENDLESS, GANG, Planned, inference, plan
from foldline.demo.judge import Happened, results_in
from foldline.demo.progress import ENDED, Progress

LOOK_S = 0.4
RUN_BEFORE_CANCEL_S = 2.0
NODES_WITHIN_S = 60.0
ALL_ENDED_WITHIN_S = 240.0
LOGS_WITHIN_S = 15.0
LOG_READERS = 4
PAGE = 500


class DemoFailed(Exception):
    """The demo could not go on; the message says where it stopped."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo plays: the API, Kafka's address, and the directory that jobs share."""

    client: Client
    bootstrap: str
    shared: Path


def play(stage: Stage, progress: Progress) -> list[Happened]:
    """Run the whole story. Raises `DemoFailed` and what the client raises."""
    sent: dict[str, Planned] = {}
    with ThreadPoolExecutor(LOG_READERS) as threads:
        submitting = threads.submit(submit_all, stage, sent)
        watch(stage.client, sent, submitting, progress)
        return list(threads.map(lambda item: _outcome(stage.client, *item), sent.items()))


def wait_for_nodes(client: Client, count: int) -> None:
    """Return once so many nodes are registered: a gang finds its places only when all are there."""
    deadline = time.monotonic() + NODES_WITHIN_S
    while time.monotonic() < deadline:
        found = sum(len(cluster.nodes) for cluster in client.clusters().clusters)
        if found >= count:
            return
        time.sleep(LOOK_S)
    raise DemoFailed(f"not all of {count} agents had registered after {NODES_WITHIN_S:g} s")


def submit_all(stage: Stage, sent: dict[str, Planned]) -> None:
    """Submit every job, noting under its id what it was planned to be."""
    for planned in plan(stage.shared):
        job_id = stage.client.submit(planned.body).id
        sent[job_id] = planned
        if planned.kind == GANG:
            follows = inference(stage.shared, gang_job_id=job_id)
            sent[stage.client.submit(follows.body).id] = follows
    sent[plain_job.produce(stage.bootstrap)] = plain_job.planned()


def watch(
    client: Client, sent: dict[str, Planned], submitting: Future[None], progress: Progress
) -> None:
    """Look until all are submitted and have ended; cancel the endless one after it ran a moment."""
    began = time.monotonic()
    running_since: float | None = None
    cancelled = False
    while time.monotonic() - began < ALL_ENDED_WITHIN_S:
        submitted = submitting.done()
        if submitted:
            submitting.result()
        planned = dict(sent)
        jobs = [job for job in client.jobs(limit=PAGE).jobs if job.id in planned]
        progress.show(time.monotonic() - began, jobs)
        if submitted and len(jobs) == len(sent) and all(job.status in ENDED for job in jobs):
            return
        endless = next((job for job in jobs if planned[job.id].kind == ENDLESS), None)
        if endless is not None and endless.status == "running":
            running_since = running_since or time.monotonic()
            if not cancelled and time.monotonic() - running_since > RUN_BEFORE_CANCEL_S:
                client.cancel(endless.id, reason="the demo cancels one job while it runs")
                cancelled = True
        time.sleep(LOOK_S)
    raise DemoFailed(f"jobs had not ended after {ALL_ENDED_WITHIN_S:g} s: {_open(client, sent)}")


def _open(client: Client, sent: dict[str, Planned]) -> str:
    jobs = {job.id: job.status for job in client.jobs(limit=PAGE).jobs}
    states = {planned.name: jobs.get(job_id, "unknown") for job_id, planned in sent.items()}
    return ", ".join(f"{name} {state}" for name, state in states.items() if state not in ENDED)


def _outcome(client: Client, job_id: str, planned: Planned) -> Happened:
    """The job and the results in its log. Lines may arrive a little after the job's end."""
    job = client.job(job_id)
    wanted = job.tasks if job.status == "succeeded" or planned.kind == ENDLESS else 0
    deadline = time.monotonic() + LOGS_WITHIN_S
    while True:
        results = results_in(client.logs(job_id))
        if len(results) >= wanted or time.monotonic() > deadline:
            return Happened(planned, job, results)
        time.sleep(LOOK_S)
