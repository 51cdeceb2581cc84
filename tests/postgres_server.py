"""A PostgreSQL of a test's own, that can be killed and started again on its data."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import mkdtemp

import psutil

from infra.local.ports import free_ports
from infra.local.postgres_server import postgres_dsn, postgres_program
from infra.local.process import Server
from infra.postgres import Database


class PostgresServer:
    """One server on a free loopback port, in a directory that its system user can reach."""

    def __init__(self) -> None:
        self._directory = Path(mkdtemp(prefix="foldline-postgres-"))
        self._directory.chmod(0o711)
        (port,) = free_ports(1)
        program = postgres_program(self._directory / "files", port)
        self._server = Server(program, self._directory, self._directory)
        program.prepare()
        # The kernel keeps what a killed process wrote: a test that cuts no power needs no flush.
        settings = self._directory / "files" / "data" / "postgresql.auto.conf"
        with settings.open("a") as file:
            file.write("fsync = off\n")

    @property
    def url(self) -> str:
        """Of its one database."""
        return postgres_dsn(self._directory / "files", self._server.program.port)

    def start(self) -> None:
        """Returns once it serves."""
        self._server.start()
        self._server.wait_ready()

    def kill(self) -> None:
        """SIGKILL to the server and all its sessions; returns once they are gone."""
        pid = self._server.pid()
        assert pid is not None, "it does not run"
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        for one in family:
            one.kill()
        psutil.wait_procs(family, timeout=20)

    def remove(self) -> None:
        """Stop it, and delete everything."""
        self._server.stop()
        shutil.rmtree(self._directory)

    def clear(self) -> None:
        """Drop everything that the audit view ever made."""
        database = Database(self.url, "public")
        with database.transaction() as session:
            found = session.fetch(
                "SELECT nspname FROM pg_namespace WHERE nspname = 'foldline'"
                " OR nspname ~ '^audit_g[0-9]+$'"
            )
            for (name,) in found:
                session.drop_schema(name)
        database.close()
