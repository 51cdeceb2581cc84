"""Builds a view anew from the log's first record, beside the live one, and puts it in its place.

The new generation is folded to where the live one stood; there the digests of both are compared
with the fold's. Then it catches up, is compared with the fold once more, and becomes the live one
in one step; the old one is kept for going back. Nothing touches the live generation before that
step, so a rebuild that is stopped or killed leaves nothing but a half-built generation, which the
next one throws away. Works for every view that has generations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from projections.logs import LogReader
from projections.loop import ViewOptions, ViewRunner
from projections.pipeline import START, Position, View, ViewBehind, position_of
from schemas.digest import digest, format_digest
from stream_processors.domain.rows import all_jobs_digest, live_rows
from stream_processors.domain.state import State

LOG = structlog.get_logger("foldline.rebuild")
FLIP_TRIES = 200
"""Each time the live view may have taken in one more batch; the chance is about even."""

FoldDigest = Callable[[State], int]
"""The digest that a view of this state must have."""


class RebuildFailed(Exception):
    """The new generation is not what the fold says, or cannot take over. The live one stands."""


class RebuildableView(View, Protocol):
    """A view with generations. The methods of `View` write the live one, or the one built.

    Of a new view, `generation` is the number to flip; of the live one it is None.
    """

    generation: int | None

    def digest(self, shard: int) -> tuple[Position, int, int]:
        """The position, the digest of all job rows there, and how many they are."""

    def new_generation(self) -> RebuildableView:
        """A view with nothing in it, beside the live one; earlier half-built ones are removed."""

    def flip(self, generation: int) -> None:
        """Make it the live one, keeping the old. Raises `ViewBehind` if it must catch up first."""

    def close(self) -> None:
        """Give the connections back."""


@dataclass(frozen=True, slots=True)
class RebuiltShard:
    """What was found on one shard. `live_agreed` is None where the live view held nothing."""

    shard: int
    position: Position
    jobs: int
    digest: int
    live_agreed: bool | None


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """The generation that is live now, and its shards."""

    generation: int
    shards: tuple[RebuiltShard, ...]

    def lines(self) -> list[str]:
        """What people are told, one line a shard."""
        words = {True: "as the old one", False: "the old one DIFFERED", None: "the old was empty"}
        return [
            f"shard {one.shard}: {one.jobs} jobs at offset {one.position.next_offset}, digest"
            f" {format_digest(one.digest)}, {words[one.live_agreed]}"
            for one in self.shards
        ]


def audit_digest(state: State) -> int:
    """What the audit view holds: every job there ever was."""
    return all_jobs_digest(state)


def hot_digest(state: State) -> int:
    """What the hot view holds: the jobs that have not ended."""
    return digest(live_rows(state))


def rebuild(
    live: RebuildableView,
    fold_digest: FoldDigest,
    logs: LogReader,
    options: ViewOptions,
    stop: Callable[[], bool],
) -> RebuildReport:
    """Build a new generation of `live` from the logs, and make it the live one.

    Raises `RebuildFailed`, `Stopped`, and what `run_view` raises; the live one is as it was then.
    """
    fresh = live.new_generation()
    number = fresh.generation
    assert number is not None, "a generation that is built has a number"
    LOG.info("rebuild_begun", generation=number)
    try:
        runner = ViewRunner(fresh, logs, options, stop)
        runner.open()
        agreed = _compare_with_live(live, fold_digest, logs, runner)
        runner.run_to({shard: logs.end(shard) for shard in logs.shards})
        if not any(projector.stored != START for projector in runner.projectors.values()):
            raise RebuildFailed("the log has no record yet: there is nothing to build a view from")
        shards = [_check(fresh, fold_digest, runner, shard) for shard in logs.shards]
        _flip(live, number, logs, runner)
    finally:
        fresh.close()
    return RebuildReport(
        number,
        tuple(
            RebuiltShard(shard, position, jobs, value, agreed[shard])
            for shard, (position, value, jobs) in zip(logs.shards, shards, strict=True)
        ),
    )


def _compare_with_live(
    live: RebuildableView, fold_digest: FoldDigest, logs: LogReader, runner: ViewRunner
) -> dict[int, bool | None]:
    """Whether the live view agrees with the fold, shard by shard, where it stands as we ask.

    It may differ: that can be why it is rebuilt. The fold is the judge, and the answer is told.
    """
    agreed: dict[int, bool | None] = {}
    for shard in logs.shards:
        position, value, jobs = live.digest(shard)
        if not position.next_offset:
            agreed[shard] = None
            continue
        if position.next_offset > logs.end(shard):
            agreed[shard] = False
            continue
        runner.run_to({shard: position.next_offset})
        follower = runner.projectors[shard].follower
        same_place = position_of(follower.chain) == position
        agreed[shard] = same_place and fold_digest(follower.state) == value
        LOG.info("rebuild_compared", shard=shard, jobs=jobs, live_agrees=agreed[shard])
    return agreed


def _check(
    fresh: RebuildableView, fold_digest: FoldDigest, runner: ViewRunner, shard: int
) -> tuple[Position, int, int]:
    """The new generation must be what the fold says, at the same place."""
    projector = runner.projectors[shard]
    position, value, jobs = fresh.digest(shard)
    expected = fold_digest(projector.follower.state)
    if position != projector.stored or value != expected:
        raise RebuildFailed(
            f"shard {shard}: the new generation has digest {format_digest(value)} at offset"
            f" {position.next_offset}, the fold {format_digest(expected)} at"
            f" {projector.stored.next_offset}; the live generation was left as it is"
        )
    return position, value, jobs


def _flip(live: RebuildableView, number: int, logs: LogReader, runner: ViewRunner) -> None:
    for _ in range(FLIP_TRIES):
        try:
            live.flip(number)
        except ViewBehind as error:
            LOG.info("rebuild_catches_up", reason=str(error))
            runner.run_to({shard: logs.end(shard) for shard in logs.shards})
        else:
            LOG.info("rebuild_live", generation=number)
            return
    raise RebuildFailed(f"generation {number} never caught up with the live one, which stays")
