"""The part of our Kafka adapter that knows no vendor: records, errors, and its bookkeeping.

No I/O. `infra.kafka` uses and exports these; doubles in tests can do without it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import methodcaller
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeVar

import structlog

from infra import kafka_settings
from schemas.headers import Headers
from schemas.topics import TOPICS

Place = tuple[str, int]
"""A topic and the number of one of its partitions."""
NOWHERE: Place = ("", -1)
"""In place of one, for what concerns a client as a whole."""
OnResult = Callable[[int | None, str | None], None]
"""Takes the offset and None, or None and the error; None twice: acknowledged, place unknown."""
Leaders = dict[str, list[int]]
"""For each topic the leading broker of every partition, -1 where there is none yet."""

Answer = TypeVar("Answer")
ASK_AGAIN_S = 0.02
WILL_PASS = frozenset(
    {
        "LEADER_NOT_AVAILABLE",
        "NOT_LEADER_FOR_PARTITION",
        "_ALL_BROKERS_DOWN",
        "_TRANSPORT",
        "_UNKNOWN_PARTITION",
    }
)
"""Right after a topic was created, or while a client that lost all brokers starts over."""
WARN_AGAIN_S = 10.0
WARNINGS_MAX = 1_000

_log = structlog.get_logger("kafka")


class KafkaUnavailable(Exception):
    """Kafka did not do what was asked, in time or at all; trying again later may help."""


class OffsetOutOfRange(KafkaUnavailable):
    """The record to be read next is not there: deleted, or never written. Nothing was skipped."""


class TopicMismatch(Exception):
    """A topic exists with other properties than its guarantees need; an operator must decide."""


class Message(NamedTuple):
    """One record. `at` is the broker's timestamp in UTC microseconds; `value` None: a tombstone.

    `broken` says why nothing of it can be read but its place; "" for any other.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    at: int
    broken: str = ""


class LibraryLog:
    """The library's own lines into our log. It retries by itself, so nothing here is an error."""

    def log(self, level: int, _form: str, facility: str, client: str, text: str) -> None:
        """Called by the library inside `poll` with a level of `logging`."""
        # FAIL is a lost connection: `warn` tells of it too, in the errors that follow.
        loud = level >= logging.ERROR and facility != "FAIL"
        write = _log.warning if loud else _log.debug
        write("librdkafka", facility=facility, client=client, text=text)


_warned: dict[str, float] = {}
"""When each text was last told, without what differs between two tellings of one thing."""


def warn(text: str) -> None:
    """Note what the library is getting over by itself; again and again the same only now and then."""
    what, now = text.partition(" (after ")[0], monotonic()
    if now - _warned.get(what, -WARN_AGAIN_S) < WARN_AGAIN_S:
        _log.debug("kafka", error=text)
        return
    if len(_warned) >= WARNINGS_MAX:
        _warned.clear()
    _warned[what] = now
    _log.warning("kafka", error=text)


def insist(
    question: Callable[[], Answer], will_pass: Callable[[Exception], bool], timeout_s: float
) -> Answer:
    """The answer to a question that is asked again while its error is one that will pass."""
    deadline = monotonic() + timeout_s
    while True:
        try:
            return question()
        except Exception as error:
            if not will_pass(error) or monotonic() > deadline:
                raise
        sleep(ASK_AGAIN_S)


@contextmanager
def or_else(mend: Callable[[], None]) -> Iterator[None]:
    """What fails is mended for the next time, and fails all the same."""
    try:
        yield
    except Exception:
        mend()
        raise


def wait_led(ask: Callable[[], Leaders], timeout_s: float) -> Leaders:
    """The leaders of all topics once there are any. Raises `KafkaUnavailable`."""
    deadline = monotonic() + timeout_s
    while monotonic() < deadline:
        found = ask()
        if all_led(found):
            return found
        sleep(ASK_AGAIN_S)
    raise KafkaUnavailable("the topics have no leaders yet")


def all_led(leaders: Leaders) -> bool:
    """Whether every topic of the catalogue is there and every partition can be written."""
    return all(min(leaders.get(topic.name, [-1]), default=-1) >= 0 for topic in TOPICS)


def check_topics(leaders: Leaders, settings: dict[str, dict[str, str]], shards: int) -> None:
    """Raise `TopicMismatch` for the first topic that is not what the catalogue says."""
    problems: Iterable[str | None] = (
        kafka_settings.count_mismatch(topic, shards, len(leaders[topic.name]))
        or kafka_settings.policy_mismatch(topic, settings[topic.name])
        for topic in TOPICS
    )
    for problem in filter(None, problems):
        raise TopicMismatch(problem)


