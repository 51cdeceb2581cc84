"""Keeps jobs flowing: most in batches by Kafka, the others one by one through the API.

Open loop at a rate, pausing only while too much is under way. Whatever has no answer is sent again
with the same key until it is accepted, so every submission must be in the log in the end, once.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread

import httpx

from infra.kafka import Sender
from schemas.codec import encode
from schemas.commands import SubmitJobs
from schemas.topics import COMMANDS
from tests.chaos.jobs import BY_NAME, CHILD, KINDS, ORPHAN, POOLS, Job, Kind, Writer, terms_of
from tests.chaos.options import Options
from tests.chaos.world import World, boot_s

TURN_S = 0.25
AGAIN_S = 0.3
ANSWER_WITHIN_S = 15.0
WORKERS = 6
CANCEL_WITHIN_S = 4.0
LONG_JOBS = 6

Story = list[Job]
"""Submitted one after the other; a later one waits for the first."""


@dataclass
class Load:
    """`jobs` is everything ever sent, by id. `problems` is what the API should not have said."""

    world: World
    options: Options
    writer: Writer
    ended: Callable[[], int]
    jobs: dict[str, Job] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    api_gaps: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.options.seed)
        self._stories: SimpleQueue[Story] = SimpleQueue()
        self._stop = Event()
        self._give_up = Event()
        self._lock = Lock()
        self._accepted = 0
        self._open_stories = 0
        self._number = 0
        self._specs: dict[str, tuple[int, bytes]] = {}
        self._sender = Sender(self.world.direct.bootstrap)
        self._in_doubt: list[tuple[str, bytes, list[Job]]] = []
        threads = [Thread(target=self._feed, name="load", daemon=True)]
        threads += [Thread(target=self._work, name="api-load", daemon=True) for _ in range(WORKERS)]
        self._threads = threads
        for thread in threads:
            thread.start()

    @property
    def accepted(self) -> int:
        return self._accepted

    def stop(self, within_s: float) -> bool:
        """Make no more jobs; True if everything that was made was accepted in time."""
        self._stop.set()
        deadline = time.monotonic() + within_s
        while self._is_open() and time.monotonic() < deadline:
            time.sleep(AGAIN_S)
        is_done = not self._is_open()
        self._give_up.set()
        for thread in self._threads:
            thread.join()
        self._sender.close()
        return is_done

    def _is_open(self) -> bool:
        with self._lock:
            waiting = self._open_stories or self._in_doubt
        return bool(waiting) or any(job.accepted_at is None for job in list(self.jobs.values()))

    def ask_long(self, pool: str) -> list[Job]:
        """Some more long jobs, at once."""
        jobs = [self._job(BY_NAME["long"], pool) for _ in range(LONG_JOBS)]
        for job in jobs:
            self._tell(job)
        return jobs

    # -- making jobs

    def _feed(self) -> None:
        due = time.monotonic()
        while not self._give_up.is_set():
            now = time.monotonic()
            is_full = len(self.jobs) - self.ended() > self.options.outstanding_max
            if is_full or self._stop.is_set() or now < due:
                due = max(due, now)
            else:
                due += TURN_S
                self._make(self.options.rate * TURN_S)
            self._send_again()
            self._sender.poll(max(0.02, min(due - time.monotonic(), TURN_S)))

    def _make(self, amount: float) -> None:
        count = int(amount) + (self._chance.random() < amount % 1)
        bulk: dict[str, list[Job]] = defaultdict(list)
        for _ in range(count):
            kind = self._chance.choices(KINDS, [kind.share for kind in KINDS])[0]
            job = self._job(kind, self._chance.choice(POOLS))
            if kind.bulk:
                bulk[job.pool].append(job)
            else:
                self._tell(job)
        for pool, jobs in bulk.items():
            self._send(pool, self._batch(pool, jobs), jobs)

    def _job(self, kind: Kind, pool: str, parent: str = "") -> Job:
        with self._lock:
            self._number += 1
            job = Job(f"{self.options.seed}-{self._number}", kind, pool, parent)
            self.jobs[job.id] = job
        return job

    def _tell(self, job: Job) -> None:
        story = [job]
        if job.kind in (BY_NAME["parent"], BY_NAME["broken-parent"]):
            kind = CHILD if job.kind.name == "parent" else ORPHAN
            story += [self._job(kind, job.pool, job.id) for _ in range(2)]
        with self._lock:
            self._open_stories += 1
        self._stories.put(story)

    # -- by Kafka

    def _batch(self, pool: str, jobs: list[Job]) -> bytes:
        kinds = sorted({job.kind.name for job in jobs})
        specs = {name: self._spec(BY_NAME[name]) for name in kinds}
        return encode(
            SubmitJobs(
                terms=[terms_of(BY_NAME[name], pool) for name in kinds],
                terms_of=[kinds.index(job.kind.name) for job in jobs],
                idempotency_keys=[job.key for job in jobs],
                priorities=[0] * len(jobs),
                key_id=0,
                actor="chaos",
                spec_schema_id=specs[kinds[0]][0],
                specs=[specs[job.kind.name][1] for job in jobs],
            )
        )

    def _spec(self, kind: Kind) -> tuple[int, bytes]:
        if kind.name not in self._specs:
            self._specs[kind.name] = self.writer.spec(kind)
        return self._specs[kind.name]

    def _send(self, pool: str, value: bytes, jobs: list[Job]) -> None:
        def on_result(_offset: int | None, error: str | None) -> None:
            if error is None:
                self._accept(jobs)
            else:
                with self._lock:
                    self._in_doubt.append((pool, value, jobs))

        self._sender.send(COMMANDS.name, value, key=pool, on_result=on_result)

    def _send_again(self) -> None:
        if self._sender.fatal is not None:
            self._sender.close()
            self._sender = Sender(self.world.direct.bootstrap)
        with self._lock:
            again, self._in_doubt = self._in_doubt, []
        for one in again:
            self._send(*one)

    def _accept(self, jobs: list[Job]) -> None:
        now = boot_s()
        with self._lock:
            for job in jobs:
                if job.accepted_at is None:
                    job.accepted_at = now
                    self._accepted += 1

    # -- through the API

    def _work(self) -> None:
        with httpx.Client(base_url=self.world.api, timeout=ANSWER_WITHIN_S) as http:
            while not self._give_up.is_set():
                try:
                    story = self._stories.get(timeout=TURN_S)
                except Empty:
                    continue
                self._play(http, story)
                with self._lock:
                    self._open_stories -= 1

    def _play(self, http: httpx.Client, story: Story) -> None:
        for job in story:
            began = time.monotonic()
            headers = {"Idempotency-Key": job.key}
            body = self.writer.body(job)
            if self._insist(lambda: http.post("/jobs/", json=body, headers=headers), {200, 201}):  # noqa: B023 - called at once
                self._accept([job])
                self.api_gaps.append(time.monotonic() - began)
        if story[0].kind.name == "cancelled":
            self._cancel(http, story[0])

    def _cancel(self, http: httpx.Client, job: Job) -> None:
        time.sleep(random.Random(job.key).random() * CANCEL_WITHIN_S)
        ask = f"/jobs/{job.id}"
        answer = self._insist(lambda: http.delete(ask), {202, 409})
        if answer is not None and answer.status_code == 202:
            job.cancelled_at = boot_s()

    def _insist(self, ask: Callable[[], httpx.Response], good: set[int]) -> httpx.Response | None:
        """Ask until the answer is good; None after giving up, or for an answer that is a problem."""
        while not self._give_up.is_set():
            try:
                answer: httpx.Response | None = ask()
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code in good:
                return answer
            if answer is not None and answer.status_code not in (404, 429, 500, 503):
                self.problems.append(f"{answer.status_code}: {answer.text[:300]}")
                return None
            if answer is not None and answer.status_code == 500:
                self.problems.append(f"500: {answer.text[:300]}")
            self._give_up.wait(AGAIN_S)
        return None
