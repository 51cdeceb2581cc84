"""The agent's process: one loop that does the I/O around the state machine of `agent.py`.

Reads the dispatch partition (`inbox.py`), the executor's news and signals; sends reports and log
lines, keeps the journal, moves the lease deadline. Decides nothing. SIGTERM drains, a second
signal (or SIGINT after it) stops everything at once. While the data directory is full nothing new
begins, and the process waits instead of ending. Returns the process's exit code.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from subprocess import TimeoutExpired
from time import sleep
from types import FrameType
from typing import TypeVar

import structlog

from infra.kafka import Reader, Sender
from infra.telemetry import gauge
from schemas.codec import encode
from schemas.ids import partition_of
from schemas.reports import Heartbeat
from schemas.topics import REPORTS, TASK_LOGS
from workers.agent import Agent
from workers.executor import Ended, TaskKey, Wrote
from workers.forking import ExecutorBroken
from workers.inbox import Inbox, InboxBroken
from workers.journal import DataDirUnwritable, Journal, NodeTaken
from workers.leftovers import kill_leftovers
from workers.log_shipper import LogShipper, StreamKey
from workers.messages import (
    Began,
    Delivered,
    DrainAsked,
    Effect,
    Exit,
    HaltAsked,
    Input,
    KillAll,
    Moment,
    Note,
    PersistIncarnation,
    Prepare,
    SeekDispatchEnd,
    Send,
    SetLeaseDeadline,
    Start,
    Stop,
    Tick,
    Undelivered,
)
from workers.options import AgentOptions
from workers.process_executor import ProcessExecutor
from workers.processes import NS, boot_ns

IDLE_S = 0.5
AWAITING_S = 0.002
"""How long the loop waits at most while a send is on its way: Kafka's answers wake nobody."""
LAST_LINES_S = 2.0
LEFTOVER_PATIENCE_S = 5.0
FULL_PAUSE_S = 0.5

T = TypeVar("T")

_log = structlog.get_logger("agent")


def run_agent(options: AgentOptions, bootstrap: str, shards: int) -> int:
    """Be the agent of this node until told to leave: the process's exit code.

    0 after a drain or a stop in which everything ended and was reported; 1 when another agent of
    the node runs here, when the executor broke, or when something was left unreported.
    """
    signals = _Signals()
    try:
        journal = _with_room(lambda: Journal(options.data_dir, options.node), signals)
    except (NodeTaken, DataDirUnwritable) as error:
        _log.error("agent refused", reason=str(error))
        return 1
    try:
        if not _clear_away(journal, signals):
            return 1
        executor = _with_room(lambda: ProcessExecutor(options, journal), signals)
        return _Driver(options, bootstrap, shards, (journal, executor)).run(signals)
    except (ExecutorBroken, DataDirUnwritable) as error:
        _log.error("agent stops: all tasks are killed", reason=str(error))
        return 1
    finally:
        journal.close()


class _Signals:
    """SIGTERM and SIGINT, counted; whoever waits is woken by `wake`."""

    def __init__(self) -> None:
        self.count = 0
        self.wake: Callable[[], None] = _wake_nobody
        signal.signal(signal.SIGTERM, self._take)
        signal.signal(signal.SIGINT, self._take)

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.wake()


def _with_room(make: Callable[[], T], signals: _Signals) -> T:
    """What `make` makes, as soon as the data directory has room for it.

    Raises DataDirUnwritable where room would not help, or when told to leave meanwhile.
    """
    is_told = False
    while True:
        try:
            return make()
        except DataDirUnwritable as error:
            if not error.is_full or signals.count:
                raise
            if not is_told:
                _log.error("no room: waiting, and starting nothing new", reason=str(error))
            is_told = True
            sleep(FULL_PAUSE_S)


def _clear_away(journal: Journal, signals: _Signals) -> bool:
    """Kill what an earlier agent left; False if told to leave before all of it was dead.

    A process that cannot be killed keeps its devices, so the node does not register meanwhile.
    """
    while left := kill_leftovers(journal.earlier, LEFTOVER_PATIENCE_S):
        _log.error("processes of an earlier agent cannot be killed: not registering", pids=left)
        if signals.count:
            return False
    return True


