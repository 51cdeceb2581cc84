"""Where settings files are, and what stands in them: TOML tables, one a room.

The one file that people write, and the one in which a running local stack says how to reach it.
Reads the environment and files; what the values may be is `settings.py`.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

_HOME = (
    Path("/var/lib/foldline")
    if os.geteuid() == 0
    else Path.home() / ".local" / "share" / "foldline"
)
"""Root's home is closed to the system user that PostgreSQL must run as."""


class SettingsError(Exception):
    """A setting is unknown, refused or not a legal value. The message says which and what to do."""


def data_dir_default() -> Path:
    """The one directory of the local stack: FOLDLINE_STACK_DATA_DIR, else as the file says."""
    given = os.environ.get("FOLDLINE_STACK_DATA_DIR")
    if given:
        return Path(given).absolute()
    named = os.environ.get("FOLDLINE_CONFIG")
    path = Path(named) if named else _HOME / "foldline.toml"
    return Path(table_of(path, "stack").get("data_dir", _HOME)).absolute()


def config_path() -> Path:
    """The one settings file; it need not exist unless FOLDLINE_CONFIG names it."""
    named, given = os.environ.get("FOLDLINE_CONFIG"), os.environ.get("FOLDLINE_STACK_DATA_DIR")
    return Path(named) if named else Path(given or _HOME) / "foldline.toml"


def running_path() -> Path:
    """Where a running local stack writes down how to reach it; made and removed by that stack."""
    return data_dir_default() / "run" / "services.toml"


def table_of(path: Path, room: str) -> dict[str, Any]:
    """The table of a room in a settings file; empty where there is none. Raises `SettingsError`."""
    table = read_file(path).get(room, {})
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: [{room}] must be a table of settings")
    return table


def read_file(path: Path) -> dict[str, Any]:
    """A settings file; empty where there is none and none was named. Raises `SettingsError`."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        if os.environ.get("FOLDLINE_CONFIG") == str(path):
            raise SettingsError(f"FOLDLINE_CONFIG names {path}, which does not exist") from error
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read as TOML: {error}") from error
