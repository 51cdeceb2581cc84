"""One shard's log as it grows: what counts, what each view must say at each place, what is public.

Holds the reference fold and, beside it, `Ledger` (`ledger.py`): a naive reading of the events that
shares no rule with the product. Every record that lands is judged by both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from infra.follow import CountedRecord, ShardFollower, touched_jobs
from infra.log import Entry, read_record
from infra.state_codec import decode_snapshot
from projections.relay_facts import JobFacts, PublicRecord, to_record
from schemas.codec import schema_ids
from schemas.digest import JobRow
from schemas.envelope import Claim, Decision, Input
from schemas.terms import ENDED_STATES
from stream_processors.domain.fingerprint import fingerprint
from stream_processors.domain.rows import job_row
from stream_processors.ownership import OwnershipOptions
from tests.simulation.ledger import Ledger
from tests.simulation.witness import Truth
from tests.simulation.world import SECOND, Violation

EVENT_NAMES = {number: name for number, (name, _) in schema_ids().items()}
AHEAD_MAX_US = OwnershipOptions().far_off_us + 5 * SECOND
"""An owner may be as far off when it claims; what comes on top is its clock's drift."""
ENDED = frozenset(state.value for state in ENDED_STATES)


def event_names(record: Decision) -> set[str]:
    """What kinds of events a decision holds, without reading them."""
    return {EVENT_NAMES[event.schema_id] for event in record.events}


@dataclass(slots=True)
class Counter:
    """The counting rule once more, in its shortest form."""

    epoch: int = 0
    owner: bytes = b""
    seq: int = 0
    value: bytes = bytes(32)

    def counts(self, record: Claim | Decision | None, raw: bytes) -> bool:
        """Whether the next record counts."""
        if isinstance(record, Claim):
            if record.epoch != self.epoch + 1:
                return False
            self.epoch, self.owner = record.epoch, record.owner
        elif isinstance(record, Decision):
            ours = (record.epoch, record.owner, record.seq, record.prev)
            if ours != (self.epoch, self.owner, self.seq + 1, self.value):
                return False
            self.seq += 1
        else:
            return False
        self.value = sha256(self.value + raw).digest()
        return True


class History:
    """Everything that follows from one shard's log up to its end."""

    def __init__(self, shard: int, truth: Truth, entries: Callable[[], list[Entry]]) -> None:
        self.shard = shard
        self.follower = ShardFollower(shard)
        self.ledger = Ledger(shard, truth)
        self.public: dict[str, PublicRecord] = {}
        self.public_offsets: list[tuple[int, str]] = []
        self.versions: dict[int, list[tuple[int, JobRow]]] = {}
        self.changes: list[tuple[int, int]] = []
        self.entries = entries
        self._facts = JobFacts(self.follower.state)
        self._counter = Counter()
        self._checked = ShardFollower(shard)

    def land(self, entry: Entry) -> str:
        """A record landed; answers what it is, for the trace. Raises `Violation`."""
        try:
            counted = self.follower.feed(entry)
        except Violation:
            raise
        except Exception as error:
            raise Violation(
                "what counts can be folded", f"offset {entry.offset}: {error!r}"
            ) from error
        if counted is None:
            record = read_record(entry.value)
            if self._counter.counts(record, entry.value):
                raise Violation("every reader counts alike", f"offset {entry.offset} should count")
            return f"{entry.offset} does not count"
        if not self._counter.counts(counted.record, entry.value):
            raise Violation("every reader counts alike", f"offset {entry.offset} should not count")
        if isinstance(counted.record, Claim):
            return f"{entry.offset} claim of epoch {counted.record.epoch}"
        ahead_us = counted.record.at - entry.at
        if ahead_us > AHEAD_MAX_US:
            raise Violation("log time keeps to the broker's", f"{ahead_us / SECOND:.0f} s ahead")
        self._fold(counted)
        words = [type(event).__name__ for event in counted.events]
        return f"{entry.offset} seq {counted.record.seq}: {', '.join(words)}"

    def _fold(self, counted: CountedRecord) -> None:
        record = counted.record
        assert isinstance(record, Decision)
        self.ledger.take(record, counted.events)
        consumed = [part for part in record.consumed if part.input is Input.COMMANDS]
        self.ledger.check_answers(counted.events, [(one.start, one.stop) for one in consumed])
        gone = {job.no: job for job in counted.forgotten}
        for no in sorted(touched_jobs(counted.events)):
            job = gone.get(no) or self.follower.state.jobs[no]
            self.versions.setdefault(no, []).append((counted.offset, job_row(self.shard, job)))
            self.changes.append((counted.offset, no))
        for fact in map(to_record, self._facts.take(counted)):
            name = dict(fact.headers)["ce_id"].decode()
            if name in self.public:
                raise Violation("public event ids are unique", name)
            self.public[name] = fact
            self.public_offsets.append((counted.offset, name))

    # What a view must say when everything before an offset is in it.

    def row(self, no: int, before: int) -> JobRow | None:
        """A job's row at that place."""
        found = self.versions.get(no, [])
        place = bisect_left(found, before, key=lambda version: version[0])
        return found[place - 1][1] if place else None

    def changed(self, start: int, stop: int) -> dict[int, None]:
        """Jobs touched by the records `start <= offset < stop`."""
        first = bisect_left(self.changes, (start, -1))
        last = bisect_left(self.changes, (stop, -1))
        return dict.fromkeys(no for _, no in self.changes[first:last])

    def live_rows(self, before: int) -> dict[str, JobRow]:
        """By job id, every job that has not ended at that place."""
        rows = {}
        for no in self.versions:
            row = self.row(no, before)
            if row is not None and row.state not in ENDED:
                rows[row.job_id] = row
        return rows

    def public_before(self, offset: int) -> list[str]:
        """Ids of everything that the records before an offset say."""
        return [
            name
            for _, name in self.public_offsets[: bisect_left(self.public_offsets, (offset, ""))]
        ]

    def check_snapshot(self, data: bytes) -> None:
        """A snapshot is exactly the fold of what counts up to its place."""
        snapshot = decode_snapshot(data)
        if self._checked.chain.next_offset > snapshot.offset + 1:
            self._checked = ShardFollower(self.shard)
        for entry in self.entries()[self._checked.chain.next_offset : snapshot.offset + 1]:
            self._checked.feed(entry)
        same = fingerprint(self._checked.state) == fingerprint(snapshot.state)
        if not same or self._checked.chain != snapshot.chain:
            raise Violation("a snapshot is the fold of its prefix", f"shard {self.shard}")
