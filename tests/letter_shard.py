"""Shards with dead letters in them, for tests of the views: jobs that fail, inputs that are parked."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

from schemas.commands import PurgeDeadLetters
from schemas.terms import FailureClass, Micros, ParkedRecord, RecordHeader, TaskState
from stream_processors.domain.draft import Unreadable
from tests.cluster import node, uid
from tests.view_shard import ViewShard, job


def shard_with_node() -> ViewShard:
    """A shard with one node that takes everything."""
    shard = ViewShard()
    shard.report(node())
    return shard


def lay_aside(
    shard: ViewShard,
    key: str,
    failure: FailureClass = FailureClass.USER_ERROR,
    tail: str = "the last words",
    **terms: Any,
) -> str:
    """A job that fails for good; its id, which is its letter's."""
    shard.command(job(key, max_retries=0, **terms))
    shard.says(key, TaskState.STARTED)
    ended = shard.row(key, TaskState.ENDED, 0, failure)
    shard.report(replace(ended, tail_rows=[0], tails=[tail]))
    return uid(key)


def redrive(shard: ViewShard, letter: str, key: str) -> str:
    """A submission that runs a letter again; the new job's id."""
    again = replace(job(key), causation_id=f"redrive:{letter}", redrives=letter)
    shard.command(again)
    return uid(key)


def purge(shard: ViewShard, *letters: str, reason: str = "dealt with") -> None:
    """Say that letters were dealt with."""
    shard.command(PurgeDeadLetters(letters, reason, "someone"))


def park(shard: ViewShard, value: bytes = b"\x00\x00\x00\xff\xffrubbish") -> str:
    """An unreadable command; its letter's id."""
    offset = shard._commands
    record = ParkedRecord(
        input="commands",
        offset=offset,
        at=Micros(shard.now),
        code="unknown_schema",
        message="schema id 65535 is not known",
        key=b"default",
        headers=(RecordHeader("ce_id", b"\xff\x00x"),),
        size=len(value),
        sha256=sha256(value).digest(),
        value=value,
    )
    shard.command(Unreadable(record.code, record.message, record))
    return f"{shard.state.shard}:commands:{offset}"
