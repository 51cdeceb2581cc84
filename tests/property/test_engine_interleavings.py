"""Several engines, one log, lost and doubled sends, dead and paused processes: one history.

Draws what happens, then lets one process live on and settle. Then: every submission is a job or
refused, the survivor's state is the fold of the log, everything placed was told to its node, and
nothing was told that is not in the log.
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.log import Fault
from stream_processors.domain.draft import Policy
from stream_processors.domain.fingerprint import fingerprint
from stream_processors.domain.state import TaskPhase
from stream_processors.engine import EngineOptions
from tests.cluster import gang, heartbeat, node, submission
from tests.engine_world import Process, World

# Nothing is sent again by time alone here, so that what an effect forgot stays forgotten.
OPTIONS = EngineOptions(
    Policy(shards=1), batch_records=2, snapshot_records=3, resend_after_us=10**18
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 5)),
        st.tuples(st.just("gang"), st.integers(0, 5)),
        st.tuples(st.just("turn"), st.integers(0, 2)),
        st.tuples(st.just("turn"), st.integers(0, 2)),
        st.tuples(st.just("fault"), st.sampled_from([*Fault])),
        st.tuples(st.just("answer"), st.integers(0, 3)),
        st.tuples(st.just("again"), st.integers(0, 3)),
        st.tuples(st.just("start"), st.just(0)),
        st.tuples(st.just("listen"), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.integers(0, 3)),
    ),
    max_size=60,
)


def land_again(process: Process, which: int) -> None:
    """A retried or held send appears (again), whenever the network pleases."""
    tokens = process.log.sent_tokens
    if tokens:
        process.log.land(tokens[which % len(tokens)])


def listen(world: World, process: Process) -> None:
    """This process alone goes on, long enough to take an owner's silence for its end."""
    world.reports.append(heartbeat())  # the node lives, however often this comes
    for _ in range(12):
        world.pass_time(0.2)
        process.turn()


def play(steps: list[tuple[str, object]]) -> tuple[World, list[Process]]:
    world = World()
    world.reports.append(node())
    processes = [Process(world, 1, OPTIONS)]
    for kind, argument in steps:
        number = argument if isinstance(argument, int) else 0
        process = processes[number % len(processes)]
        if kind == "submit":
            world.commands.append(submission(f"job{number}", cpu_milli=3000))
        elif kind == "gang":
            world.commands.append(gang(f"gang{number}", 2))
        elif kind == "turn":
            process.turn()
        elif kind == "fault":
            assert isinstance(argument, Fault)
            processes[-1].log.faults.append(argument)
        elif kind == "answer" and process.log.open_tokens:
            process.log.answer(process.log.open_tokens[0])
        elif kind == "again":
            land_again(process, number)
        elif kind == "listen":
            listen(world, process)
        elif kind == "start":
            processes.append(Process(world, len(processes) + 1, OPTIONS))
        else:
            world.pass_time(number)
            world.reports.append(heartbeat())
    return world, processes


def survive(world: World, processes: list[Process]) -> Process:
    """The last process lives on alone, its log without further faults."""
    survivor = processes[-1]
    survivor.log.faults.clear()
    for _ in range(4):
        for token in list(survivor.log.open_tokens):
            survivor.log.give_up(token)
        world.pass_time(6)
        world.reports.append(heartbeat())
        survivor.settle()
        listen(world, survivor)
    return survivor


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_whatever_happens_there_is_one_history_and_its_effects(
    steps: list[tuple[str, object]],
) -> None:
    world, processes = play(steps)
    survivor = survive(world, processes)
    fold = world.fold()
    assert survivor.engine.is_ready
    assert fingerprint(fold.state) == fingerprint(survivor.engine.state)
    assert fold.chain.consumed.commands == len(world.commands)
    keys = {getattr(command, "idempotency_key", "") for command in world.commands}
    assert len(fold.state.jobs) == len(keys)
    told = {
        (no, attempt, index, mail.incarnation)
        for mail in world.mail
        for no, attempt, index in zip(
            mail.starts.job_nos, mail.starts.attempts, mail.starts.tasks, strict=True
        )
    }
    placed = {
        (job.no, job.attempt, index, fold.state.nodes[task.node_no].incarnation)
        for job in fold.state.jobs.values()
        for index, task in job.tasks.items()
        if task.phase is not TaskPhase.ENDED
    }
    assert told == placed, "what was told is exactly what was placed: nothing has ended here"
