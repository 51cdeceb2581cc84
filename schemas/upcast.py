"""Old messages become current ones on reading: pure steps, one version each, chained here.

An entry (class name, version) takes that version's fields by name and returns the newest ones.
Fields that the class has are its own types already, others are plain. Only changes that a field's
default cannot express need an entry. The log itself is never rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

UPCASTERS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Filled as versions come; empty while every message is at its first."""
