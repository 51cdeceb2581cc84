"""Python's cycle collector, kept away from a fold of millions of objects that holds no cycle.

A full collection walks every object: at a million jobs that is seconds in which a process neither
hears nor decides. Reference counts free the fold's objects; only small things form cycles.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG, MIDDLE = 50_000, 10
"""Objects added until the youngest are looked at, and how many such looks make a longer one: what
is walked at once stays below half a million objects."""
NEVER = 1_000_000_000


@contextmanager
def not_collecting() -> Iterator[None]:
    """No collection while very many objects are made."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def spare_the_fold() -> None:
    """From here on, what is there and what grows old is never walked again; call it after loading."""
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, NEVER)
