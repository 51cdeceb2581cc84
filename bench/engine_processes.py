"""Engine processes under measurement: started, killed, stopped, and what their logs say they did.

Each is a `foldline serve engine` on the Kafka that it is told of, with its log in a file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import psutil

WITHIN_S = 300.0
LOOK_S = 0.01


class EngineProcess:
    """One start of an engine. Moments are of `time.time()`."""

    def __init__(self, bootstrap: str, log: Path, **settings: str) -> None:
        """Starts it; `settings` are variables of the room `engine`, in lower case."""
        self.log = log
        told = {f"FOLDLINE_ENGINE_{name}".upper(): value for name, value in settings.items()}
        environment = {**os.environ, "FOLDLINE_KAFKA_BOOTSTRAP": bootstrap, **told}
        argv = [sys.executable, "-m", "foldline", "serve", "engine"]
        self.started_at = time.time()
        with log.open("wb") as output:
            self._process = subprocess.Popen(argv, env=environment, stdout=output, stderr=output)

    def moments(self, event: str) -> list[float]:
        """When it told of this event."""
        found = []
        for line in self.log.read_text().splitlines():
            if f'"event": "{event}"' in line and line.endswith("}"):
                at = json.loads(line)["timestamp"].replace("Z", "+00:00")
                found.append(datetime.fromisoformat(at).timestamp())
        return found

    def wait_for(self, event: str, times: int = 1) -> float:
        """The moment at which it told of this event for the so manieth time."""
        deadline = time.time() + WITHIN_S
        while len(found := self.moments(event)) < times:
            if time.time() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"an engine did not come to {event!r}: see {self.log}")
            time.sleep(LOOK_S)
        return found[times - 1]

    def peak_mib(self) -> int:
        """The most memory that it has held so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) // 1024

    def cpu_s(self) -> float:
        """The CPU time that it has used so far, in seconds."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self._process.pid, number)

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
