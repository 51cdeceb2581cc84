"""The verdict: what was lost, doubled, orphaned, torn or diverged, from four independent witnesses.

The log by a reader of its own (`history.py`), the journal that the tasks wrote (`task.py`), the
processes that were seen alive (`watch.py`), and what callers get: the API's list and the public
topics. The views are also compared with the fold by the product's own `verify`.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from schemas.codec import decode
from schemas.public import DeadLetter, JobEvent
from schemas.terms import ENDED_STATES
from schemas.topics import DEAD_LETTERS, JOB_EVENTS, JOB_RETRIES
from tests.chaos.history import History, JobHistory, read_topic
from tests.chaos.jobs import Job
from tests.chaos.options import LEASE_S
from tests.chaos.task import Run, TaskKey
from tests.chaos.watch import Sighting
from tests.chaos.world import Silence

SLACK_S = 0.75
"""Between a process's death and its last sighting before it, and for a kill to be done."""
CUT_S = 0.011
"""The journal's times are cut to hundredths of a second."""
SHOWN = 8
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE")


@dataclass(slots=True)
class Findings:
    """Sentences by what they are about; all empty where nothing was found."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    diverged: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def by_name(self) -> dict[str, list[str]]:
        names = ("lost", "doubled", "orphaned", "torn", "diverged", "other")
        return {name: getattr(self, name) for name in names}

    @property
    def is_clean(self) -> bool:
        return not any(self.by_name().values())

    def lines(self) -> Iterator[str]:
        for name, found in self.by_name().items():
            yield f"{name}: {len(found)}"
            yield from (f"  {text}" for text in found[:SHOWN])


def check_log(jobs: Mapping[str, Job], histories: list[History], found: Findings) -> None:
    """Every accepted submission is one job, which ended once and as its kind must."""
    known: dict[str, JobHistory] = {}
    for history in histories:
        for entry in history.jobs.values():
            if entry.job_id in known:
                found.doubled.append(f"{entry.job_id} is two jobs of the log")
            known[entry.job_id] = entry
    refused = {job: code for history in histories for job, code in history.refused.items()}
    for job_id, job in jobs.items():
        kept = known.get(job_id)
        if kept is None:
            if job_id in refused and not job.kind.may_be_refused:
                found.other.append(f"{job_id} ({job.kind.name}) was refused: {refused[job_id]}")
            elif job.accepted_at is not None and job_id not in refused:
                found.lost.append(f"{job_id} ({job.kind.name}) was accepted and is not in the log")
            continue
        _check_job(job, kept, found)
    for job_id, kept in known.items():
        found.other += [f"{job_id}: {breach}" for breach in kept.breaches]
        if job_id not in jobs:
            found.other.append(f"{job_id} is in the log and was never submitted")


def _check_job(job: Job, kept: JobHistory, found: Findings) -> None:
    who = f"{kept.job_id} ({job.kind.name})"
    if not kept.ends:
        found.lost.append(f"{who} never ended; its attempts ended as {_ends(kept)}")
    elif len(kept.ends) > 1:
        found.doubled.append(f"{who} ended {len(kept.ends)} times: {kept.ends}")
    elif kept.ends[0] not in job.kind.final:
        found.other.append(f"{who} ended as {kept.ends[0]}; attempts: {_ends(kept)}")
    if kept.cost > kept.max_retries:
        found.other.append(f"{who} was retried {kept.cost} times with a budget {kept.max_retries}")
    if kept.min_members:
        for number, attempt in kept.attempts.items():
            if attempt.placed and (
                len(attempt.placed) != kept.min_members or len(attempt.records) != 1
            ):
                found.torn.append(f"attempt {number} of {who} was placed in pieces")


def _ends(kept: JobHistory) -> str:
    return ", ".join(f"{number}: {one.end or 'open'}" for number, one in kept.attempts.items())


def check_runs(
    runs: Mapping[TaskKey, Run],
    sightings: list[Sighting],
    histories: list[History],
    found: Findings,
) -> None:
    """No task started twice, no two attempts of a job at one time, no gang partly run."""
    spans: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for key, run in runs.items():
        if len(run.starts) != 1:
            found.doubled.append(f"task {_name(key)} started {len(run.starts)} times")
        _widen(spans, key, min(run.starts, default=run.last), run.last)
    for one in sightings:
        _widen(spans, one.key, one.started, one.last_seen)
    for job_id, attempts in spans.items():
        numbers = sorted(attempts)
        for earlier, later in itertools.pairwise(numbers):
            late_s = attempts[earlier][1] - attempts[later][0]
            if late_s > CUT_S:
                found.doubled.append(
                    f"attempt {earlier} of {job_id} lived {late_s:.2f} s into attempt {later}"
                )
    for history in histories:
        for kept in history.jobs.values():
            _check_members(kept, runs, found)


def _widen(
    spans: dict[str, dict[int, tuple[float, float]]], key: TaskKey, first: float, last: float
) -> None:
    job_id, attempt, _ = key
    begun, ended = spans[job_id].get(attempt, (first, last))
    spans[job_id][attempt] = (min(begun, first), max(ended, last))


def _check_members(kept: JobHistory, runs: Mapping[TaskKey, Run], found: Findings) -> None:
    """What the log says of a job against what its tasks wrote."""
    for number, attempt in kept.attempts.items():
        ran = {task for task in range(kept.tasks) if (kept.job_id, number, task) in runs}
        who = f"attempt {number} of {kept.job_id}"
        if kept.min_members and ran and not attempt.is_released:
            found.torn.append(f"{who}: tasks {sorted(ran)} ran before the barrier opened")
        if attempt.end == "succeeded":
            done = {task for task in ran if runs[kept.job_id, number, task].has_succeeded}
            if len(done) != kept.tasks:
                where = found.torn if kept.min_members else found.lost
                where.append(f"{who} succeeded, but of {kept.tasks} tasks only {sorted(done)} did")


def check_orphans(
    sightings: list[Sighting], alive: list[Sighting], silences: list[Silence], found: Findings
) -> None:
    """No process of a task outlived its node's lease, or is there after the end of everything."""
    for one in alive:
        found.orphaned.append(f"task {_name(one.key)} still runs on {one.node} after the end")
    for silence in silences:
        if silence.ended is None or silence.ended - silence.began < LEASE_S:
            continue
        over = silence.began + LEASE_S + SLACK_S
        for one in sightings:
            is_of_it = one.node == silence.node and one.started < silence.began
            if is_of_it and over < one.last_seen:
                late_s = one.last_seen - silence.began - LEASE_S
                found.orphaned.append(
                    f"task {_name(one.key)} on {one.node} lived {late_s:.2f} s past its lease"
                )


