"""What users do in a simulated run: jobs of many kinds, cancels, a queue that is paused and opened.

A client sends each command until it is acknowledged, as any client should, so some come twice. A
task's command tells the simulated executor everything: how long, which exit code, how it dies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from schemas.codec import encode
from schemas.commands import CancelJob, Dependency, PutPool, PutQueue, SubmitJob
from schemas.ids import format_job_id, job_id, partition_of
from schemas.terms import Condition, JobSpec, JobTerms, QueueState
from schemas.topics import COMMANDS
from tests.simulation.kafka import Kafka
from tests.simulation.world import SECOND

TIMEOUT_S = 1.2
RETRY_US = 300_000
SETUP_US = SECOND // 2
"""Pools and queues are made first; nothing else is sent before they are acknowledged."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One command, and when it is first sent. `key` is "" for what is no submission."""

    at_us: int
    step: str
    shard: int
    value: bytes
    key: str = ""
    job_id: bytes = b""


@dataclass
class Workload:
    """Everything that users want in one run."""

    chance: Random
    pools: list[str]
    shards: int
    span_us: int
    wishes: list[Wish] = field(default_factory=list)
    _keys: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    _number: int = 0

    def plan(self) -> list[Wish]:
        """All wishes, in the order of their times."""
        for pool in self.pools:
            if pool != "default":
                self._wish(0, "submit", pool, PutPool(pool, "the other one", "operator"))
            queue = PutQueue(pool, "research", QueueState.OPEN, "", "operator")
            self._wish(SETUP_US, "submit", pool, queue)
        for _ in range(self.chance.randint(30, 34)):
            self._submit(gang=False)
        for _ in range(self.chance.randint(5, 6)):
            self._submit(gang=True)
        for _ in range(self.chance.randint(6, 9)):
            self._cancel()
        for state, at_us in ((QueueState.PAUSED, 4), (QueueState.OPEN, 9)):
            pool = self.pools[0]
            queue = PutQueue(pool, "research", state, "", "operator")
            self._wish(at_us * SECOND, "submit", pool, queue)
        self.wishes.sort(key=lambda wish: wish.at_us)
        return self.wishes

    def _wish(self, at_us: int, step: str, pool: str, command: Any, **who: Any) -> None:
        shard = partition_of(pool, self.shards)
        self.wishes.append(Wish(at_us, step, shard, encode(command), **who))

    def _submit(self, *, gang: bool) -> None:
        chance = self.chance
        self._number += 1
        key = f"job-{self._number}"
        pool = self.pools[self._number % len(self.pools)]
        at_us = SECOND + int(chance.random() * self.span_us)
        terms, command = self._terms(pool, gang=gang)
        shard = partition_of(pool, self.shards)
        raw = job_id(shard, "default", pool, key)
        spec = JobSpec("training", name=key, command=command)
        priority = chance.choice((-1, 0, 50, 100))
        depends_on = () if gang else self._dependencies(pool, at_us)
        submit = SubmitJob(terms, key, priority, depends_on, 0, "someone", spec)
        self._keys.setdefault(pool, []).append((at_us, raw))
        self._wish(at_us, "submit", pool, submit, key=key, job_id=raw)

    def _terms(self, pool: str, *, gang: bool) -> tuple[JobTerms, tuple[str, ...]]:
        chance = self.chance
        tasks = chance.choice((2, 2, 3, 4)) if gang else chance.choice((1, 1, 1, 1, 2, 3))
        length_ms = int(50 * 60 ** chance.random()) if chance.random() < 0.9 else 6_000
        fails = chance.choice((0, 0, 0, 0, 1, 1, 2, 9))
        codes = "".join("1" if attempt < fails else "0" for attempt in range(10))
        timeout_s = chance.choice((600, 600, 600, 2))
        cpu_milli = chance.choice((500, 1000) if gang else (500, 1000, 1000, 2500))
        if not gang and chance.random() < 0.3:
            # On two nodes and soon over: one may be told to stop before it was told to start.
            tasks, length_ms, codes, cpu_milli = 2, 20, "1110000000", 2500
        terms = JobTerms(
            pool=pool,
            queue=chance.choice(("", "", "research")),
            tasks=tasks,
            min_members=tasks if gang else 0,
            cpu_milli=cpu_milli,
            memory_mib=chance.choice((256, 1024, 3000)),
            gpu_milli=chance.choice((0, 500) if gang else (0, 0, 0, 500, 1000)),
            timeout_s=timeout_s,
            start_timeout_s=chance.choice((300, 300, 5)),
            grace_s=chance.choice((0, 1, 1)),
            max_retries=chance.choice((0, 1, 2, 3)),
            backoff_s=1,
            backoff_max_s=2,
        )
        return terms, ("run", str(length_ms), codes, chance.choice("110"))

    def _dependencies(self, pool: str, at_us: int) -> tuple[Dependency, ...]:
        """One job that was sent well before; now and then its end comes before us, or too late."""
        known = [raw for sent_us, raw in self._keys.get(pool, []) if sent_us < at_us - SECOND // 2]
        if not known or self.chance.random() < 0.8:
            return ()
        other = self.chance.choice(known)
        condition = self.chance.choice((Condition.SUCCEEDED, Condition.ENDED))
        return (Dependency(format_job_id(other), condition),)

    def _cancel(self) -> None:
        submitted = [wish for wish in self.wishes if wish.key][:-3]  # the last are gangs
        wish = self.chance.choice(submitted)
        pool = next(one for one in self.pools if partition_of(one, self.shards) == wish.shard)
        span_us = self.chance.choice((SECOND // 3, 4 * SECOND))
        at_us = wish.at_us + int(self.chance.random() * span_us)
        command = CancelJob(format_job_id(wish.job_id), "no longer needed", "someone")
        self._wish(at_us, "cancel", pool, command)


class Client:
    """Sends every wish at its time, and again until it is acknowledged. Its list is on a disk."""

    def __init__(self, kafka: Kafka, wishes: list[Wish], pool_of: dict[int, str]) -> None:
        self.kafka = kafka
        self.wishes = wishes
        self.pool_of = pool_of
        self.accepted: dict[int, None] = {}

    @property
    def is_done(self) -> bool:
        """Whether everything was acknowledged."""
        return len(self.accepted) == len(self.wishes)

    def open_queue(self, pool: str, shard: int) -> None:
        """An operator finds a queue paused by a command that came late, and opens it."""
        queue = PutQueue(pool, "research", QueueState.OPEN, "", "operator")
        now_us = self.kafka.world.now_us
        self.wishes.append(Wish(now_us, "submit", shard, encode(queue)))

    def run(self) -> None:
        """Until all is acknowledged, whatever start of the client this is."""
        world = self.kafka.world
        process = world.me()
        due = {
            number: wish.at_us
            for number, wish in enumerate(self.wishes)
            if number not in self.accepted
        }
        known = len(self.wishes)
        while True:
            due.update(dict.fromkeys(range(known, len(self.wishes)), 0))
            known = len(self.wishes)
            for number, at_us in list(due.items()):
                if number in self.accepted:
                    del due[number]
                    continue
                if at_us <= world.now_us:
                    due[number] = world.now_us + int(TIMEOUT_S * SECOND) + RETRY_US
                    self._send(number)
                if self.wishes[number].at_us <= SETUP_US:
                    break
            ahead = min(due.values(), default=world.now_us + SECOND) - world.now_us
            process.wait(max(1_000, min(ahead, SECOND)), wakeable=True)

    def _send(self, number: int) -> None:
        wish = self.wishes[number]

        def on_result(_offset: int | None, error: str | None) -> None:
            if error is None:
                self.accepted[number] = None

        where = ((COMMANDS.name, wish.shard), self.pool_of[wish.shard])
        self.kafka.send(wish.step, where, wish.value, on_result, TIMEOUT_S)
