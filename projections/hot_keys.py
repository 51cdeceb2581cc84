"""How the hot view's keys are called, and how a position lies in Redis. Pure.

One hash tag per shard and generation, so that a cluster keeps what one script touches on one node:

    foldline:{s0.g3}:meta      value, position, counted_from; retired where another one is live
    foldline:{s0.g3}:jobs      job id -> JSON of every job that has not ended
    foldline:{s0.g3}:order:POOL            jobs that could be placed, in the order of service
    foldline:{s0.g3}:waiting:POOL/QUEUE    queued jobs by the moment they were queued
    foldline:{s0.g3}:active:POOL/QUEUE     scheduled and running ones, by the same of theirs
    foldline:{s0.g3}:retrying:POOL/QUEUE   by the moment they are due
    foldline:{s0.g3}:nodes, :queues, :pools   name -> JSON
    foldline:{s0.g3}:loads                 tenant ('': all) -> jobs that have not ended, spec bytes
    foldline:{s0.g3}:minutes, :minute:N    counters of the last 24 hours

`foldline:hot` is the registry: `next` generation, `live:SHARD`, `previous:SHARD` (kept for
rollback), and `doomed:GENERATION:SHARD`, `building:GENERATION:SHARD` for what a crash left behind.
"""

from __future__ import annotations

import json

from projections.pipeline import Position
from stream_processors.domain.counting import GENESIS_VALUE

REGISTRY = "foldline:hot"


def root(shard: int, generation: int) -> str:
    """What all keys of one generation of a shard begin with."""
    return f"foldline:{{s{shard}.g{generation}}}:"


def meta(shard: int, generation: int) -> str:
    """The hash that says where in the log the generation stands."""
    return f"{root(shard, generation)}meta"


def parse_meta(key: str) -> tuple[int, int]:
    """Shard and generation of a meta key."""
    shard, _, generation = key.partition("{")[2].partition("}")[0].partition(".")
    return int(shard.removeprefix("s")), int(generation.removeprefix("g"))


def chain_text(position: Position) -> str:
    """The chain value as the script compares it; '' where nothing has counted yet."""
    return "" if position.value == GENESIS_VALUE else position.value.hex()


def encode_position(position: Position) -> str:
    """A position's JSON."""
    return json.dumps(
        {
            "next_offset": position.next_offset,
            "epoch": position.epoch,
            "owner": position.owner.hex(),
            "seq": position.seq,
            "value": position.value.hex(),
            "at": position.at,
            "commands": position.commands,
            "reports": position.reports,
        }
    )


def decode_position(text: str | bytes) -> Position:
    """The position that `encode_position` wrote."""
    values = json.loads(text)
    values["owner"] = bytes.fromhex(values["owner"])
    values["value"] = bytes.fromhex(values["value"])
    return Position(**values)