def check_agents_journals(agents: Path, found: Findings) -> None:
    """What the agents themselves still hold to be running, after the end of everything."""
    for path in sorted(agents.glob("*/journal")):
        _, *rows = (json.loads(line) for line in path.read_text().splitlines())
        held: dict[int, tuple[int, int]] = {}
        for row in rows:
            if len(row) == 1:
                held.pop(row[0], None)
            else:
                held[row[0]] = (row[2], row[3])
        for pid, start in held.values():
            found.orphaned.append(
                f"{path.parent.name} still holds process {pid} (started at tick {start})"
            )


def check_crashes(logs: Iterable[Path], ends: Mapping[str, list[str]], found: Findings) -> None:
    """Nobody but the storm ends a process by a signal: what else does is a crash in a library."""
    for log in logs:
        for name, how in re.findall(r"^  (\S+) +ended by (SIG\w+)", log.read_text(), re.MULTILINE):
            if how in CRASHES:
                found.other.append(f"{name} crashed: {how}, see {log.parent}/logs/{name}.log")
    for name, said in ends.items():
        codes = {f"ended with {-signal.Signals[how]}" for how in CRASHES}
        found.other += [f"{name} crashed: {one}" for one in said if one in codes]


def _name(key: TaskKey) -> str:
    return "/".join(map(str, key))


def check_answers(
    states: Mapping[str, str], bootstrap: str, histories: list[History], found: Findings
) -> None:
    """What the API lists and what the public topics told, against the log."""
    known = {kept.job_id: kept for one in histories for kept in one.jobs.values()}
    for job_id, kept in known.items():
        if kept.ends and states.get(job_id) != kept.ends[-1]:
            told = states.get(job_id, "nothing")
            found.diverged.append(f"the API says {told} of {job_id}, the log {kept.ends[-1]}")
    _check_events(bootstrap, known, found)
    _check_counts(bootstrap, known, found)


def _check_events(bootstrap: str, known: Mapping[str, JobHistory], found: Findings) -> None:
    seen: dict[bytes, bytes] = {}
    told: dict[str, list[str]] = defaultdict(list)
    for message in read_topic(bootstrap, JOB_EVENTS.name, JOB_EVENTS.partitions):
        event_id = dict(message.headers)["ce_id"]
        if seen.setdefault(event_id, message.value) != message.value:
            found.diverged.append(f"event {event_id!r} was told twice with different content")
            continue
        event = decode(message.value)
        assert isinstance(event, JobEvent)
        if event.state in ENDED_STATES:
            told[event.job_id].append(f"{event_id.decode()} {event.state}")
    for job_id, kept in known.items():
        ends = [one.split()[1] for one in dict.fromkeys(told[job_id])]
        if ends != kept.ends:
            found.diverged.append(f"events told ends {ends} of {job_id}, the log {kept.ends}")


def _check_counts(bootstrap: str, known: Mapping[str, JobHistory], found: Findings) -> None:
    """Retries and dead letters: each told, by distinct ids, as often as it is in the log."""
    retries: dict[str, set[bytes]] = defaultdict(set)
    letters: dict[str, set[bytes]] = defaultdict(set)
    for message in read_topic(bootstrap, JOB_RETRIES.name, JOB_RETRIES.partitions):
        retries[decode(message.value).job_id].add(dict(message.headers)["ce_id"])
    for message in read_topic(bootstrap, DEAD_LETTERS.name, DEAD_LETTERS.partitions):
        letter = decode(message.value)
        if isinstance(letter, DeadLetter):
            letters[letter.job_id].add(dict(message.headers)["ce_id"])
    for job_id, kept in known.items():
        if len(retries[job_id]) != len(kept.retries):
            text = f"{len(retries[job_id])} retries of {job_id} were told of {len(kept.retries)}"
            found.diverged.append(text)
        if len(letters[job_id]) != kept.ends.count("dead_letter"):
            found.diverged.append(f"{len(letters[job_id])} dead letters of {job_id}")
