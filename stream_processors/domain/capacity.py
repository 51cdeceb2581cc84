"""What a node has free, and whether a task fits: the arithmetic of resource vectors.

Integers only: cpu_milli, memory_mib, thousandths of each GPU device by index, named extras. A task
below one whole GPU shares one device (the fullest that still has room, lowest index on ties); one
of k whole GPUs takes the k lowest free devices.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.terms import JobTerms
from stream_processors.domain.state import WHOLE_GPU_MILLI, Node

NODE_TASKS_MAX = 10_000


@dataclass(slots=True)
class Free:
    """Free amounts of one node while a decision is being made: a scratch copy.

    `slots` is how many more tasks it may hold, so that the loss of one node fits in one record.
    """

    cpu: int
    memory: int
    gpus: list[int]
    extras: dict[str, int]
    slots: int


def free_of(node: Node) -> Free:
    """A copy of what the node has free."""
    slots = NODE_TASKS_MAX - len(node.tasks)
    return Free(
        node.cpu_free, node.memory_free, node.gpu_free.copy(), node.extras_free.copy(), slots
    )


def admits(node: Node, terms: JobTerms) -> bool:
    """Whether the node may take tasks of these terms at all, whatever is free now."""
    if node.draining:
        return False
    asks_model = terms.gpu_milli > 0 and bool(terms.gpu_models)
    if asks_model and not any(device.model in terms.gpu_models for device in node.gpus):
        return False
    labels = {label.name: label.value for label in node.labels}
    return all(labels.get(asked.name) == asked.value for asked in terms.node_selector)


def pick_devices(node: Node, free: Free, terms: JobTerms) -> bytes | None:
    """The devices that a task would get, one byte per index; None where they are not free."""
    if terms.gpu_milli == 0:
        return b""
    wanted = terms.gpu_models
    usable = [
        index for index, device in enumerate(node.gpus) if not wanted or device.model in wanted
    ]
    if terms.gpu_milli < WHOLE_GPU_MILLI:
        fits = [index for index in usable if free.gpus[index] >= terms.gpu_milli]
        return bytes([min(fits, key=free.gpus.__getitem__)]) if fits else None
    count = terms.gpu_milli // WHOLE_GPU_MILLI
    whole = [index for index in usable if free.gpus[index] == WHOLE_GPU_MILLI]
    return bytes(whole[:count]) if len(whole) >= count else None


def fit(node: Node, free: Free, terms: JobTerms) -> bytes | None:
    """The devices with which one task fits into `free` now, or None where it does not."""
    if free.cpu < terms.cpu_milli or free.memory < terms.memory_mib or not free.slots:
        return None
    if any(free.extras.get(extra.name, 0) < extra.amount for extra in terms.extras):
        return None
    return pick_devices(node, free, terms)


def take(free: Free, terms: JobTerms, devices: bytes, sign: int = 1) -> None:
    """Book one task (or give it back, with sign -1)."""
    free.cpu -= sign * terms.cpu_milli
    free.memory -= sign * terms.memory_mib
    free.slots -= sign
    share = min(terms.gpu_milli, WHOLE_GPU_MILLI)
    for index in devices:
        free.gpus[index] -= sign * share
    for extra in terms.extras:
        free.extras[extra.name] -= sign * extra.amount


def book(node: Node, terms: JobTerms, devices: bytes, sign: int = 1) -> None:
    """The same on the node itself; called by the fold alone."""
    node.cpu_free -= sign * terms.cpu_milli
    node.memory_free -= sign * terms.memory_mib
    share = min(terms.gpu_milli, WHOLE_GPU_MILLI)
    for index in devices:
        node.gpu_free[index] -= sign * share
        assert 0 <= node.gpu_free[index] <= WHOLE_GPU_MILLI, "a GPU was given twice"
    for extra in terms.extras:
        node.extras_free[extra.name] -= sign * extra.amount
        assert node.extras_free[extra.name] >= 0, "a named resource was given twice"
    assert 0 <= node.cpu_free <= node.cpu_milli, "CPU was given twice"
    assert 0 <= node.memory_free <= node.memory_mib, "memory was given twice"


def whole(node: Node) -> Free:
    """What the node would have free if it held nothing."""
    extras = {extra.name: extra.amount for extra in node.extras}
    gpus = [WHOLE_GPU_MILLI] * len(node.gpus)
    return Free(node.cpu_milli, node.memory_mib, gpus, extras, NODE_TASKS_MAX)


def how_many(node: Node, free: Free, terms: JobTerms, most: int) -> int:
    """How many tasks of these terms would fit into `free` (which is used up)."""
    if not admits(node, terms):
        return 0
    count = 0
    while count < most and (devices := fit(node, free, terms)) is not None:
        take(free, terms, devices)
        count += 1
    return count


def shortage(node: Node, free: Free, terms: JobTerms) -> str:
    """The first thing that keeps one task off this node, in words; "" where it fits."""
    if node.draining:
        return "draining"
    if not admits(node, terms):
        return "other labels or GPU model"
    if free.cpu < terms.cpu_milli:
        return "too little CPU free"
    if free.memory < terms.memory_mib:
        return "too little memory free"
    for extra in terms.extras:
        if free.extras.get(extra.name, 0) < extra.amount:
            return f"too little {extra.name} free"
    return "" if pick_devices(node, free, terms) is not None else "too few GPUs free"