class _Driver:
    """The machine with its hands: executor, sender, inbox, journal."""

    def __init__(
        self,
        options: AgentOptions,
        bootstrap: str,
        shards: int,
        hands: tuple[Journal, ProcessExecutor],
    ) -> None:
        self._options = options
        self._bootstrap = bootstrap
        self._shard = partition_of(options.pool, shards)
        self._journal, self._executor = hands
        self._signals: _Signals | None = None
        self._agent = Agent(options, self._shard)
        self._shipper = LogShipper(options.node)
        self._landed: deque[Delivered | Undelivered] = deque()
        self._awaited = 0
        self._exit_code: int | None = None
        self._sender = self._make_sender()
        self._inbox = Inbox(Reader(bootstrap), options.node, self._executor.wake)

    def run(self, signals: _Signals) -> int:
        """The loop."""
        self._signals = signals
        signals.wake = self._executor.wake
        heard = 0
        earlier = self._journal.earlier
        try:
            self._feed(Began(earlier.incarnation, wait=not earlier.is_known))
            while self._exit_code is None:
                while heard < signals.count and self._exit_code is None:
                    heard += 1
                    self._feed(DrainAsked() if heard == 1 else HaltAsked())
                self._turn()
            self._send_last_lines()
        finally:
            signals.wake = _wake_nobody
            is_clean = self._close()
        return self._exit_code if is_clean else 1

    def _turn(self) -> None:
        """One round: take whatever has come, wait for more, let time pass."""
        for letter in self._inbox.take():
            if isinstance(letter, InboxBroken):
                raise letter.error
            self._feed(letter)
        self._ship()
        for news in self._executor.poll(self._patience_s()):
            if isinstance(news, Wrote):
                self._shipper.add(news)
            else:
                self._feed(news)
            if isinstance(news, Ended):
                self._end_log(news.key)
        self._ship()
        self._sender.poll(0.0)
        while self._landed:
            self._feed(self._landed.popleft())
        if boot_ns() >= self._agent.next_wake_ns():
            self._feed(Tick())
        if self._sender.fatal is not None:
            self._replace_sender()

    def _end_log(self, key: TaskKey) -> None:
        given_up = self._shipper.lost_streams
        self._shipper.end(key)
        if self._shipper.lost_streams and not given_up:
            _log.warning("the log topic is away for too long: ended tasks lose their last lines")

    def _patience_s(self) -> float:
        due_ns = min(self._agent.next_wake_ns(), self._shipper.next_due_ns())
        longest_s = AWAITING_S if self._awaited else IDLE_S
        return min(longest_s, max(0.0, (due_ns - boot_ns()) / NS))

    def _feed(self, message: Input) -> None:
        for effect in self._agent.handle(message, _now()):
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case PersistIncarnation():
                self._begin_incarnation(effect.incarnation)
            case SeekDispatchEnd():
                self._inbox.seek_end()
            case Send():
                if isinstance(effect.message, Heartbeat):
                    gauge("foldline_tasks_running", effect.message.running)
                self._send(effect)
            case Prepare():
                self._executor.prepare(effect.order)
            case Start():
                self._executor.start(effect.order, effect.rendezvous)
            case Stop():
                self._executor.stop(effect.key, effect.grace_s)
            case KillAll():
                self._executor.kill_all()
            case SetLeaseDeadline():
                self._executor.set_deadline(effect.boot_ns)
            case Note():
                _log.info("agent", node=self._options.node, note=effect.text)
            case Exit():
                self._exit_code = effect.code

    def _begin_incarnation(self, incarnation: int) -> None:
        """Nothing runs and everything is reported: this may wait for room."""
        assert self._signals is not None, "an incarnation begins only in the loop"
        try:
            _with_room(partial(self._journal.begin, incarnation), self._signals)
        except DataDirUnwritable as error:
            _log.error("no incarnation can begin: leaving", reason=str(error))
            self._exit_code = 1

    # -- Kafka

    def _make_sender(self) -> Sender:
        return Sender(self._bootstrap, message_timeout_s=min(5.0, self._options.lease_s / 2))

    def _replace_sender(self) -> None:
        """A producer with a fatal error does nothing more: what it had is sent again."""
        _log.error("the producer failed for good: making another", reason=self._sender.fatal)
        self._sender.close()
        self._sender = self._make_sender()

    def _send(self, effect: Send) -> None:
        self._awaited += 1
        self._sender.send(
            REPORTS.name,
            encode(effect.message),
            key=self._options.pool,
            partition=self._shard,
            on_result=partial(self._on_report, effect.ref),
        )

    def _on_report(self, ref: int, _offset: int | None, error: str | None) -> None:
        self._awaited -= 1
        self._landed.append(Delivered(ref) if error is None else Undelivered(ref, error))

    def _ship(self) -> None:
        for key, record in self._shipper.records(_now()):
            self._awaited += 1
            self._sender.send(
                TASK_LOGS.name,
                encode(record),
                key=record.job_id,
                on_result=partial(self._on_lines, key),
            )

    def _on_lines(self, key: StreamKey, _offset: int | None, error: str | None) -> None:
        self._awaited -= 1
        if error is not None:
            _log.warning("log lines not acknowledged, sent again", stream=key[1], error=error)
        self._shipper.landed(key, arrived=error is None, now=_now())

    def _send_last_lines(self) -> None:
        give_up = time.monotonic() + LAST_LINES_S
        while self._shipper and time.monotonic() < give_up:
            self._ship()
            self._sender.poll(0.05)

    def _close(self) -> bool:
        """Let go of everything; False when a task would not die."""
        is_clean = True
        self._executor.kill_all()
        self._inbox.close()
        try:
            self._executor.close()
        except TimeoutExpired:
            _log.error("some processes of tasks would not die")
            is_clean = False
        self._sender.close()
        return is_clean


def _wake_nobody() -> None:
    """Before and after the loop, nobody waits."""


def _now() -> Moment:
    return Moment(boot_ns(), time.time_ns() // 1000)