MISSING = "records that were due are not there; restore the topic from a backup"
"""What an offset out of range means, for whoever may not go on without what is gone."""


BROKEN = frozenset({"_BAD_COMPRESSION", "_BAD_MSG"})
"""A batch that cannot be unpacked will never be: trying again would be for ever."""


_headers_of = methodcaller("headers")


def message_of(raw: Any) -> Message:
    """The library's record as ours.

    Where a header's name is no UTF-8 the library answers and leaves an error behind as well, which
    Python's fast way of calling methods does not look for: it would come up anywhere later. The
    slow way looks.
    """
    try:
        headers: Headers = _headers_of(raw) or []
    except (SystemError, UnicodeDecodeError):
        headers = [("unreadable-headers", b"a header's name is no UTF-8")]
    at = raw.timestamp()[1] * 1000
    place = (raw.topic(), raw.partition(), raw.offset())
    return Message(*place, raw.key(), raw.value(), headers, at)


class Results:
    """Results on their way to their owners: at once, or kept while the owner cannot be called."""

    def __init__(self) -> None:
        self._kept: deque[tuple[OnResult, int | None, str | None]] = deque()
        self.keeping = False

    def give(self, on_result: OnResult, offset: int | None, error: str | None) -> None:
        """Tell the owner, or keep it. An offset below 0 (a duplicate's) is a place unknown."""
        known = offset if error is None and offset is not None and offset >= 0 else None
        if self.keeping:
            self._kept.append((on_result, known, error))
        else:
            on_result(known, error)

    def refuse(self, on_result: OnResult, error: str) -> None:
        """Keep a result for a record that never left: its owner is in the middle of sending it."""
        self._kept.append((on_result, None, f"never sent: {error}"))

    def tell(self) -> bool:
        """Tell everything that was kept; whether there was anything."""
        told = bool(self._kept)
        while self._kept:
            on_result, offset, error = self._kept.popleft()
            on_result(offset, error)
        return told


@dataclass(slots=True)
class BrokenBatch:
    """One batch: its first offset, why it cannot be read, and where it ends, once that is known."""

    base: int
    reason: str
    stop: int | None = None


class Progress:
    """Where a reader stands in each of its partitions, and what stopped it there."""

    def __init__(self) -> None:
        self.positions: dict[Place, int] = {}
        self.broken: dict[Place, BrokenBatch] = {}
        self._failures: dict[Place, KafkaUnavailable] = {}

    def start(self, positions: Mapping[Place, int]) -> None:
        """Stand at these places and no others; what failed before is forgotten."""
        self.positions = dict(positions)
        self.broken.clear()
        self._failures.clear()

    def move(self, place: Place, offset: int) -> None:
        """Stand elsewhere in one partition; what failed there is forgotten."""
        self.positions[place] = offset
        self.broken.pop(place, None)
        self._failures.pop(place, None)

    def admit(self, place: Place, offset: int) -> bool:
        """Whether a record is read here and new, not left over from a seek; then stand behind it."""
        position = self.positions.get(place)
        if position is None or offset < position:
            return False
        self.positions[place] = offset + 1
        return True

    def reach_end(self, place: Place, offset: int) -> None:
        """Nothing is left before `offset`."""
        if place in self.positions:
            self.positions[place] = max(offset, self.positions[place])

    def fail(self, place: Place, kind: type[KafkaUnavailable], text: str) -> None:
        """Keep what stopped the reader until the records before it were given out."""
        if place == NOWHERE:
            self._failures[place] = kind(text)
        elif place in self.positions:
            where = f"{place[0]}[{place[1]}] from {self.positions[place]}"
            self._failures[place] = kind(f"{where}: {text}")

    def base_of(self, place: Place) -> int | None:
        """Where the broken batch begins that was met there, if one was."""
        return self.broken[place].base if place in self.broken else None

    def take_error(self, place: Place, offset: int, told: tuple[str, str], *, own: bool) -> None:
        """What the library says, by its name of the error and in words; `own`: not the broker's."""
        name, text = told
        if place == NOWHERE and own:
            warn(f"{name}: {text}")  # it tries again
        elif name == "_PARTITION_EOF":
            self.reach_end(place, offset)
        elif name in BROKEN and place in self.positions:
            self.broken.setdefault(place, BrokenBatch(offset, f"{name}: {text}"))
        elif name == "_AUTO_OFFSET_RESET":
            self.fail(place, OffsetOutOfRange, f"{text}: {MISSING}")
        else:
            self.fail(place, KafkaUnavailable, f"{name}: {text}")

    def raise_failure(self) -> None:
        """Raise one failure that was kept, once."""
        if self._failures:
            raise self._failures.pop(next(iter(self._failures)))
