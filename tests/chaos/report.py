"""A chaos run in words: for people at a terminal, and as the Markdown that is kept."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

import psutil

from tests.chaos.checks import Findings
from tests.chaos.faults import Happening
from tests.chaos.figures import Effect, Rerun, longest_standstill, typical
from tests.chaos.history import History
from tests.chaos.options import LEASE_S, NODES, RERUN_WITHIN_S, Options
from tests.chaos.task import Run, TaskKey

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Account:
    """Everything that a run came to."""

    command: str
    options: Options
    began: datetime
    seconds: float
    happenings: list[Happening]
    submitted: int
    accepted: int
    histories: list[History]
    runs: dict[TaskKey, Run]
    reruns: list[Rerun]
    effects: list[Effect]
    findings: Findings
    views: list[str]
    left_out: list[str]

    @property
    def signals(self) -> int:
        """Kills, stops and restarts."""
        return sum(one.signals for one in self.happenings)

    @property
    def is_good(self) -> bool:
        return self.findings.is_clean


def lines(account: Account) -> Iterator[str]:
    """The whole report as Markdown, which is plain enough to be read as it is."""
    yield f"# Chaos run of {account.began:%Y-%m-%d}: {'PASSED' if account.is_good else 'FAILED'}"
    yield ""
    yield f"- Command: `{account.command}`, seed {account.options.seed}"
    yield f"- Machine: {_machine()}"
    yield (
        f"- Began {account.began:%Y-%m-%d %H:%M} UTC; {account.options.minutes:g} minutes of faults,"
        f" {account.seconds / 60:.1f} in all; leases of {LEASE_S} s, {len(NODES)} nodes in two pools"
        " on two shards, two engines"
    )
    yield from (f"- Left out: {text}" for text in account.left_out)
    yield ""
    yield from _verdict(account)
    yield from _figures(account)
    yield from _reruns(account)
    yield from _faults(account)


def _machine() -> str:
    memory = psutil.virtual_memory().total / GIB
    kernel = f"{platform.system()} {platform.release()}"
    python = f"Python {platform.python_version()}"
    return f"{psutil.cpu_count()} cores, {memory:.0f} GiB, {platform.machine()}, {kernel}, {python}"


def _verdict(account: Account) -> Iterator[str]:
    yield "## Verdict"
    yield ""
    yield "| what | found |"
    yield "| --- | ---: |"
    for name, found in account.findings.by_name().items():
        yield f"| {name} | {len(found)} |"
    yield ""
    if not account.is_good:
        yield from (f"    {text}" for text in account.findings.lines())
        yield ""
    yield "Views against the fold of the log:"
    yield ""
    yield from (f"    {text}" for text in account.views)
    yield ""


def _figures(account: Account) -> Iterator[str]:
    attempts = sum(
        sum(bool(one.placed) for one in job.attempts.values())
        for history in account.histories
        for job in history.jobs.values()
    )
    jobs = [job for history in account.histories for job in history.jobs.values()]
    ends = Counter(end for job in jobs for end in job.ends)
    yield "## Figures"
    yield ""
    yield "| what | how many |"
    yield "| --- | ---: |"
    yield f"| faults | {len(account.happenings)} |"
    yield f"| kills, stops and restarts among them | {account.signals} |"
    yield f"| jobs submitted (accepted) | {account.submitted} ({account.accepted}) |"
    yield f"| jobs in the log | {len(jobs)} |"
    yield f"| refused | {sum(len(history.refused) for history in account.histories)} |"
    for state, count in sorted(ends.items()):
        yield f"| of these {state} | {count} |"
    yield f"| gangs | {sum(bool(job.min_members) for job in jobs)} |"
    yield f"| attempts placed | {attempts} |"
    yield f"| retries | {sum(len(job.retries) for job in jobs)} |"
    yield f"| task processes that started | {sum(len(run.starts) for run in account.runs.values())} |"
    for name in ("claims", "counted", "skipped", "nodes_lost", "reports_refused"):
        total = sum(getattr(history, name) for history in account.histories)
        yield f"| {_WORDS[name]} | {total} |"
    yield f"| longest time without the start of a task, s | {longest_standstill(account.runs):.0f} |"
    yield ""


_WORDS = {
    "claims": "claims of shards (takeovers and starts)",
    "counted": "decisions that counted",
    "skipped": "records of the log that did not count",
    "nodes_lost": "node incarnations lost",
    "reports_refused": "reports refused",
}


def _reruns(account: Account) -> Iterator[str]:
    yield "## A killed node's jobs, until they ran elsewhere"
    yield ""
    seconds = [one.seconds for one in account.reruns if one.seconds is not None]
    if not seconds:
        yield "No node was killed under a long job."
        yield ""
        return
    kills = sum(bool(one.victims) for one in account.happenings)
    yield (
        f"kill -9 of a node's agent, supervisors and tasks at once, {kills} times under"
        f" {len(account.reruns)} running jobs: median {median(seconds):.1f} s, worst"
        f" {max(seconds):.1f} s from the kill to the next start, with a lease of {LEASE_S} s"
        f" (promised: {RERUN_WITHIN_S:g} s)."
    )
    yield ""
    yield "The same done to other queues, each with its default settings (a 6 s job, kill -9 of the"
    yield "worker's whole process tree after 1 s, a new worker at once, watched for 680 s, once each):"
    yield ""
    yield "| queue | the job ran again after |"
    yield "| --- | --- |"
    yield from (f"| {name} | {after} |" for name, after in PEERS)
    yield ""


PEERS = (
    ("pgqueuer", "31 s"),
    ("Dramatiq", "117 s"),
    ("arq", "309 s"),
    ("Celery, acks_late and reject_on_worker_lost", "not within 680 s"),
    ("Celery, RQ, taskiq (list broker), Procrastinate", "never by itself"),
)


def _faults(account: Account) -> Iterator[str]:
    yield "## Faults"
    yield ""
    yield (
        "Back: until the process or server was there and ready again. Standstill: the longest time"
        " without the start of any task, from the fault to 20 s after its end; faults overlap, so"
        " this puts one's standstill down to its neighbours too. Both as median / worst, in seconds."
    )
    yield ""
    yield "| fault | times | back | standstill |"
    yield "| --- | ---: | ---: | ---: |"
    for one in sorted(account.effects, key=lambda effect: effect.fault):
        yield f"| {one.fault} | {one.count} | {typical(one.back_s)} | {typical(one.still_s)} |"
    yield ""
    targets = Counter(one.target for one in account.happenings if one.signals)
    told = ", ".join(f"{name} {count}" for name, count in sorted(targets.items()))
    yield f"Killed, stopped or restarted: {told}."


def now() -> datetime:
    return datetime.now(UTC)
