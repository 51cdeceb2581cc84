"""A scheduler written the slow and obvious way, to hold the real core against.

No lanes, no timers' heap, no caches: every question is answered by walking everything. It shares
with the core only the words and the backoff's arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from schemas.terms import FailureClass, JobState, JobTerms
from stream_processors.domain.retries import backoff_us

NONE = FailureClass.NONE
FREE = (FailureClass.NODE_LOST, FailureClass.CANCELLED)
OWN = {FailureClass.IMAGE_ERROR: 0, FailureClass.INFRASTRUCTURE: 10}
BLAMED = (
    FailureClass.USER_ERROR,
    FailureClass.TIMEOUT,
    FailureClass.NODE_LOST,
    FailureClass.INFRASTRUCTURE,
)
SECOND = 1_000_000


@dataclass
class ModelTask:
    node: str
    devices: bytes
    phase: str = "placed"
    reached: str = "placed"
    failure: FailureClass = NONE


@dataclass
class ModelJob:
    no: int
    job_id: bytes
    terms: JobTerms
    priority: int
    needs: dict[int, bool]
    submitted_at: int
    state: JobState = JobState.QUEUED
    attempt: int = 0
    tasks: dict[int, ModelTask] = field(default_factory=dict)
    ending: FailureClass = NONE
    cancelled: bool = False
    used: int = 0
    due: int = 0
    placed_at: int = 0
    started_at: int = 0
    own_used: dict[FailureClass, int] = field(default_factory=dict)
    avoid: list[str] = field(default_factory=list)
    overdue: bool = False

    @property
    def ended(self) -> bool:
        return self.state in (
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.DEAD_LETTER,
            JobState.CANCELLED,
        )

    @property
    def alive(self) -> list[ModelTask]:
        return [task for task in self.tasks.values() if task.phase != "ended"]


@dataclass
class Model:
    jobs: dict[int, ModelJob] = field(default_factory=dict)
    nodes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    draining: set[str] = field(default_factory=set)
    paused: set[str] = field(default_factory=set)
    retries_on: bool = True

    def free(self, name: str) -> tuple[int, int, list[int]]:
        cpu, memory, gpus = self.nodes[name]
        devices = [1000] * gpus
        for job in self.jobs.values():
            for task in job.alive:
                if task.node == name:
                    cpu -= job.terms.cpu_milli
                    memory -= job.terms.memory_mib
                    for index in task.devices:
                        devices[index] -= min(1000, job.terms.gpu_milli)
        return cpu, memory, devices

    def fits(self, name: str, terms: JobTerms) -> bytes | None:
        cpu, memory, devices = self.free(name)
        if name in self.draining or cpu < terms.cpu_milli or memory < terms.memory_mib:
            return None
        if terms.gpu_milli == 0:
            return b""
        if terms.gpu_milli < 1000:
            fitting = [(free, i) for i, free in enumerate(devices) if free >= terms.gpu_milli]
            return bytes([min(fitting)[1]]) if fitting else None
        whole = [i for i, free in enumerate(devices) if free == 1000]
        count = terms.gpu_milli // 1000
        return bytes(whole[:count]) if len(whole) >= count else None

    def cancel(self, no: int) -> None:
        job = self.jobs[no]
        if job.tasks:
            job.cancelled = True
            job.ending = job.ending if job.ending is not NONE else FailureClass.CANCELLED
        else:
            job.state = JobState.CANCELLED

    def lose(self, name: str) -> None:
        del self.nodes[name]
        self.draining.discard(name)
        for job in self.jobs.values():
            for task in job.alive:
                if task.node == name:
                    task.reached = task.phase
                    task.phase, task.failure = "ended", FailureClass.NODE_LOST

    def step(self, now: int) -> None:
        """All that follows by itself, in the order that the core promises."""
        self._settle(now)
        for job in self.jobs.values():
            if job.state is JobState.RETRYING and job.due <= now and self.retries_on:
                job.state = JobState.QUEUED
            if job.ending is NONE and job.tasks:
                self._expire(job, now)
            due = job.submitted_at + job.terms.deadline_s * SECOND
            if job.terms.deadline_s and now >= due and not job.ended:
                self._pass_deadline(job)
        self._settle(now)
        self._place(now)

    def _settle(self, now: int) -> None:
        while sum(self._move_on(job, now) for job in self.jobs.values()) > 0:
            pass

    def _pass_deadline(self, job: ModelJob) -> None:
        job.overdue = True
        if not job.tasks:
            job.state = JobState.FAILED
        elif job.ending is NONE:
            job.ending = FailureClass.TIMEOUT

    def _expire(self, job: ModelJob, now: int) -> None:
        if job.state is JobState.RUNNING:
            if now - job.started_at >= job.terms.timeout_s * SECOND:
                job.ending = FailureClass.TIMEOUT
        elif now - job.placed_at >= job.terms.start_timeout_s * SECOND:
            job.ending = FailureClass.START_TIMEOUT

    def _move_on(self, job: ModelJob, now: int) -> bool:
        if job.state is JobState.QUEUED and not job.tasks:
            return self._check_needs(job)
        if not job.tasks:
            return False
        failed = [task.failure for _, task in sorted(job.tasks.items()) if task.failure is not NONE]
        whole = len(job.tasks) == job.terms.tasks
        if not job.alive and (whole or failed or job.ending is not NONE):
            self._conclude(job, failed, now)
            return True
        if job.ending is not NONE:
            return False
        if failed:
            job.ending = failed[0]
            return True
        begun = [task.phase in ("started", "ended") for task in job.tasks.values()]
        runs = (all(begun) and whole) if job.terms.min_members else any(begun)
        if job.state is JobState.SCHEDULED and runs:
            job.state, job.started_at = JobState.RUNNING, now
        return False

    def _check_needs(self, job: ModelJob) -> bool:
        for no, succeeds in job.needs.items():
            other = self.jobs[no]
            if other.ended and succeeds and other.state is not JobState.SUCCEEDED:
                job.state = JobState.CANCELLED
                return True
        return False

    def _conclude(self, job: ModelJob, failed: list[FailureClass], now: int) -> None:
        cause = job.ending if job.ending is not NONE else (failed[0] if failed else NONE)
        if job.cancelled:
            job.state = JobState.CANCELLED
        elif cause is NONE:
            job.state = JobState.SUCCEEDED
        elif job.overdue or OWN.get(cause) == 0:
            job.state = JobState.FAILED
        elif self._is_spent(job, cause):
            job.state = JobState.DEAD_LETTER
        else:
            self._retry(job, cause, now)
        job.tasks, job.ending = {}, NONE

    def _is_spent(self, job: ModelJob, cause: FailureClass) -> bool:
        if cause in OWN:
            return job.own_used.get(cause, 0) >= OWN[cause]
        own = sum(job.own_used.values())
        return cause not in FREE and job.used - own >= job.terms.max_retries

    def _retry(self, job: ModelJob, cause: FailureClass, now: int) -> None:
        nth = 1 if cause in FREE else job.used + 1
        if cause in OWN:
            nth = job.own_used[cause] = job.own_used.get(cause, 0) + 1
        job.used += cause not in FREE
        job.state = JobState.RETRYING
        delay = backoff_us(job.terms, job.job_id, job.attempt, nth)
        job.due = now if cause is FailureClass.NODE_LOST else now + delay
        guilty = [task for task in job.tasks.values() if task.failure is cause]
        if cause is FailureClass.START_TIMEOUT:
            steps = ("placed", "ready", "started")
            least = min(steps.index(task.reached) for task in job.tasks.values())
            late = [task for task in job.tasks.values() if steps.index(task.reached) == least]
            guilty = late if least < 2 else []
        elif cause not in BLAMED:
            guilty = []
        for task in guilty:
            if task.node not in job.avoid:
                job.avoid.append(task.node)
        if cause is FailureClass.OUT_OF_MEMORY:
            memory = job.terms.memory_mib
            largest = max((self.nodes[name][1] for name in self._admitting(job)), default=0)
            grown = min(-(-memory * 3 // 2), job.terms.memory_max_mib, largest)
            job.terms = replace(job.terms, memory_mib=max(memory, grown))

    def _admitting(self, job: ModelJob) -> list[str]:
        del job
        return [name for name in self.nodes if name not in self.draining]

    def _allowed(self, job: ModelJob) -> list[str]:
        """Where it may go: away from where it failed, if the rest would do were it all free."""
        others = [name for name in self._admitting(job) if name not in job.avoid]
        room = 0
        for name in others:
            cpu, memory, gpus = self.nodes[name]
            terms = job.terms
            parts = [cpu // terms.cpu_milli, memory // terms.memory_mib]
            if terms.gpu_milli >= 1000:
                parts.append(gpus // (terms.gpu_milli // 1000))
            elif terms.gpu_milli:
                parts.append(gpus * (1000 // terms.gpu_milli))
            room += min(parts)
        needed = job.terms.tasks if job.terms.min_members else 1
        return others if room >= needed else list(self.nodes)

    def _place(self, now: int) -> None:
        for job in sorted(self.jobs.values(), key=lambda job: (-job.priority, job.no)):
            unplaced = job.state in (JobState.QUEUED, JobState.SCHEDULED, JobState.RUNNING)
            if not unplaced or job.ending is not NONE or job.terms.queue in self.paused:
                continue
            if any(not self.jobs[no].ended for no in job.needs):
                continue
            self._place_job(job, now)

    def _place_job(self, job: ModelJob, now: int) -> None:
        before = dict(job.tasks)
        allowed = self._allowed(job)
        while len(job.tasks) < job.terms.tasks:
            place = next(
                (
                    ModelTask(name, devices)
                    for name in self.nodes
                    if name in allowed and (devices := self.fits(name, job.terms)) is not None
                ),
                None,
            )
            if place is None:
                break
            job.tasks[len(job.tasks)] = place
        if job.terms.min_members and len(job.tasks) < job.terms.tasks:
            job.tasks = before
        if job.tasks and job.state is JobState.QUEUED:
            job.state, job.placed_at = JobState.SCHEDULED, now
            job.attempt += 1
