"""Workload: jobs that do not simply succeed, chosen by the first argument.

`flaky` fails on its first two attempts (FOLDLINE_ATTEMPT) and then succeeds; `doomed` always
fails; `endless` works until it is told to stop, says so, and leaves in good order; `stuck` reports
progress for a while and then none, but hangs: a job with a progress timeout ends it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from workers.progress import report_progress

FAILURES = 2
STOP_CHECK_S = 0.2
STEPS_BEFORE_STUCK = 3


def flaky(attempt: int) -> int:
    """Exit code 1 on the first two attempts."""
    if attempt <= FAILURES:
        print(f"attempt {attempt}: the data loader lost its connection (as planned)", flush=True)
        return 1
    print(f"RESULT {json.dumps({'succeeded_on_attempt': attempt})}", flush=True)
    return 0


def doomed(attempt: int) -> int:
    """Exit code 3 on every attempt."""
    print(f"attempt {attempt}: the checkpoint does not match the model (as planned)", flush=True)
    return 3


def endless(attempt: int) -> int:
    """Work until SIGTERM; exit code 0 then, for it left in good order."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    print(f"attempt {attempt}: simulating until told to stop", flush=True)
    steps = 0
    while not stop.wait(STOP_CHECK_S):
        steps += 1
    print(f"RESULT {json.dumps({'steps': steps, 'stopped': 'SIGTERM'})}", flush=True)
    return 0


def stuck(attempt: int) -> int:
    """Three steps with progress, and a fourth that never ends."""
    for step in range(STEPS_BEFORE_STUCK):
        report_progress()
        print(f"attempt {attempt}: step {step}", flush=True)
        time.sleep(STOP_CHECK_S)
    print("waiting for a peer that never answers (as planned)", file=sys.stderr, flush=True)
    threading.Event().wait()
    return 1


KINDS = {"flaky": flaky, "doomed": doomed, "endless": endless, "stuck": stuck}


def main(arguments: list[str]) -> int:
    """Run the kind of trouble that is asked for."""
    if len(arguments) != 1 or arguments[0] not in KINDS:
        print(f"usage: python -m foldline.demo.trouble_job {'|'.join(KINDS)}", file=sys.stderr)
        return 2
    return KINDS[arguments[0]](int(os.environ.get("FOLDLINE_ATTEMPT", "1")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
