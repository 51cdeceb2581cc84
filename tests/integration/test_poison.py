"""Poison on every topic of a whole running system: all of it is answered, and nobody falls.

Records go to the real commands, reports, dispatch and log-line topics, the worst of them byte by
byte; then a job is run. Every input must be refused by an event or lie in the dead letters with its
very bytes, key and headers; no process may have been started anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from time import monotonic

import pytest
from confluent_kafka import Producer

from foldline.dev import stack
from infra.follow import ShardFollower
from infra.kafka import Message, Reader, Sender
from infra.local.stack import free_settings
from projections.logs import KafkaLogs
from schemas import events
from schemas.codec import decode, encode
from schemas.commands import SubmitJob
from schemas.events import Event
from schemas.ids import partition_of
from schemas.public import LogLines, ParkedInput
from schemas.terms import JobSpec, JobTerms, Micros
from schemas.topics import COMMANDS, DEAD_LETTERS, DISPATCH, REPORTS, TASK_LOGS, Topic
from stream_processors.domain.draft import Unreadable
from stream_processors.inputs import command_of, report_of
from tests.corpus.add_poison import POISON
from tests.live_stack import LiveStack, wait_until
from tests.raw_kafka import produce_raw, record

SHARD = partition_of("default", 2)
PARTS = ("engine", "follower", "audit", "hot", "relay", "api", "agent-1", "agent-2")
BIG = 5_000_000
BOMB = 150_000_000
"""Bytes that a batch of a few kilobytes unpacks to: more than any client takes."""
HEADERS = (("traceparent", b"00-\xff"), ("empty", b""), ("n\u00e4me", b"\0"))
READ_S = 60.0


@pytest.fixture
def live(stack_dir: Path) -> Iterator[LiveStack]:
    with stack(free_settings(stack_dir, agents=2)) as running:
        live = LiveStack(running, stack_dir / "journal")
        yield live
        live.http.close()


@dataclass
class Poisoner:
    """What was written to the two inputs, by place."""

    bootstrap: str
    sent: dict[tuple[str, int], bytes | None] = field(default_factory=dict)

    def write(self, topic: Topic, values: Sequence[bytes | None], key: str = "default") -> None:
        """Send these, and note where they lie."""
        sender = Sender(self.bootstrap)
        is_input = topic in (COMMANDS, REPORTS)

        def noted(value: bytes | None) -> Callable[[int | None, str | None], None]:
            def result(offset: int | None, error: str | None) -> None:
                assert error is None, error
                assert offset is not None
                if is_input:
                    self.sent[topic.name, offset] = value

            return result

        for value in values:
            partition = SHARD if is_input else None
            sender.send(
                topic.name,
                value,
                key=key,
                partition=partition,
                headers=HEADERS,
                on_result=noted(value),
            )
        assert sender.flush(30) == 0
        sender.close()

    def bomb(self, topic: Topic) -> None:
        """A batch that is small in the log and that no client unpacks."""
        more = {"compression.type": "zstd", "message.max.bytes": 2 * BOMB, "linger.ms": 0}
        producer = Producer({"bootstrap.servers": self.bootstrap, **more})
        places: list[int | None] = []
        producer.produce(
            topic.name,
            bytes(BOMB),
            partition=SHARD,
            on_delivery=lambda _, message: places.append(message.offset()),
        )
        assert producer.flush(60) == 0
        (offset,) = places
        assert offset is not None
        self.sent[topic.name, offset] = None

    def odd_header(self, topic: Topic) -> None:
        """A record whose header's name is no text."""
        content = record(b"odd", b"\xff", [(b"\xff\xfe", b"x"), (b"nothing", None)])
        assert produce_raw(self.bootstrap, (topic.name, SHARD), content) == 0


def corpus(*prefixes: str) -> list[bytes]:
    found = sorted(POISON.glob("*.bin"))
    return [path.read_bytes() for path in found if path.stem.split(".")[0] in prefixes]


def big_ones() -> list[bytes]:
    """Five megabytes: of garbage, and of a command that could be read."""
    spec = JobSpec("training", config="x" * BIG)
    huge = SubmitJob(JobTerms(), "huge", 50, (), 0, "me", spec=spec)
    text = SubmitJob(JobTerms(), "t" * 900_000, 50, (), 0, "me", spec=JobSpec("training"))
    return [b"\xff" * BIG, encode(huge), encode(text)]


def poison_everything(poisoner: Poisoner, job_id: str) -> None:
    for topic in (COMMANDS, REPORTS):
        poisoner.write(topic, [*corpus("any", "commands", "reports"), *big_ones(), None])
        poisoner.bomb(topic)
        poisoner.odd_header(topic)
        poisoner.write(topic, corpus("any"))
    for node in ("node-1", "node-2", "nobody"):
        poisoner.write(DISPATCH, [*corpus("any", "dispatch"), big_ones()[0], None], node)
    poisoner.write(TASK_LOGS, [*corpus("any", "dispatch"), big_ones()[0], None], job_id)


