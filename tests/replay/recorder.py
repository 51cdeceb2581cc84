"""Records a history: a log as it lies in Kafka, and what its fold must say for ever.

`python -m tests.replay.recorder NAME` plays a story on the real machines over a log in memory and
writes `histories/NAME.json`. Recorded once for a release and never again: that old logs lead to
the recorded state is what the replay tests hold.
"""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from infra.follow import ShardFollower
from infra.log import Fault
from schemas.commands import CancelJob, PurgeDeadLetters, PutPool, PutQueue
from schemas.digest import format_digest
from schemas.reports import TasksReported
from schemas.terms import (
    Condition,
    FailureClass,
    Micros,
    ParkedRecord,
    QueueDefaults,
    QueueState,
    RetryRule,
    Switch,
    TaskState,
)
from stream_processors.domain.draft import Unreadable
from stream_processors.domain.rows import all_jobs_digest, job_row
from stream_processors.domain.state import TaskPhase
from tests.cluster import cancel, gang, node, put_queue, submission, uid
from tests.engine_world import Process, World

HISTORIES = Path(__file__).parent / "histories"


def report_all(
    world: World, said: TaskState, failure: FailureClass = FailureClass.NONE, tail: str = ""
) -> None:
    """Every living task of every node reports the same."""
    state = world.fold().state
    for holder in state.nodes.values():
        keys = [
            key for key in holder.tasks if state.jobs[key[0]].tasks[key[1]].phase < TaskPhase.ENDED
        ]
        count = len(keys)
        world.reports.append(
            TasksReported(
                holder.name,
                holder.pool,
                holder.incarnation,
                [no for no, _ in keys],
                [state.jobs[no].attempt for no, _ in keys],
                [index for _, index in keys],
                [said] * count,
                [0] * count,
                [0 if failure is FailureClass.NONE else 1] * count,
                [failure] * count,
                [""] * count,
                [f"127.0.0.1:{2000 + no}" for no, _ in keys],
                list(range(count)) if tail else [],
                [tail] * count if tail else [],
            )
        )


def ordinary(world: World, process: Process) -> None:
    """Jobs, a gang, a dependency, failures with retries, a cancel, a refusal, a lost node."""
    world.reports += [node(gpus=["A100", "A100"]), node("n2", cpu_milli=4000)]
    world.commands += [
        put_queue("slow", QueueState.PAUSED),
        submission("plain", gpu_milli=500),
        gang("gang", 3, cpu_milli=2000),
        submission("behind", depends_on=[(uid("plain"), Condition.SUCCEEDED)]),
        submission("waits", queue="slow"),
        submission("nowhere", queue="missing"),
        submission("plain", gpu_milli=500),
        CancelJob("not a job", "", ""),
    ]
    process.settle()
    report_all(world, TaskState.READY)
    process.settle()
    report_all(world, TaskState.STARTED)
    process.settle()
    report_all(world, TaskState.ENDED)
    process.settle()
    report_all(world, TaskState.STARTED)
    report_all(world, TaskState.ENDED, FailureClass.USER_ERROR)
    world.commands += [cancel("waits"), submission("poor", max_retries=0)]
    process.settle()
    report_all(world, TaskState.ENDED, FailureClass.OUT_OF_MEMORY)
    for _ in range(4):
        world.pass_time(20)
        process.settle()


def takeovers(world: World, process: Process) -> None:
    """Three owners, zombies, doubled sends, an unknown outcome; then ordinary life."""
    world.reports.append(node())
    world.commands += [submission(f"job{number}", cpu_milli=3000) for number in range(4)]
    process.log.faults += [Fault.DOUBLE, Fault.DROP_ACK, Fault.LOSE]
    process.settle()
    second = Process(world, 2)
    second.settle()
    for token in process.log.sent_tokens:
        process.log.land(token)
    world.commands.append(submission("late"))
    process.turn()
    second.settle()
    third = Process(world, 3)
    third.settle()
    report_all(world, TaskState.STARTED)
    report_all(world, TaskState.ENDED)
    third.settle()
    world.pass_time(30)
    third.settle()


def troubles(world: World, process: Process) -> None:
    """Retry rules, grown memory, avoided nodes, paced retries, the switch, deadlines, dead letters
    with what they wrote, a redrive, a purge, a parked input."""
    world.reports += [node(), node("n2")]
    defaults = QueueDefaults(max_retries=1, backoff_s=1)
    world.commands += [
        PutQueue("default", "default", QueueState.OPEN, "", "someone", (defaults,), 3),
        submission("poor", retry_rules=(RetryRule(FailureClass.USER_ERROR, 1),)),
        submission("hungry", memory_mib=1000),
        gang("gang", 2, deadline_s=40),
        submission("patient", cpu_milli=99_000, deadline_s=60),
        submission("late", deadline_s=5),
    ]
    process.settle()
    report_all(world, TaskState.READY)
    process.settle()
    report_all(world, TaskState.STARTED)
    process.settle()
    world.pass_time(6)
    process.settle()
    report_all(world, TaskState.ENDED, FailureClass.OUT_OF_MEMORY, "MemoryError")
    process.settle()
    world.pass_time(10)
    process.settle()
    world.commands.append(PutPool("default", "", "someone", Switch.OFF, 5))
    report_all(world, TaskState.STARTED)
    report_all(world, TaskState.ENDED, FailureClass.USER_ERROR, "ValueError: no 7")
    process.settle()
    world.pass_time(35)
    process.settle()
    world.commands.append(PutPool("default", "", "someone", Switch.ON))
    for incarnation in (2, 3, 4):
        world.pass_time(3_600)
        process.settle()
        world.reports += [node(incarnation=incarnation), node("n2", incarnation)]
        process.settle()
        report_all(world, TaskState.READY)
        report_all(world, TaskState.STARTED)
        report_all(world, TaskState.ENDED, FailureClass.USER_ERROR, "ValueError: no 8")
        process.settle()
    record = ParkedRecord("commands", 7, Micros(7), "malformed", "no", b"k", (), 3, b"s", b"bad")
    world.commands += [
        Unreadable("malformed", "no", record),
        replace(submission("again"), causation_id="redrive", redrives=uid("poor")),
        PurgeDeadLetters((uid("poor"),), "dealt with", "someone"),
    ]
    process.settle()


STORIES: dict[str, Callable[[World, Process], None]] = {
    "ordinary-1": ordinary,
    "takeovers-1": takeovers,
    "troubles-2": troubles,
}


def record(name: str) -> dict[str, object]:
    """Play a story; the log and what its fold says."""
    world = World()
    process = Process(world, 1)
    process.settle()
    STORIES[name](world, process)
    follower = ShardFollower(0)
    counted = [entry.offset for entry in world.partition.entries if follower.feed(entry)]
    jobs = follower.state.jobs.values()
    return {
        "entries": [b64encode(entry.value).decode() for entry in world.partition.entries],
        "counted": counted,
        "chain": follower.chain.value.hex(),
        "digest": format_digest(all_jobs_digest(follower.state)),
        "rows": [asdict(job_row(0, job)) for job in jobs],
    }


def main() -> None:
    """Write the histories named; one that is there already is left alone."""
    for name in sys.argv[1:] or STORIES:
        path = HISTORIES / f"{name}.json"
        if path.exists():
            print(f"{path.name} is recorded already: a released history is never recorded again")
            continue
        path.write_text(json.dumps(record(name), indent=1) + "\n")
        print(f"recorded {path.name}")


if __name__ == "__main__":
    main()
