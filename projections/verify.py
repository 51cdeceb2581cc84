"""Proof that the views are what the log says: the log from its first record, and each view.

Folds every shard from offset 0 with the counting rule, and compares each view with the fold at
exactly the view's own position: the chain there, the digest of all its job rows, and of the dead
letters where the view holds those. Reads only;
views may move while it runs, for each is read as of one moment. What disagrees is named: the
record, or the first job whose rows differ.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from infra.follow import ShardFollower
from infra.log import read_record
from projections.audit import AuditView
from projections.hot import HotView
from projections.letters import LetterBook
from projections.logs import KafkaLogs, LogReader
from projections.pipeline import Position, position_of
from projections.rebuild import FoldDigest, audit_digest, hot_digest
from schemas.digest import JobRow, LetterRow, digest, format_digest
from schemas.envelope import Decision
from schemas.terms import ENDED_STATES
from stream_processors.domain.counting import Chain, LogStopped, Verdict, judge
from stream_processors.domain.rows import job_row
from stream_processors.domain.state import State

POLL_S = 0.5
READ_RECORDS = 2_000
QUIET_POLLS = 60
"""So many empty polls in a row, and the log is said not to give what it has."""


class ComparableView(Protocol):
    """What verification asks of a view."""

    def digest(self, shard: int) -> tuple[Position, int, int]:
        """The position, the digest of all job rows there, and how many they are."""

    def rows(self, shard: int) -> tuple[Position, list[JobRow]]:
        """The rows themselves, and the position at which they are so."""


@runtime_checkable
class LetterView(Protocol):
    """A view that holds dead letters too."""

    def letters(self, shard: int) -> tuple[Position, list[LetterRow]]:
        """Every dead letter, and the position at which that is so."""


@dataclass(frozen=True, slots=True)
class ViewFinding:
    """One view of one shard. `problem` is empty where it is what the fold says.

    `letters` is None for a view that holds no dead letters.
    """

    view: str
    position: Position
    jobs: int
    digest: int
    problem: str = ""
    letters: int | None = None


@dataclass(frozen=True, slots=True)
class ShardFinding:
    """One shard: how many records counted, what was skipped and why, and what is wrong.

    `value` is the chain over everything that counted. `problem` is empty where the log is whole.
    """

    shard: int
    records: int
    jobs: int
    next_offset: int
    value: bytes
    skipped: dict[Verdict, int]
    views: tuple[ViewFinding, ...]
    problem: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether log and views are as they should be."""
        return not self.problem and not any(view.problem for view in self.views)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found on every shard."""

    shards: tuple[ShardFinding, ...]

    @property
    def is_ok(self) -> bool:
        """Whether everything is as it should be."""
        return all(shard.is_ok for shard in self.shards)

    def lines(self) -> Iterator[str]:
        """What people are told."""
        for one in self.shards:
            skipped = sum(one.skipped.values())
            yield (
                f"shard {one.shard}: {one.records} records, {one.jobs} jobs, {skipped} skipped,"
                f" chain {one.value.hex()[:16]} at offset {one.next_offset}:"
                f" {one.problem or 'whole'}"
            )
            for view in one.views:
                letters = "" if view.letters is None else f" and {view.letters} dead letters"
                at = f"{view.jobs} jobs{letters} at offset {view.position.next_offset}"
                yield (
                    f"  {view.view}: {at}, digest"
                    f" {format_digest(view.digest)[:16]}: {view.problem or 'equal to the fold'}"
                )


def verify(bootstrap: str, dsn: str, redis_url: str) -> VerifyReport:
    """Verify the whole installation.

    Raises `KafkaUnavailable` and `ViewUnavailable` where a server does not answer.
    """
    logs, audit, hot = KafkaLogs(bootstrap), AuditView(dsn), HotView(redis_url)
    try:
        views: dict[str, tuple[ComparableView, FoldDigest]] = {
            "audit": (audit, audit_digest),
            "hot": (hot, hot_digest),
        }
        return verify_views(logs, views)
    finally:
        logs.close()
        audit.close()
        hot.close()


def verify_views(
    logs: LogReader, views: Mapping[str, tuple[ComparableView, FoldDigest]]
) -> VerifyReport:
    """Verify these views, each with the digest that the fold asks of it."""
    return VerifyReport(tuple(_verify_shard(logs, shard, views) for shard in logs.shards))


@dataclass(slots=True)
class _Walk:
    """The walk along one shard's log. `doubtful` is the first record that should have counted."""

    follower: ShardFollower
    book: LetterBook
    records: int = 0
    skipped: Counter[Verdict] = field(default_factory=Counter)
    doubtful: int | None = None
    problem: str = ""


def _verify_shard(
    logs: LogReader, shard: int, views: Mapping[str, tuple[ComparableView, FoldDigest]]
) -> ShardFinding:
    """Views are asked first, so that the log surely holds all that they have taken in."""
    claims = {name: view.digest(shard) for name, (view, _) in views.items()}
    letters = _Letters({}, {})
    for name, (view, _) in views.items():
        if isinstance(view, LetterView):
            letters.claims[name] = view.letters(shard)
    walk = _Walk(ShardFollower(shard), LetterBook(shard))
    findings: dict[str, ViewFinding] = {}

    def meet() -> None:
        letters.meet(walk)
        for name, (position, value, jobs) in claims.items():
            if position.next_offset == walk.follower.chain.next_offset:
                view, fold_digest = views[name]
                problem = _compare(view, fold_digest, walk.follower, (position, value))
                findings[name] = ViewFinding(name, position, jobs, value, problem)

    _walk(logs, shard, walk, meet)
    for name, (position, value, jobs) in claims.items():
        if name not in findings:
            problem = _beyond(position, walk)
            findings[name] = ViewFinding(name, position, jobs, value, problem)
    findings = {name: letters.noted(walk, finding) for name, finding in findings.items()}
    chain, state = walk.follower.chain, walk.follower.state
    return ShardFinding(
        shard=shard,
        records=walk.records,
        jobs=len(state.jobs) + state.forgotten,
        next_offset=chain.next_offset,
        value=chain.value,
        skipped=dict(walk.skipped),
        views=tuple(findings[name] for name in views),
        problem=walk.problem,
    )


