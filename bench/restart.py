"""Restart at depth: how soon an engine serves with many jobs in its fold, and when another is gone.

Makes a long history with the real core, folds it, takes and reads snapshots of it; then puts it on
a Kafka of its own and starts engines there: without a snapshot (replay), with one, and two at once,
of which the owner is killed or stopped while jobs are submitted.

    python -m bench.restart --jobs 1000000 --takeovers 7
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.deep_log import DeepLog
from bench.engine_processes import EngineProcess
from foldline.isolation import own_directory
from infra.collector import not_collecting
from infra.follow import ShardFollower
from infra.kafka import Reader, Sender, ensure_topics
from infra.local.stack import free_settings, local_servers
from infra.log import Entry, read_record
from infra.state_codec import Snapshot, decode_snapshot, encode_snapshot
from schemas import codec
from schemas.commands import SubmitJob
from schemas.envelope import Decision, Input
from schemas.terms import JobSpec, JobTerms, Micros
from schemas.topics import COMMANDS, LOG, REPORTS
from stream_processors.domain.fingerprint import fingerprint
from stream_processors.snapshot_saving import collect, encode_apart

RESULTS = Path(__file__).with_name("results")
DECIDED_WITHIN_S = 60.0
STANDBY_WARM_S = 5.0
NO_SERVER = "none: this measurement asks nothing of it"


def main() -> int:
    """Measure, print, and keep the result where that is asked."""
    options = _options()
    facts = machine.facts()
    with own_directory("bench") as home:
        found = measure(home, options.jobs, options.takeovers)
    result = {
        "bench": "restart",
        "command": f"python -m bench.restart {' '.join(sys.argv[1:])}".strip(),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts,
        "figures": found,
    }
    print("\n".join(f"  {name:<52} {value}" for name, value in found.items()))
    print(f"\nmeasured on\n{machine.lines(facts)}")
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{options.save}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def measure(home: Path, jobs: int, takeovers: int) -> dict[str, Any]:
    """All figures, by name; seconds unless the name says otherwise."""
    gc.freeze()
    _tell(f"deciding the lives of {jobs} jobs")
    deep = DeepLog(time.time_ns() // 1000 - jobs * 1_000)
    with not_collecting():
        values = list(deep.records(jobs))
    found: dict[str, Any] = {
        "jobs in the fold": len(deep.state.jobs),
        "log records": len(values),
        "log MiB": round(sum(map(len, values)) / 2**20, 1),
        "rows of events": deep.rows,
    }
    found |= _without_kafka(values, deep)
    rows, commands, reports = deep.rows, deep.commands, deep.reports
    del deep
    settings = free_settings(home / "stack", agents=0)
    settings = settings.model_copy(update={"postgres_dsn": NO_SERVER, "redis_url": NO_SERVER})
    with local_servers(settings) as servers:
        bootstrap = servers.addresses.bootstrap
        ensure_topics(bootstrap, 1)
        _tell("writing it to Kafka")
        _send(bootstrap, LOG.name, values)
        _send(bootstrap, COMMANDS.name, [b"consumed"] * commands)
        _send(bootstrap, REPORTS.name, [b"consumed"] * reports)
        del values
        found |= _on_kafka(bootstrap, home, rows)
        found |= _taken_over(bootstrap, home, takeovers)
    return found


def _without_kafka(values: list[bytes], deep: DeepLog) -> dict[str, Any]:
    """Fold all, and a snapshot there and back, in this process alone."""
    _tell("folding it again, and a snapshot there and back")
    follower = ShardFollower(0)
    with not_collecting():
        with _timed() as replay:
            for offset, value in enumerate(values):
                follower.feed(Entry(offset, value, Micros(0)))
        snapshot = Snapshot(len(values) - 1, follower.chain, follower.state)
        with _timed() as encode:
            data = encode_snapshot(snapshot)
        with _timed() as fork:
            pid, pipe = encode_apart(snapshot)
        with _timed() as apart:
            assert collect(pid, pipe) == data
        with _timed() as decode:
            again = decode_snapshot(data)
    assert fingerprint(again.state) == fingerprint(deep.state), "a snapshot changed the state"
    return {
        "replay without Kafka, rows/s": _rates(deep.rows, replay),
        "snapshot MiB": round(len(data) / 2**20, 1),
        "snapshot: encode": _seconds(encode),
        "snapshot: what the loop waits for its fork": _seconds(fork),
        "snapshot: encode in the fork, with the way back": round(apart.wall_s, 2),
        "snapshot: decode": _seconds(decode),
        "snapshot: decode against folding all": f"{replay.cpu_s / decode.cpu_s:.1f} times faster",
    }


def _on_kafka(bootstrap: str, home: Path, rows: int) -> dict[str, Any]:
    """Start an engine without a snapshot, let it take one, and start another with it."""
    _tell("an engine without a snapshot")
    with _engine(bootstrap, home / "replay.log", snapshot_every_records="1") as engine:
        following = engine.wait_for("following")
        begun = engine.cpu_s()
        owning = engine.wait_for("owning")
        cold, folded, cpu = owning - engine.started_at, owning - following, engine.cpu_s() - begun
        peak = engine.peak_mib()
        _submit(bootstrap, "first")
        saved = engine.wait_for("snapshot") - owning
    _tell("an engine with a snapshot")
    with _engine(bootstrap, home / "restored.log") as engine:
        restored = engine.wait_for("owning") - engine.started_at
        restored_cpu, restored_peak = engine.cpu_s(), engine.peak_mib()
    return {
        "start without a snapshot until it owns": round(cold, 2),
        "replay on Kafka with all that a claim takes, rows/s": _rates(rows, Took(folded, cpu)),
        "from its first decision until its snapshot is saved": round(saved, 2),
        "start with a snapshot until it owns": f"{restored:.2f} ({restored_cpu:.2f} of CPU)",
        "memory after replay, and after a snapshot, MiB": f"{peak}, {restored_peak}",
    }


def _taken_over(bootstrap: str, home: Path, times: int) -> dict[str, Any]:
    """Two engines; the owner is killed, or stopped and woken, again and again."""
    found: dict[str, Any] = {}
    engines = [EngineProcess(bootstrap, home / "engine-0.log")]
    engines[0].wait_for("owning")
    engines.append(EngineProcess(bootstrap, home / "engine-1.log"))
    try:
        for name, number in (("kill -9", signal.SIGKILL), ("SIGSTOP", signal.SIGSTOP)):
            took = []
            for turn in range(times):
                _tell(f"takeover after {name}, {turn + 1} of {times}")
                took.append(_one_takeover(bootstrap, home, engines, number, turn))
            found[f"{name} to first decision: median, worst"] = (
                f"{statistics.median(took):.2f}, {max(took):.2f}"
            )
    finally:
        for engine in engines:
            engine.end()
    return found


def _one_takeover(
    bootstrap: str, home: Path, engines: list[EngineProcess], number: signal.Signals, turn: int
) -> float:
    """The owner is first in `engines`, and last when this ends; the seconds until a decision."""
    engines[1].wait_for("following")
    time.sleep(STANDBY_WARM_S)
    reader = Reader(bootstrap)
    end = reader.end_offset(LOG.name, 0)
    reader.assign({(LOG.name, 0): end})
    begun = time.monotonic()
    engines[0].send(number)
    place = _submit(bootstrap, f"{number.name}-{turn}")
    while not any(_consumes(message.value or b"", place) for message in reader.poll(0.05)):
        if time.monotonic() > begun + DECIDED_WITHIN_S:
            raise RuntimeError(f"no decision in {DECIDED_WITHIN_S:g} s: see {engines[1].log}")
    took = time.monotonic() - begun
    reader.close()
    former = engines.pop(0)
    if number is signal.SIGSTOP:
        former.send(signal.SIGCONT)
        former.wait_for("stepped_down", len(former.moments("owning")))
        engines.append(former)
    else:
        former.end()
        engines.append(EngineProcess(bootstrap, home / f"engine-{turn + 2}.log"))
    return took


def _consumes(value: bytes, place: int) -> bool:
    record = read_record(value)
    return isinstance(record, Decision) and any(
        part.input is Input.COMMANDS and part.stop > place for part in record.consumed
    )


@contextmanager
def _engine(bootstrap: str, log: Path, **settings: str) -> Iterator[EngineProcess]:
    engine = EngineProcess(bootstrap, log, **settings)
    try:
        yield engine
    finally:
        engine.end()


def _submit(bootstrap: str, key: str) -> int:
    """Submit one job; its place in the commands."""
    job = SubmitJob(JobTerms(), key, 0, (), 0, "bench", JobSpec("training"))
    places = _send(bootstrap, COMMANDS.name, [codec.encode(job)])
    return places[0]


def _send(bootstrap: str, topic: str, values: list[bytes]) -> list[int]:
    sender = Sender(bootstrap, message_timeout_s=30.0)
    places: list[int] = []

    def landed(offset: int | None, error: str | None) -> None:
        if offset is None:
            raise RuntimeError(f"{topic} was not written: {error}")
        places.append(offset)

    for value in values:
        sender.send(topic, value, partition=0, on_result=landed)
        sender.poll(0.0)
    sender.flush(60.0)
    sender.close()
    return places


@dataclass(slots=True)
class Took:
    """How long a block took; CPU time also tells on a machine that others work on."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def _timed() -> Iterator[Took]:
    """Filled in when the block ends."""
    took = Took()
    wall, cpu = time.perf_counter(), time.process_time()
    yield took
    took.wall_s, took.cpu_s = time.perf_counter() - wall, time.process_time() - cpu


def _seconds(took: Took) -> str:
    return f"{took.wall_s:.3f} ({took.cpu_s:.3f} of CPU)"


def _rates(rows: int, took: Took) -> str:
    return f"{rows / took.wall_s:.0f} ({rows / took.cpu_s:.0f} for a second of CPU)"


def _tell(what: str) -> None:
    print(f"  {what}", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=1_000_000, help="in the fold, in thousands")
    parser.add_argument("--takeovers", type=int, default=7, help="of each kind")
    parser.add_argument("--save", metavar="NAME", help="keep it as bench/results/NAME.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
