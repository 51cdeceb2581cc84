"""Submit to dispatch: how long until a job's start is on its way to a node, one job at a time.

Starts a stack of its own, then submits trivial jobs at a fixed rate (open loop), first straight to
Kafka and then through the REST API. Measured from the moment a submission was due: until its
dispatch record was read from `foldline.dispatch.v1`, and until its agent's report that the task
started was read. Both are read by one more consumer here, so its own fetch is part of the figure.

    python -m bench.dispatch_latency --rate 100 --seconds 20
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from bench import machine
from bench.figures import Spread, spread, table
from bench.load import Load, by_kafka, by_rest
from bench.paper_node import paper_node
from bench.watch import Watch
from foldline.client import Client
from foldline.dev import RunningStack, stack
from foldline.isolation import own_directory
from infra.local.stack import free_settings

Submit = Callable[[Load, str], Load]
WAYS: dict[str, Submit] = {"Kafka": by_kafka, "REST": by_rest}
WARM_UP_S = 10.0
"""Long enough for the broker's JVM to have compiled what it runs all the time."""
SETTLE_S = 30.0
AGENTS_WITHIN_S = 60.0
RESULTS = Path(__file__).with_name("results")


def main() -> int:
    """Measure, print, and keep the result where that is asked."""
    options = _options()
    facts = machine.facts()
    with own_directory("bench") as home:
        settings = free_settings(home / "stack", agents=options.agents)
        with stack(settings) as running, _nodes(running, options.agents):
            found = measure(running, options.rate, options.seconds, options.ways)
    result = {
        "bench": "dispatch_latency",
        "command": f"python -m bench.dispatch_latency {' '.join(sys.argv[1:])}".strip(),
        "rate_per_s": options.rate,
        "seconds": options.seconds,
        "agents": options.agents,
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts,
        "latencies": {name: one.plain() for name, one in found.items()},
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(f"\n{options.rate:g} jobs/s one by one for {options.seconds:g} s, milliseconds:\n")
        print(table(found))
        print(f"\nmeasured on\n{machine.lines(facts)}")
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{options.save}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(f"kept in {path}", file=sys.stderr)
    return 1 if any(one.missing for one in found.values()) else 0


def measure(
    running: RunningStack, rate: float, seconds: float, ways: Sequence[str]
) -> dict[str, Spread]:
    """The spreads of each way of sending, warmed up first."""
    bootstrap, shards = running.addresses.bootstrap, running.settings.shards
    addresses = {"Kafka": bootstrap, "REST": running.api_url}
    found: dict[str, Spread] = {}
    with Watch(bootstrap, shards) as watch:
        for way in ways:
            submit = WAYS[way], addresses[way]
            warm = Load(f"{way}-warm", rate, int(rate * WARM_UP_S), shards)
            _put_through(warm, submit, watch)
            load = Load(f"{way}-run", rate, int(rate * seconds), shards)
            load = _put_through(load, submit, watch)
            found[f"{way}: submit to acknowledged"] = _spread(load, load.acknowledged)
            found[f"{way}: submit to dispatch"] = _spread(load, watch.dispatched)
            found[f"{way}: submit to task started"] = _spread(load, watch.started)
    return found


def _put_through(load: Load, way: tuple[Submit, str], watch: Watch) -> Load:
    """Send the load from a process of its own, and wait until all of it has started."""
    submit, address = way
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as sender:
        sent = sender.submit(submit, load, address).result()
    for error, count in sent.errors.items():
        print(f"{count} submissions were not acknowledged: {error}", file=sys.stderr)
    watch.wait_for(sent.due, SETTLE_S)
    return sent


def _spread(load: Load, seen: dict[bytes, float]) -> Spread:
    took: Iterable[float] = (seen[raw] - due for raw, due in load.due.items() if raw in seen)
    missing = sum(raw not in seen for raw in load.due)
    return spread(list(took), missing)


@contextmanager
def _nodes(running: RunningStack, agents: int) -> Iterator[None]:
    """The paper node, or the stack's real agents once all of them are registered."""
    if agents == 0:
        with paper_node(running.addresses.bootstrap):
            yield
        return
    deadline = time.monotonic() + AGENTS_WITHIN_S
    with Client(running.api_url) as client:
        while sum(len(cluster.nodes) for cluster in client.clusters().clusters) < agents:
            if time.monotonic() > deadline:
                sys.exit(f"not all of {agents} agents registered within {AGENTS_WITHIN_S:g} s")
            time.sleep(0.2)
    yield


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rate", type=float, default=100.0, help="submissions per second")
    parser.add_argument("--seconds", type=float, default=20.0, help="for so long, each way")
    parser.add_argument("--agents", type=int, default=0, help="real node agents; 0: a paper node")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="of sending")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", metavar="NAME", help="keep it as bench/results/NAME.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