def decided(bootstrap: str) -> list[Event]:
    """All events of the shard's log, as they are now."""
    logs, follower = KafkaLogs(bootstrap), ShardFollower(SHARD)
    found: list[Event] = []
    end = logs.end(SHARD)
    logs.seek(SHARD, 0)
    deadline = monotonic() + READ_S
    while follower.chain.next_offset < end:
        assert monotonic() < deadline
        for _, entry in logs.poll(0.5, 1_000):
            counted = follower.feed(entry)
            found.extend(counted.events if counted else ())
    logs.close()
    return found


def answered(found: list[Event]) -> set[tuple[str, int]]:
    """The inputs that an event names."""
    places: set[tuple[str, int]] = set()
    for event in found:
        if isinstance(event, events.ReportsRefused):
            places.update((REPORTS.name, offset) for offset in event.offsets)
        elif isinstance(event, events.QueueChanged | events.PoolChanged | events.DeadLettersPurged):
            places.add((COMMANDS.name, event.offset))
        else:
            offsets = getattr(event, "offsets", ())
            places.update((COMMANDS.name, offset) for offset in offsets)
    return places


def letters(bootstrap: str, due: int) -> dict[tuple[str, int], tuple[Message, ParkedInput]]:
    """The parked inputs in the public topic, once there are as many as are due."""
    reader = Reader(bootstrap)
    reader.assign({(DEAD_LETTERS.name, number): 0 for number in range(DEAD_LETTERS.partitions)})
    found: dict[tuple[str, int], tuple[Message, ParkedInput]] = {}
    deadline = monotonic() + READ_S
    while len(found) < due and monotonic() < deadline:
        for message in reader.poll(0.5):
            letter = decode(message.value or b"")
            if isinstance(letter, ParkedInput):
                found[letter.topic, letter.offset] = (message, letter)
    reader.close()
    return found


def is_unreadable(place: tuple[str, int], value: bytes | None) -> bool:
    topic, offset = place
    message = Message(topic, SHARD, offset, None, value, [], 0)
    read = command_of(message) if topic == COMMANDS.name else report_of(message)
    return isinstance(read, Unreadable)


def test_all_poison_is_answered_a_good_job_succeeds_and_nobody_falls(live: LiveStack) -> None:
    bootstrap = live.running.addresses.bootstrap
    pids = {part: live.running.pid(part) for part in PARTS}
    first = live.submit("before", 0.1)
    live.wait_all_ended(120)
    poisoner = Poisoner(bootstrap)
    poison_everything(poisoner, first)
    lines = LogLines(first, 1, 0, "node-1", "stdout", 1_000, 0, Micros(2**50), ["after poison"])
    poisoner.write(TASK_LOGS, [encode(lines)], first)
    good = live.submit("good", 0.1)
    assert live.wait_all_ended(180)[good] == "succeeded"

    unreadable = {place for place, value in poisoner.sent.items() if is_unreadable(place, value)}
    found = letters(bootstrap, len(unreadable) + 2)
    for place in unreadable:
        message, letter = found[place]
        value = poisoner.sent[place] or b""
        assert (letter.value, letter.sha256) == (value, sha256(value).digest())
        assert letter.code in {"malformed", "unknown_schema", "too_large"}
        assert letter.message
        assert message.key == letter.letter_id.encode()
        if "cannot be unpacked" not in letter.message:
            assert letter.key == b"default"
            assert tuple((one.name, one.value) for one in letter.headers) == HEADERS
    odd = [letter for _, letter in found.values() if letter.value == b"odd"]
    assert [letter.key for letter in odd] == [b"\xff", b"\xff"]
    bombs = [letter for _, letter in found.values() if "cannot be unpacked" in letter.message]
    assert {letter.topic for letter in bombs} == {COMMANDS.name, REPORTS.name}

    told = answered(decided(bootstrap))
    silent = [
        place
        for place, value in poisoner.sent.items()
        if place not in told and (place in unreadable or place[0] == COMMANDS.name)
    ]
    assert silent == []
    for _, letter in found.values():
        path = f"/dlq/{letter.letter_id}"
        wait_until(path, lambda path=path: live.http.get(path).status_code == 200, 30)
    assert live.http.get("/dlq/", params={"limit": 100}).json()["letters"]
    assert "after poison" in live.http.get(f"/jobs/{first}/logs").text
    assert live.http.get("/jobs/", params={"limit": 100}).status_code == 200
    live.verify_within(60)
    assert {part: live.running.pid(part) for part in PARTS} == pids
