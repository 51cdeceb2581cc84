"""What there is to say and do about a system that `foldline dev` runs: status, stop and reset."""

from __future__ import annotations

import json
import shutil

import psutil
from rich.console import Console
from rich.table import Table

from foldline.dev import STOP_WITHIN_S, ready_pid
from infra.local.process import read_identity
from infra.local.stack import (
    HOLDER,
    LocalServers,
    StackHeld,
    held,
    holder,
    run_dir,
    servers_of,
    unpublish,
)
from infra.settings import StackSettings


def print_status(settings: StackSettings, *, as_json: bool = False) -> int:
    """What runs and where; 0 if the system is up, 1 if not."""
    pid = holder(settings)
    rows = {path.stem: read_identity(path) for path in sorted(run_dir(settings).glob("*.pid"))}
    ready = pid is not None and ready_pid(settings) == pid
    if as_json:
        answer = {"ready": ready, "data_dir": str(settings.data_dir), "pids": rows}
        print(json.dumps(answer))
        return 0 if ready else 1
    table = Table("what", "pid", "log", box=None, header_style="bold")
    for name, who in rows.items():
        if name != HOLDER:
            table.add_row(name, str(who or "down"), str(settings.data_dir / "logs" / f"{name}.log"))
    console = Console(highlight=False)
    state = f"up (pid {pid})" if ready else f"starting (pid {pid})" if pid else "not running"
    console.print(f"Foldline is {state}; data in {settings.data_dir}")
    if table.row_count:
        console.print(table, soft_wrap=True)
    return 0 if ready else 1


def stop_stack(settings: StackSettings, *, on_stderr: bool = False) -> int:
    """Stop the system wherever it was started, servers that were left behind too; the exit code."""
    console = Console(highlight=False, stderr=on_stderr)
    pid = holder(settings)
    try:
        if pid is not None:
            _end(pid)
        left = _stop_servers(settings)
    except (psutil.TimeoutExpired, StackHeld) as error:
        console.print(f"[red]Foldline is still stopping[/] ({error}); see {settings.data_dir}/logs")
        return 1
    except psutil.AccessDenied:
        console.print(f"[red]pid {pid} belongs to another user[/], who can stop it")
        return 1
    console.print("Foldline is stopped" if pid or left else "Foldline was not running")
    return 0


def _end(pid: int) -> None:
    try:
        process = psutil.Process(pid)
        process.terminate()
        process.wait(STOP_WITHIN_S * 10)
    except psutil.NoSuchProcess:
        return  # ended by itself meanwhile, which is what was asked


def _stop_servers(settings: StackSettings) -> bool:
    """Stop servers whose supervisor was killed; True if there were any."""
    if not run_dir(settings).exists():
        return False
    with held(settings):
        servers: LocalServers = servers_of(settings)
        left = any(server.pid() is not None for server in servers.servers)
        servers.stop()
        unpublish(settings)
    return left


def reset_stack(settings: StackSettings, *, on_stderr: bool = False) -> int:
    """Stop the system and delete its data; the settings file stays. The exit code."""
    code = stop_stack(settings, on_stderr=on_stderr)
    if code == 0:
        for name in ("agents", "kafka", "logs", "postgres", "run", "shared", "valkey"):
            shutil.rmtree(settings.data_dir / name, ignore_errors=True)
        Console(highlight=False, stderr=on_stderr).print(
            f"The data under {settings.data_dir} is deleted"
        )
    return code
