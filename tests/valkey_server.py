"""A Valkey of a test's own, that can be killed, saved and started again on its data."""

from __future__ import annotations

import subprocess
from pathlib import Path
from time import monotonic, sleep

from infra.local.ports import LOOPBACK, free_ports
from infra.local.valkey_server import valkey_program

START_S = 20.0


class ValkeyServer:
    """One server process on a free loopback port; its file is written by `save` alone."""

    def __init__(self, directory: Path) -> None:
        (self.port,) = free_ports(1)
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        self._directory = directory
        self._program = valkey_program(directory, self.port)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it serves."""
        self._program.prepare()
        argv = [*self._program.argv(), "--appendonly", "no"]
        log = (self._directory / "log").open("ab")
        self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        log.close()
        deadline = monotonic() + START_S
        while not self._program.is_ready(self._process.pid):
            assert self._process.poll() is None, "the server ended while it started"
            assert monotonic() < deadline, "the server did not start in time"
            sleep(0.01)

    def save(self) -> None:
        """Write everything to its file: what a kill after this one leaves."""
        self._order("SAVE")

    def limit(self, memory: str) -> None:
        """Take no more than so much memory; "0" for as much as there is."""
        self._order("CONFIG", "SET", "maxmemory", memory)

    def _order(self, *words: str) -> None:
        binary = Path(self._program.argv()[0]).with_name("valkey-cli")
        argv = [str(binary), "-e", "-p", str(self.port), *words]
        subprocess.run(argv, check=True, capture_output=True)

    def kill(self) -> None:
        """SIGKILL; returns once it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_S)
            self._process = None
