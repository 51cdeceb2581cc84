"""The executor without processes: tasks are scripts on a clock that is handed in.

For tests and the simulator. It passes the same contract suite as the process executor: what it
says and when, leases and graces included, is what that one would say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from workers.executor import (
    Cause,
    Ended,
    Prepared,
    Rendezvous,
    Started,
    TaskKey,
    TaskNews,
    TaskOrder,
    Wrote,
)
from workers.progress import why_stuck
from workers.tail import Tail

NS = 1_000_000_000
NEVER_NS = 1 << 62
SIGKILLED = -9
SIGTERMED = -15


@dataclass(frozen=True, slots=True)
class Script:
    """What a task does: writes `lines`, runs for a while, and ends with this code.

    `progress_at_s` are the moments, from its start, at which it reports progress, in order.
    """

    runs_s: float = 0.0
    exit_code: int = 0
    is_found: bool = True
    heeds_sigterm: bool = True
    lines: list[str] = field(default_factory=list)
    progress_at_s: tuple[float, ...] = ()


@dataclass(slots=True)
class _Task:
    """One script under way."""

    order: TaskOrder
    script: Script
    ends_at_ns: int
    sticks_at_ns: int = NEVER_NS
    is_announced: bool = False
    cause: Cause = Cause.EXITED
    exit_code: int = 0


class MemoryExecutor:
    """`script_of` says what an order's task would do; `clock` is nanoseconds of the boot clock."""

    def __init__(self, script_of: Callable[[TaskOrder], Script], clock: Callable[[], int]) -> None:
        self._script_of = script_of
        self._clock = clock
        self._prepared: dict[TaskKey, TaskOrder] = {}
        self._tasks: dict[TaskKey, _Task] = {}
        self._news: list[TaskNews] = []
        self._deadline_ns = 0
        self._next_port = 20_000
        self.started: list[tuple[TaskOrder, Rendezvous | None]] = []

    def prepare(self, order: TaskOrder) -> None:
        """A place is always found."""
        self._prepared[order.key] = order
        self._next_port += 1
        endpoint = f"127.0.0.1:{self._next_port}" if order.key.task == 0 else ""
        self._news.append(Prepared(order.key, endpoint))

    def start(self, order: TaskOrder, rendezvous: Rendezvous | None) -> None:
        """Begin the order's script now."""
        self._prepared.pop(order.key, None)
        self.started.append((order, rendezvous))
        script = self._script_of(order)
        now_ns = self._clock()
        self._tasks[order.key] = _Task(
            order,
            script,
            ends_at_ns=now_ns + int(script.runs_s * NS),
            sticks_at_ns=_sticks_at_ns(order, script, now_ns),
            exit_code=script.exit_code,
        )

    def stop(self, key: TaskKey, grace_s: float) -> None:
        """A script that heeds SIGTERM ends at once, another at the end of the grace."""
        if self._prepared.pop(key, None) is not None:
            self._news.append(Ended(key, Cause.STOPPED, detail="stopped before it started"))
        task = self._tasks.get(key)
        if task is None:
            return
        _terminate(task, Cause.STOPPED, grace_s, self._clock())

    def kill_all(self) -> None:
        """Everything ends now."""
        for key in [*self._prepared, *self._tasks]:
            self.stop(key, 0)

    def set_deadline(self, boot_ns: int) -> None:
        """What still runs then is dead."""
        self._deadline_ns = boot_ns

    def poll(self, timeout_s: float) -> list[TaskNews]:  # noqa: ARG002 - its clock is not ours
        """What the clock has brought about; never waits."""
        now_ns = self._clock()
        for key, task in list(self._tasks.items()):
            self._go_on(key, task, now_ns)
        news, self._news = self._news, []
        return news

    def wake(self) -> None:
        """`poll` never waits."""

    def close(self) -> None:
        """Nothing outlives this object."""
        self._tasks.clear()
        self._prepared.clear()

    def next_news_ns(self) -> int:
        """When the clock will bring something about, for who drives it."""
        if self._news or any(not task.is_announced for task in self._tasks.values()):
            return self._clock()
        ends = [
            min(task.ends_at_ns, task.sticks_at_ns, self._deadline_ns)
            for task in self._tasks.values()
        ]
        return min(ends, default=NEVER_NS)

    def _go_on(self, key: TaskKey, task: _Task, now_ns: int) -> None:
        order = task.order
        if not task.is_announced:
            task.is_announced = True
            if not task.script.is_found:
                detail = f"{order.command[0]!r} cannot be run: No such file or directory"
                self._end(Ended(key, Cause.NOT_FOUND, 127, detail))
                return
            self._news.append(Started(key))
            if task.script.lines:
                self._news.append(Wrote(key, order.job_id, "stdout", 0, task.script.lines))
        if task.sticks_at_ns <= min(now_ns, task.ends_at_ns, self._deadline_ns):
            at_ns, task.sticks_at_ns = task.sticks_at_ns, NEVER_NS
            _terminate(task, Cause.NO_PROGRESS, order.grace_s, at_ns)
        if now_ns >= self._deadline_ns and task.ends_at_ns > self._deadline_ns:
            task.cause = Cause.LEASE if task.cause is Cause.EXITED else task.cause
            task.exit_code = SIGKILLED
            self._end(_ended(task))
        elif now_ns >= task.ends_at_ns:
            self._end(_ended(task))

    def _end(self, news: Ended) -> None:
        del self._tasks[news.key]
        self._news.append(news)


def _sticks_at_ns(order: TaskOrder, script: Script, now_ns: int) -> int:
    """When the script will have reported no progress for its order's timeout."""
    if not order.progress_timeout_s:
        return NEVER_NS
    last_s = 0.0
    for at_s in script.progress_at_s:
        if at_s > last_s + order.progress_timeout_s:
            break
        last_s = at_s
    return now_ns + int((last_s + order.progress_timeout_s) * NS)


def _terminate(task: _Task, cause: Cause, grace_s: float, at_ns: int) -> None:
    """SIGTERM, or SIGKILL without grace. The first cause stays, the soonest end wins."""
    heeds = task.script.heeds_sigterm and grace_s > 0
    ends_at_ns = at_ns + (0 if heeds else int(grace_s * NS))
    if ends_at_ns < task.ends_at_ns:
        task.ends_at_ns = ends_at_ns
        task.exit_code = SIGTERMED if heeds else SIGKILLED
    if task.cause is Cause.EXITED:
        task.cause = cause
    task.sticks_at_ns = NEVER_NS


def _ended(task: _Task) -> Ended:
    details = {
        Cause.EXITED: f"exit code {task.exit_code}",
        Cause.STOPPED: "stopped",
        Cause.LEASE: "the node's lease ran out",
        Cause.NO_PROGRESS: why_stuck(task.order.progress_timeout_s),
    }
    tail = Tail()
    tail.add("stdout", task.script.lines)
    return Ended(task.order.key, task.cause, task.exit_code, details[task.cause], tail.text())
