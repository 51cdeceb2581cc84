"""A node that runs nothing: it takes every start and reports it started and ended at once.

With it a measurement shows what the scheduler does, not what starting processes costs on a machine
that is also the cluster. It speaks the agents' protocol: registers above all earlier incarnations,
waits for the acknowledgement, heartbeats, and reports what it was told to start.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event

from infra.kafka import Reader, Sender
from schemas import codec
from schemas.dispatch import Dispatch
from schemas.ids import partition_of
from schemas.reports import Heartbeat, RegisterNode, TasksReported
from schemas.terms import DEFAULT_TERMS, FailureClass, Micros, TaskState
from schemas.topics import DISPATCH, REPORTS

NODE = "paper"
POOL = DEFAULT_TERMS.pool
LEASE_S = 30
HEARTBEAT_S = 5.0
REGISTER_AGAIN_S = 2.0
POLL_S = 0.5
READY_WITHIN_S = 60.0
PLENTY = 1 << 30


class NotRegistered(Exception):
    """The engine did not acknowledge the node in time."""


@contextmanager
def paper_node(bootstrap: str) -> Iterator[None]:
    """The node, in a process of its own, while the block runs. Raises `NotRegistered`."""
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    process = context.Process(target=_run, args=(bootstrap, ready, stop), daemon=True)
    process.start()
    try:
        if not ready.wait(READY_WITHIN_S):
            raise NotRegistered(f"node {NODE} was not acknowledged in {READY_WITHIN_S:g} s")
        yield
    finally:
        stop.set()
        process.join(10.0)
        process.kill()


def _run(bootstrap: str, ready: Event, stop: Event) -> None:
    reader, sender = Reader(bootstrap), Sender(bootstrap)
    part = partition_of(NODE, DISPATCH.partitions)
    reader.assign({(DISPATCH.name, part): reader.end_offset(DISPATCH.name, part)})
    incarnation = time.time_ns() // 1000
    due = 0.0
    while not stop.is_set():
        now = time.monotonic()
        if now >= due:
            _send(sender, _hello(incarnation, known=ready.is_set()))
            due = now + (HEARTBEAT_S if ready.is_set() else REGISTER_AGAIN_S)
        for record in reader.poll(min(POLL_S, due - now)):
            told = codec.decode(record.value) if record.value is not None else None
            if not isinstance(told, Dispatch) or told.incarnation != incarnation:
                continue
            if told.registered:
                ready.set()
            if told.starts.job_nos:
                _send(sender, _done(told, incarnation))
        sender.poll(0.0)
    sender.close()
    reader.close()


def _send(sender: Sender, message: object) -> None:
    def landed(_offset: int | None, error: str | None) -> None:
        if error is not None:
            raise RuntimeError(f"a report of node {NODE} was not acknowledged: {error}")

    sender.send(REPORTS.name, codec.encode(message), key=POOL, on_result=landed)
    sender.poll(0.0)


def _hello(incarnation: int, *, known: bool) -> RegisterNode | Heartbeat:
    now = Micros(time.time_ns() // 1000)
    if known:
        return Heartbeat(NODE, POOL, incarnation, 0, now)
    return RegisterNode(
        node=NODE,
        pool=POOL,
        incarnation=incarnation,
        address="127.0.0.1",
        cpu_milli=PLENTY,
        memory_mib=PLENTY,
        gpus=(),
        extras=(),
        labels=(),
        lease_s=LEASE_S,
        sent_at=now,
    )


def _done(told: Dispatch, incarnation: int) -> TasksReported:
    """Started and ended, two rows a task."""
    starts, count = told.starts, len(told.starts.job_nos)
    now = time.time_ns() // 1000
    return TasksReported(
        node=NODE,
        pool=POOL,
        incarnation=incarnation,
        job_nos=[no for no in starts.job_nos for _ in range(2)],
        attempts=[number for number in starts.attempts for _ in range(2)],
        tasks=[task for task in starts.tasks for _ in range(2)],
        states=[TaskState.STARTED, TaskState.ENDED] * count,
        ats=[now] * (2 * count),
        exit_codes=[0] * (2 * count),
        failures=[FailureClass.NONE] * (2 * count),
        messages=[""] * (2 * count),
        endpoints=[""] * (2 * count),
    )
