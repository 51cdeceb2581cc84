"""`python -m tests.chaos`: break the whole system in every way for some minutes, then judge it.

Exit code 0 if nothing was lost, doubled, orphaned, torn or diverged, else 1; then the data directory
is kept, with what the servers' disks held. Needs root for the small disks; without, the faults of
full disks are left out and the report says so. What a run is: `docs/reliability/README.md`.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import secrets
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import structlog

from infra.kafka import KafkaUnavailable
from projections.pipeline import ViewUnavailable
from projections.verify import VerifyReport, verify
from tests.chaos import report
from tests.chaos.checks import (
    Findings,
    check_agents_journals,
    check_answers,
    check_crashes,
    check_log,
    check_orphans,
    check_runs,
)
from tests.chaos.disks import enter_own_mounts
from tests.chaos.faults import FAULTS, Scene
from tests.chaos.figures import effects, longest_standstill, reruns
from tests.chaos.history import read_histories
from tests.chaos.jobs import Writer
from tests.chaos.load import Load
from tests.chaos.options import (
    RERUN_WITHIN_S,
    SERVERS,
    SETTLE_WITHIN_S,
    STANDSTILL_MAX_S,
    Options,
)
from tests.chaos.storm import Storm
from tests.chaos.task import read_journal
from tests.chaos.watch import Ends, Witness
from tests.chaos.world import SHARDS, World, start_world
from tests.live_stack import wait_until

LONG_MINUTES = 30
PAGE = 500
VIEWS_WITHIN_S = 90.0
GONE_WITHIN_S = 5.0
"""What has just been reported ended may take a moment to vanish from /proc."""


def main(argv: list[str]) -> int:
    """One run; the exit code."""
    given = _arguments(argv)
    root = Path(given.data_dir or tempfile.mkdtemp(prefix="foldline-chaos-"))
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o711)
    options = Options(
        minutes=given.minutes,
        seed=given.seed if given.seed is not None else secrets.randbelow(1_000_000),
        rate=given.rate,
        outstanding_max=given.outstanding,
        data_dir=root,
        only=tuple(given.only or ()),
    )
    # What this process's own clients say of servers that are broken on purpose helps nobody.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    _tell(f"chaos: {options.minutes:g} minutes with seed {options.seed}, data in {root}")
    command = " ".join(["python -m tests.chaos", *argv])
    account = _run(options, command, with_disks=enter_own_mounts())
    text = "\n".join(report.lines(account))
    sys.stdout.write(text + "\n")
    if given.report:
        Path(given.report).write_text(text + "\n")
    if account.is_good and not given.keep:
        shutil.rmtree(root)
    else:
        _tell(f"seed {options.seed}; everything that it left is in {root}")
    return 0 if account.is_good else 1


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of faults")
    parser.add_argument("--seed", type=int, help="of the choices; drawn when left out")
    parser.add_argument("--rate", type=float, default=8.0, help="jobs a second, about")
    parser.add_argument("--outstanding", type=int, default=600, help="pause above so many jobs")
    parser.add_argument("--report", help="write the report to this file, as Markdown")
    parser.add_argument("--data-dir", help="where everything is; a new one when left out")
    parser.add_argument("--keep", action="store_true", help="keep the data of a good run too")
    parser.add_argument("--only", action="append", help="only this kind of fault; may be repeated")
    given = parser.parse_args(argv)
    unknown = set(given.only or ()) - {fault.name for fault in FAULTS}
    if unknown:
        parser.error(f"no fault {unknown}; there are {[fault.name for fault in FAULTS]}")
    return given


def _tell(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def _run(options: Options, command: str, *, with_disks: bool) -> report.Account:
    began, started = report.now(), time.monotonic()
    world = start_world(options.data_dir, with_disks=with_disks)
    mark = secrets.token_hex(8)
    witness, ends = Witness(mark), Ends(world.direct.bootstrap)
    found = Findings()
    try:
        load = Load(world, options, Writer(world.journal, mark), lambda: len(ends.ended))
        scene = Scene(
            world, witness, load, random.Random(options.seed), options.minutes >= LONG_MINUTES
        )
        storm = Storm(scene, options, _tell)
        wait_until("jobs flow", lambda: len(ends.ended) > 20, 90)
        _tell(f"up after {time.monotonic() - started:.0f} s, jobs flow")
        storm.rage()
        _settle(world, load, ends, found)
        found.other += [*storm.problems, *load.problems]
        account = _judge(world, load, witness, storm, found)
        account.update(command=command, options=options, began=began)
    finally:
        witness.close()
        ends.close()
        world.close()
    if not with_disks:
        account["left_out"] = ["full disks, for small disks cannot be mounted here"]
    elif not found.is_clean:
        _keep_disks(world)
    for disk in world.disks.values():
        disk.unmount()
    return report.Account(**account, seconds=time.monotonic() - started)


def _settle(world: World, load: Load, ends: Ends, found: Findings) -> None:
    """No more faults and no more jobs; what there is must come to its end."""
    _tell("the storm is over; waiting for the end of every job")
    world.heal()
    if not load.stop(SETTLE_WITHIN_S):
        waiting = [job for job in load.jobs.values() if job.accepted_at is None]
        found.lost.append(f"{len(waiting)} submissions were not accepted at last, or cancels hang")
    wanted = {
        job_id
        for job_id, job in load.jobs.items()
        if job.accepted_at is not None and not job.kind.may_be_refused
    }
    deadline = time.monotonic() + SETTLE_WITHIN_S
    while not wanted <= ends.ended and time.monotonic() < deadline:
        time.sleep(0.5)
    _tell(f"{len(wanted & ends.ended)} of {len(wanted)} accepted jobs have ended")


def _judge(
    world: World, load: Load, witness: Witness, storm: Storm, found: Findings
) -> dict[str, Any]:
    """Everything that the checks say, as the fields of an account."""
    gone_by = time.monotonic() + GONE_WITHIN_S
    while (alive := witness.alive()) and time.monotonic() < gone_by:
        time.sleep(0.1)
    views = _verify(world, found)
    states = _states(world)
    histories = read_histories(world.direct.bootstrap, SHARDS)
    runs = read_journal(world.journal)
    sightings = list(witness.sightings.values())
    check_log(load.jobs, histories, found)
    check_runs(runs, sightings, histories, found)
    check_orphans(sightings, alive, world.silences, found)
    check_agents_journals(world.root / "agents", found)
    logs = [settings.data_dir / "dev.log" for settings in (world.servers, world.parts)]
    ends = {name: member.ends for name, member in world.fleet.members.items()}
    check_crashes(logs, ends, found)
    check_answers(states, world.direct.bootstrap, histories, found)
    again = reruns(storm.happenings, runs)
    what = [asdict(one) for one in storm.happenings]
    (world.root / "happenings.json").write_text(json.dumps(what, indent=1))
    found.other += [
        f"{one.job_id} of killed {one.node} ran again after {one.seconds} s"
        for one in again
        if one.seconds is None or one.seconds > RERUN_WITHIN_S
    ]
    still_s = longest_standstill(runs)
    if still_s > STANDSTILL_MAX_S:
        found.other.append(f"no task started for {still_s:.0f} s: something hung")
    return {
        "happenings": storm.happenings,
        "submitted": len(load.jobs),
        "accepted": load.accepted,
        "histories": histories,
        "runs": runs,
        "reruns": again,
        "effects": effects(storm.happenings, runs),
        "findings": found,
        "views": views,
        "left_out": [],
    }


def _verify(world: World, found: Findings) -> list[str]:
    """The views must be equal to the fold, and must have come to the log's end."""
    last: list[VerifyReport] = []

    def is_equal() -> bool:
        direct = world.direct
        try:
            told = verify(direct.bootstrap, direct.dsn, direct.redis_url)
        except (KafkaUnavailable, ViewUnavailable):
            return False
        last[:] = [told]
        ends = [
            view.position.next_offset >= shard.next_offset - 20
            for shard in told.shards
            for view in shard.views
        ]
        return told.is_ok and all(ends)

    try:
        wait_until("the views equal the fold of the whole log", is_equal, VIEWS_WITHIN_S)
    except AssertionError as error:
        found.diverged.append(str(error))
    return [text for told in last for text in told.lines()]


def _states(world: World) -> dict[str, str]:
    """The state of every job as the API lists it."""
    states: dict[str, str] = {}
    cursor: str | None = ""
    with httpx.Client(base_url=world.api, timeout=60) as http:
        while cursor is not None:
            params = {"limit": str(PAGE)} | ({"cursor": cursor} if cursor else {})
            body = wait_until(f"the jobs after {cursor!r}", partial(_page, http, params), 60.0)
            assert body is not None
            states |= {job["id"]: job["status"] for job in body["jobs"]}
            cursor = body["next_cursor"]
    return states


def _page(http: httpx.Client, params: dict[str, str]) -> dict[str, Any] | None:
    """A page of the list; None while the view says that it cannot answer in time."""
    answer = http.get("/jobs/", params=params)
    assert answer.status_code in (200, 503), answer.text
    return answer.json() if answer.is_success else None


def _keep_disks(world: World) -> None:
    """The servers' disks go with this process, so what they hold is copied to the data directory."""
    for name in SERVERS:
        to = world.servers.data_dir / f"{name}-disk"
        skip = shutil.ignore_patterns("binaries-*", "*.aot")
        shutil.copytree(world.servers.data_dir / name, to, ignore=skip, symlinks=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
