"""Poison for every input, and a shard that swallows it while all its views look on.

`HOSTILE_*` are values that have broken other systems; `spoil` puts some into any message. A
`PoisonShard` is fed the bytes of input records, as the engine is, and after each decision checks
that it fits into a record, that every command has one answer, and that everything made from the log
can be made: audit rows in PostgreSQL's own bytes, hot rows, public records, explanations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from random import Random
from typing import Any

from infra.copy_rows import pack_rows
from infra.follow import ShardFollower
from infra.kafka_port import Message
from infra.log import Entry
from projections.audit_letters import letter_rows
from projections.audit_rows import AuditRows, convert
from projections.audit_tables import (
    ANSWERS,
    ATTEMPTS,
    CHANGED_ATTEMPTS,
    CHANGED_JOBS,
    CHANGED_TASKS,
    DEAD_LETTERS,
    DEPENDENCIES,
    EVENTS,
    JOBS,
    TASKS,
)
from projections.hot_net import Memory, net_effect, remember, settle
from projections.pipeline import View, ViewBatch
from projections.relay_facts import JobFacts, to_record
from schemas import events
from schemas.codec import decode
from schemas.commands import SubmitJobs
from schemas.events import Event
from schemas.topics import COMMANDS, MAX_RECORD_BYTES, REPORTS, Topic
from stream_processors.domain.draft import Unreadable
from stream_processors.domain.explain import explain
from stream_processors.domain.fingerprint import fingerprint
from stream_processors.inputs import command_of, report_of
from tests.view_shard import ViewShard

HOSTILE_TEXTS = (
    "",
    "\0",
    "a\0b",
    " ",
    "\n\r\t",
    "\u202egnirts",
    "\ufeff\ufffd\uffff",
    "\N{PILE OF POO}" * 200,
    "A\u0301" * 300,
    "'; DROP TABLE jobs; --",
    "$1 %s {0} \\N \\.",
    "return redis.call('FLUSHALL')",
    "0:1:2",
    "../../../etc/passwd",
    "x" * 63,
    "x" * 64,
    "x" * 100_000,
    "NaN",
    '{"a": NaN, "b": 1e999, "c": "\\ud800"}',
    "[" * 5_000,
    "-" * 500 + "a-" * 500,
)
HOSTILE_LONGS = (
    *(0, 1, -1, -2, 63, 64, 255, 256, 1_000, 1_001, 10_000, 1_000_000),
    *(2**31 - 1, 2**31, -(2**31), 2**40, 2**53 + 1, 2**56, 2**63 - 1, -(2**63)),
)
HOSTILE_BYTES = (b"", b"\0", b"\xff" * 16, b"\xed\xa0\x80", b"x" * 16, b"y" * 100_000)


def spoil(message: Any, chance: Random) -> Any:
    """The same message with one to three of its values, wherever they are, made hostile."""
    for _ in range(chance.randint(1, 3)):
        message = _spoil(message, chance)
    return message


def _spoil(value: Any, chance: Random) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        name = chance.choice([field.name for field in fields(value)])
        return replace(value, **{name: _spoil(getattr(value, name), chance)})
    if isinstance(value, list | tuple):
        return _spoil_row(value, chance)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice(HOSTILE_LONGS)
    if isinstance(value, bytes):
        return chance.choice(HOSTILE_BYTES)
    kind: Any = type(value)
    return chance.choice(HOSTILE_TEXTS) if kind is str else chance.choice(list(kind))


def _spoil_row(values: Sequence[Any], chance: Random) -> Any:
    """A column or list: one value spoilt, or values doubled, or lost."""
    row = list(values)
    act = chance.choice(("spoil", "spoil", "double", "lose", "many"))
    if act == "spoil" and row:
        place = chance.randrange(len(row))
        row[place] = _spoil(row[place], chance)
    elif act == "double":
        row += row[:1]
    elif act == "many":
        row = row[:1] * 3_000
    elif row:
        row.pop()
    return tuple(row) if isinstance(values, tuple) else row


def damage(value: bytes, chance: Random) -> bytes:
    """Bytes cut, changed or inserted somewhere."""
    broken = bytearray(value)
    place = chance.randrange(len(broken) + 1)
    act = chance.choice(("cut", "change", "insert", "frame"))
    if act == "cut":
        del broken[place:]
    elif act == "change" and place < len(broken):
        broken[place] = chance.randrange(256)
    elif act == "frame":
        broken[:5] = chance.choice((b"\x01\0\0\0\x01", b"\0\xff\xff\xff\xff", b"\0\0\0\0\x03", b""))
    else:
        broken[place:place] = chance.randbytes(chance.randint(1, 12))
    return bytes(broken)


class PoisonShard(ViewShard):
    """A shard fed with the bytes of records; everything made from its log is made at once."""

    def __init__(self, **policy: Any) -> None:
        super().__init__(**policy)
        self.asked: dict[int, int] = {}
        self.parked: dict[tuple[str, int], bytes] = {}
        self.memory: Memory = remember(self.state)
        self.facts = JobFacts(self.state)
        self.views: list[View] = []

    def take_commands(self, *values: bytes | None) -> tuple[Event, ...]:
        """Decide these records of the commands topic."""
        first = self._commands
        read = [command_of(self._message(COMMANDS, first, *each)) for each in enumerate(values)]
        for offset, command in enumerate(read, first):
            self.asked[offset] = len(command.terms_of) if isinstance(command, SubmitJobs) else 1
            self._expect(command, COMMANDS, offset, values[offset - first])
        return self._checked(self.command(*read))

    def take_reports(self, *values: bytes | None) -> tuple[Event, ...]:
        """Decide these records of the reports topic."""
        first = self._reports
        read = [report_of(self._message(REPORTS, first, *each)) for each in enumerate(values)]
        for offset, report in enumerate(read, first):
            self._expect(report, REPORTS, offset, values[offset - first])
        return self._checked(self.report(*read))

    def pass_time(self, seconds: float) -> None:
        """Time goes by, and what is due happens."""
        self._checked(self.wait(seconds))

    def check_answers(self) -> None:
        """Every command, and every row of a batch, was answered once; all poison is parked."""
        found: Counter[int] = Counter()
        asked_before: set[int] = set()
        for event in self.events:
            found.update(offset for offset in _answered(event) if offset not in asked_before)
            if isinstance(event, events.CancelsRequested):
                asked_before.update(event.offsets)
        for offset, rows in self.asked.items():
            whole = 1 <= found[offset] <= max(rows, 1)
            assert whole, f"command {offset} has {found[offset]} answers for {rows} rows"
        kept = {
            (record.input, record.offset): record.value
            for event in self.events
            if isinstance(event, events.InputsParked)
            for record in event.records
        }
        assert kept == self.parked

    def check_fold(self) -> None:
        """The log, folded from its beginning, is the state."""
        follower = ShardFollower(0)
        for entry in self.partition.entries:
            follower.feed(Entry(entry.offset, entry.value, entry.at))
        assert fingerprint(follower.state) == fingerprint(self.state)

    def _expect(self, read: object, topic: Topic, offset: int, value: bytes | None) -> None:
        if isinstance(read, Unreadable):
            name = "commands" if topic is COMMANDS else "reports"
            self.parked[name, offset] = value or b""

    def _message(self, topic: Topic, first: int, place: int, value: bytes | None) -> Message:
        headers = [("traceparent", b"00-\xff"), ("nothing", b"")]
        return Message(topic.name, 0, first + place, b"key\xff", value, headers, self.now)

    def _checked(self, decided: tuple[Event, ...]) -> tuple[Event, ...]:
        assert len(self.partition.entries[-1].value) <= MAX_RECORD_BYTES
        for record in self.records:
            for fact in self.facts.take(record):
                told = to_record(fact)
                assert decode(told.value) == fact.message
                assert len(told.value) <= MAX_RECORD_BYTES
        batch = self.batch()
        for view in self.views:
            view.store(batch)
        _pack_all(batch)
        net_effect(batch, self.memory)
        settle(batch, self.memory)
        for job in batch.changed.values():
            explain(self.state, job.job_id)
        return decided


def _pack_all(batch: ViewBatch) -> None:
    """Every row of the audit view in the bytes that PostgreSQL is sent."""
    rows: AuditRows = convert(batch)
    tables = (
        (JOBS, rows.jobs),
        (CHANGED_JOBS, rows.changed_jobs),
        (DEPENDENCIES, rows.dependencies),
        (ATTEMPTS, rows.attempts),
        (CHANGED_ATTEMPTS, rows.changed_attempts),
        (TASKS, rows.tasks),
        (CHANGED_TASKS, rows.changed_tasks),
        (EVENTS, rows.events),
        (ANSWERS, [*rows.answers, *rows.cancelled]),
        (DEAD_LETTERS, letter_rows(batch).new),
    )
    for table, found in tables:
        pack_rows(table, found)


def _answered(event: Event) -> Iterator[int]:
    """Offsets of the commands that an event answers; a cancel asked for is answered then."""
    if isinstance(event, events.CommandsRefused):
        places = list(zip(event.offsets, event.rows, strict=True))
        assert len(set(places)) == len(places), "refused twice"
    if isinstance(
        event,
        events.JobsSubmitted
        | events.SubmissionsRepeated
        | events.CommandsRefused
        | events.CancelsRequested,
    ):
        yield from event.offsets
    elif isinstance(event, events.QueueChanged | events.PoolChanged | events.DeadLettersPurged):
        yield from [event.offset] if event.offset >= 0 else []
    elif isinstance(event, events.JobsCancelled):
        yield from (offset for offset in event.offsets if offset >= 0)
