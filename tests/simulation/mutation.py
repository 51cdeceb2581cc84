"""One broken rule: its name, the design's section that states it, and how it is broken.

Product code knows nothing of this: a rule is broken by exchanging a function for the time of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Mutation:
    """`seed` is the first that found it."""

    name: str
    section: str
    breaks: Callable[[], AbstractContextManager[None]]
    seed: int = 1


@contextmanager
def exchanged(owner: Any, **values: Any) -> Iterator[None]:
    """For the time of a run, these names of a class, module or dictionary mean something else."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
