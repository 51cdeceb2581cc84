"""The engine of one shard where something goes wrong: lost probes, unreachable logs, takeovers."""

from __future__ import annotations

from typing import Any

import pytest

from infra.log import Entry, Fault, LogUnavailable
from schemas.codec import encode
from schemas.commands import SubmitJobs
from schemas.reports import TasksReported
from schemas.terms import FailureClass, JobState, JobTerms, TaskState
from stream_processors.domain.draft import CommandAt, Policy
from stream_processors.domain.fingerprint import fingerprint
from stream_processors.engine import EngineOptions
from tests.cluster import node, submission
from tests.engine_world import Process, World


def ready_world(*keys: str, **terms: Any) -> tuple[World, Process]:
    world = World()
    process = Process(world, 1)
    process.settle()
    world.reports.append(node())
    world.commands.extend(submission(key, **terms) for key in keys)
    process.settle()
    return world, process


def row(no: int, said: TaskState) -> TasksReported:
    return TasksReported(
        node="n1",
        pool="default",
        incarnation=1,
        job_nos=[no],
        attempts=[1],
        tasks=[0],
        states=[said],
        ats=[0],
        exit_codes=[0],
        failures=[FailureClass.NONE],
        messages=[""],
        endpoints=[""],
    )


def running_world(*keys: str) -> World:
    """Jobs that run, with a minute to end well, on a world whose engine is then stopped."""
    world, process = ready_world(*keys, timeout_s=60, max_retries=0)
    world.reports += [row(no, TaskState.STARTED) for no in range(1, len(keys) + 1)]
    process.settle()
    assert {job.state for job in process.engine.state.jobs.values()} == {JobState.RUNNING}
    world.pass_time(30)
    world.reports += [row(no, TaskState.ENDED) for no in range(1, len(keys) + 1)]
    world.pass_time(60)
    return world


def states(process: Process) -> list[JobState]:
    return [job.state for job in process.engine.state.jobs.values()]


def test_a_probe_that_was_lost_is_written_again() -> None:
    world, process = ready_world("a")
    world.holds_probes = True
    world.pass_time(20)
    process.settle()
    assert len(world.probes) == 1
    world.probes.clear()
    world.holds_probes = False
    process.settle()
    assert process.engine.state.nodes, "nothing is written anew while the probe may still come"
    world.pass_time(6)
    process.settle()
    assert not process.engine.state.nodes


def test_the_first_probe_of_an_ownership_is_written_again_if_lost() -> None:
    world = running_world("a")
    world.holds_probes = True
    second = Process(world, 2)
    second.settle()
    assert not second.engine.leases.caught_up
    world.probes.clear()
    world.holds_probes = False
    world.pass_time(6)
    second.settle()
    assert second.engine.leases.caught_up


@pytest.mark.parametrize("call", ["read", "empty"])
def test_a_log_out_of_reach_while_folding_anew_is_only_a_delay(call: str) -> None:
    world, process = ready_world("a")
    world.commands.append(submission("b"))
    process.log.faults.append(Fault.LOSE)
    log = FlakyLog(process, 3, empty=call == "empty")
    unavailable = 0
    for _ in range(20):
        try:
            process.turn()
        except LogUnavailable:
            unavailable += 1
        world.pass_time(1)
    assert log.left == 0
    assert unavailable == (0 if call == "empty" else 3)
    assert process.engine.is_ready
    assert len(process.engine.state.jobs) == 2
    assert fingerprint(world.fold().state) == fingerprint(process.engine.state)


class FlakyLog:
    """Fails the first reads of a process while its engine folds anew, or has nothing at hand."""

    def __init__(self, process: Process, times: int, *, empty: bool) -> None:
        self.left = times
        self._process = process
        self._empty = empty
        process.runner.log = self  # type: ignore[assignment]  # only `read` is asked of it here

    def read(self, offset: int, max_records: int) -> list[Entry]:
        if self.left:
            self.left -= 1
            if self._empty:
                return []
            raise LogUnavailable("no broker for a moment")
        return self._process.log.read(offset, max_records)


def test_a_success_that_waits_in_the_reports_at_a_takeover_is_no_timeout() -> None:
    second = Process(running_world("a"), 2)
    for _ in range(12):  # the inputs are assigned, and their first records take a moment
        second.runner.step(second.now, 0.0)
        second.runner.decide(second.now)
    assert states(second) == [JobState.RUNNING]
    second.settle()
    assert states(second) == [JobState.SUCCEEDED]


def test_reports_behind_the_first_batch_at_a_takeover_are_heard_before_timers_fire() -> None:
    world = running_world("a", "b", "c")
    second = Process(world, 2, EngineOptions(Policy(shards=1), batch_records=1))
    second.settle()
    assert states(second) == [JobState.SUCCEEDED] * 3


def test_an_attempt_of_which_nothing_waits_is_timed_out_after_a_takeover() -> None:
    world = running_world("a")
    world.reports.pop()
    second = Process(world, 2)
    second.settle()
    assert second.engine.state.jobs[1].ending is FailureClass.TIMEOUT


def test_many_legal_batches_that_wait_are_decided_in_records_that_fit() -> None:
    world, process = ready_world()
    count, batches = 10_000, 8
    for offset in range(batches):
        keys = [f"{offset}-{row:x}" for row in range(count)]
        zeros = [0] * count
        batch = SubmitJobs([JobTerms()], zeros, keys, zeros, 0, "a" * 100, 44, [b""] * count)
        received = CommandAt(offset, world.now_us, batch)
        process.engine.receive_command(received, len(encode(batch)))
    for _ in range(batches):
        process.runner.decide(process.now)
        process.runner.step(process.now, 0.0)
    assert len(process.engine.state.jobs) == batches * count