@dataclass(slots=True)
class _Letters:
    """What views claim of dead letters, and what is wrong with it where the walk has met them."""

    claims: dict[str, tuple[Position, list[LetterRow]]]
    problems: dict[str, str]

    def meet(self, walk: _Walk) -> None:
        """Compare every claim that is about this place."""
        for name, (position, rows) in self.claims.items():
            if position.next_offset == walk.follower.chain.next_offset:
                self.problems[name] = _compare_letters(rows, walk.book)

    def noted(self, walk: _Walk, finding: ViewFinding) -> ViewFinding:
        """The finding with what was found of its view's letters."""
        claim = self.claims.get(finding.view)
        if claim is None:
            return finding
        position, rows = claim
        problem = self.problems.get(finding.view, _beyond(position, walk))
        return replace(finding, letters=len(rows), problem=finding.problem or problem)


def _beyond(position: Position, walk: _Walk) -> str:
    return (
        f"stands at offset {position.next_offset}, which the log does not reach:"
        f" it ends at {walk.follower.chain.next_offset}"
    )


def _walk(logs: LogReader, shard: int, walk: _Walk, meet: Callable[[], None]) -> None:
    """Fold from the first record to the end as it is now, calling `meet` at every place."""
    end = logs.end(shard)
    logs.seek(shard, 0)
    quiet = 0
    meet()
    while walk.follower.chain.next_offset < end and not walk.problem:
        found = logs.poll(POLL_S, READ_RECORDS)
        quiet = 0 if found else quiet + 1
        if quiet >= QUIET_POLLS:
            walk.problem = f"record {walk.follower.chain.next_offset} cannot be read"
        for other, entry in found:
            if other != shard or entry.offset >= end or walk.problem:
                continue
            before = walk.follower.chain
            try:
                counted = walk.follower.feed(entry)
            except LogStopped as error:
                walk.problem = str(error)
                continue
            if counted is not None:
                walk.records += 1
                walk.doubtful = None
                gone = {job.no: job for job in counted.forgotten}
                walk.book.take(counted, ChainMap(gone, walk.follower.state.jobs))
            else:
                _note_skipped(walk, before, entry.value, entry.offset)
            meet()
    if walk.doubtful is not None and not walk.problem:
        walk.problem = (
            f"record {walk.doubtful} does not follow what comes before it, and nothing after it"
            " counts: a record before it was changed or removed"
        )


def _note_skipped(walk: _Walk, before: Chain, value: bytes, offset: int) -> None:
    """Skipping is everyday; a record of the present owner from further on is not, if it is last."""
    record = read_record(value)
    _, verdict = judge(before, record, value, offset)
    walk.skipped[verdict] += 1
    if isinstance(record, Decision) and walk.doubtful is None:
        present = (record.epoch, record.owner) == (before.epoch, before.owner)
        if present and record.seq > before.seq:
            walk.doubtful = offset


def _compare(
    view: ComparableView,
    fold_digest: FoldDigest,
    follower: ShardFollower,
    claim: tuple[Position, int],
) -> str:
    position, value = claim
    here = position_of(follower.chain)
    if position != here:
        return (
            f"followed another history: at offset {here.next_offset} the log is at epoch"
            f" {here.epoch}, seq {here.seq}, chain {here.value.hex()[:16]}, the view at epoch"
            f" {position.epoch}, seq {position.seq}, chain {position.value.hex()[:16]}"
        )
    expected = fold_digest(follower.state)
    if value == expected:
        return ""
    found = f"has digest {format_digest(value)}, the fold has {format_digest(expected)}"
    at, rows = view.rows(follower.shard)
    if at != position:
        return f"{found}; the view has moved on since, so the job that differs is not named"
    return f"{found}; {_first_difference(follower.state, rows)}"


def _compare_letters(rows: list[LetterRow], book: LetterBook) -> str:
    value, expected = digest(rows), book.digest()
    if value == expected:
        return ""
    held = {(row.letter_id, row.job_no): row for row in rows}
    for due in book.rows():
        row = held.pop((due.letter_id, due.job_no), None)
        if row != due:
            return f"dead letter {due.letter_id} is {row or 'missing'}, it should be {due}"
    return f"has dead letters that the log knows nothing of: {', '.join(key for key, _ in held)}"


def _first_difference(state: State, rows: list[JobRow]) -> str:
    """The first job, by number, on which view and fold differ."""
    held = {row.job_no: row for row in rows}
    has_ended = any(row.state in ENDED_STATES for row in rows)
    for no, job in state.jobs.items():
        due = job_row(state.shard, job)
        row = held.pop(no, None)
        if row is None and (has_ended or job.state not in ENDED_STATES):
            return f"job {due.job_id} (number {no}) is missing; it should be {due}"
        if row is not None and row != due:
            return f"job {due.job_id} (number {no}) is {row}, it should be {due}"
    return f"one of {len(held)} jobs that the fold no longer knows one by one differs"
