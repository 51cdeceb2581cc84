"""Everything that Foldline needs of Kafka: topics, sending, reading, membership, positions.

The only file that imports confluent_kafka; decides nothing about what a record means. Results,
errors and librdkafka's own lines appear inside `poll` (and `flush`, `close`), never on another
thread. Operating errors are `KafkaUnavailable` and its kin. Settings: `infra.kafka_settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from time import monotonic
from typing import Any

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka import Message as RawMessage
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # documented, not re-exported
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from infra import kafka_port, kafka_settings
from infra.broken_batches import give_up
from infra.kafka_port import KafkaUnavailable, Message, OffsetOutOfRange, OnResult, Place
from schemas.topics import LOG, MAX_RECORD_BYTES, TOPICS, Topic

__all__ = ["KafkaUnavailable", "Message", "OffsetOutOfRange", "OnResult", "Place"]

_AskGroup = Callable[[Consumer], list[TopicPartition]]
REQUEST_TIMEOUT_S, DELETE_S = 10.0, 2.0  # for questions that are on nobody's hot path


def _settings(bootstrap: str, more: dict[str, Any]) -> dict[str, Any]:
    return kafka_settings.client(bootstrap) | {"logger": kafka_port.LibraryLog()} | more


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise KafkaUnavailable(f"{what}: {_text(error.args[0])}") from error


def _text(error: KafkaError) -> str:
    return f"{error.name()}: {error.str()}"


def _will_pass(error: Exception) -> bool:
    """Whether a partition is only between two leaders, or unknown until metadata comes again."""
    return isinstance(error, KafkaException) and error.args[0].name() in kafka_port.WILL_PASS


def _warn(error: KafkaError | None, *_: object) -> None:
    if error is not None:
        kafka_port.warn(_text(error))


@lru_cache(maxsize=4)
def _admin(bootstrap: str) -> AdminClient:
    """One for each cluster and process, as it takes threads. Silent: nobody polls for its lines."""
    return AdminClient(kafka_settings.client(bootstrap) | {"log_level": 0})


def wait_ready(bootstrap: str, timeout_s: float) -> None:
    """Return once a broker answers for its cluster; `KafkaUnavailable` soon after `timeout_s`."""
    ask = partial(_admin(bootstrap).list_topics, timeout=max(min(timeout_s, 1.0), 0.1))
    with _translated(f"no Kafka at {bootstrap} in {timeout_s:g} s"):
        kafka_port.insist(ask, lambda error: isinstance(error, KafkaException), timeout_s)


def shard_count(bootstrap: str) -> int:
    """How many shards the installation has: the partitions of its log topic."""
    leaders = _leaders(bootstrap).get(LOG.name)
    if leaders is None:
        raise KafkaUnavailable(f"topic {LOG.name} is not there: create the topics first")
    return len(leaders)


def ensure_topics(bootstrap: str, shards: int, replication: int = 1) -> None:
    """Create what is missing of the catalogue; `TopicMismatch` if a topic is not what it says."""
    assert shards > 0, shards
    existing = _leaders(bootstrap)
    missing = [topic for topic in TOPICS if topic.name not in existing]
    if missing:
        _create(bootstrap, missing, shards, replication)
    leaders = kafka_port.wait_led(partial(_leaders, bootstrap), REQUEST_TIMEOUT_S)
    kafka_port.check_topics(leaders, _topic_settings(bootstrap), shards)


def delete_before(bootstrap: str, topic: str, partition: int, offset: int) -> None:
    """Let the broker delete the partition's records below `offset`; gives up after `DELETE_S`."""
    asked = TopicPartition(topic, partition, offset)
    with _translated(f"cannot delete before {offset} in {topic}[{partition}]"):
        _admin(bootstrap).delete_records([asked], request_timeout=DELETE_S)[asked].result()


def commit_group(bootstrap: str, group: str, offsets: Mapping[Place, int]) -> None:
    """Store the next offset of each partition under a group that has no members."""
    parts = [TopicPartition(*place, offset) for place, offset in offsets.items()]
    _ask_group(bootstrap, group, lambda who: who.commit(offsets=parts, asynchronous=False))


def committed(bootstrap: str, group: str, places: Sequence[Place]) -> dict[Place, int]:
    """The stored next offset of each of these partitions, where there is one."""
    asked = [TopicPartition(*place) for place in places]
    found = _ask_group(bootstrap, group, lambda who: who.committed(asked, REQUEST_TIMEOUT_S))
    return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}


# Never joins. An admin client ends the process if a coordinator is away (librdkafka 3663, 4605).
_outsider = lru_cache(maxsize=4)(lambda *of: Consumer(kafka_settings.outsider(*of)))


def _ask_group(bootstrap: str, group: str, ask: _AskGroup) -> list[TopicPartition]:
    with _translated(f"positions of {group}"), kafka_port.or_else(_outsider.cache_clear):
        for part in (parts := ask(_outsider(bootstrap, group))):
            if part.error is not None:
                raise KafkaException(part.error)
    return parts


def _leaders(bootstrap: str) -> kafka_port.Leaders:
    with _translated("cannot list the topics"):
        topics = _admin(bootstrap).list_topics(timeout=REQUEST_TIMEOUT_S).topics
    return {
        name: [part.leader for part in topic.partitions.values()] for name, topic in topics.items()
    }


def _create(bootstrap: str, topics: list[Topic], shards: int, replication: int) -> None:
    asked = [NewTopic(**kafka_settings.new_topic(topic, shards, replication)) for topic in topics]
    for name, future in _admin(bootstrap).create_topics(asked).items():
        error = future.exception()
        # Another process was faster: its topic is checked like any that was there before.
        if error is not None and error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise KafkaUnavailable(f"cannot create topic {name}: {_text(error.args[0])}") from error


def _topic_settings(bootstrap: str) -> dict[str, dict[str, str]]:
    asked = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in TOPICS]
    with _translated("cannot read the topics' settings"):
        return {
            resource.name: {name: entry.value for name, entry in future.result().items()}
            for resource, future in _admin(bootstrap).describe_configs(asked).items()
        }


class Sender:
    """An idempotent producer, `acks=all`. An error says that the outcome is unknown, not "no"."""

    def __init__(
        self,
        bootstrap: str,
        *,
        message_timeout_s: float = 5.0,
        linger_ms: float = 0.0,
        compression: str = "none",
    ) -> None:
        self.fatal: str | None = None
        """Set once this producer can do nothing any more: close it and make a new one."""
        self._timeout_s = message_timeout_s
        self._results = kafka_port.Results()
        more = kafka_settings.sender(message_timeout_s, linger_ms, compression)
        self._producer = Producer(_settings(bootstrap, more | {"error_cb": self._on_error}))

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: str | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        on_result: OnResult,
    ) -> None:
        """Hand over one record; `on_result` is called exactly once, by a later `poll`.

        Blocks only while the buffer of 128 MiB is full, at most for the message timeout.
        """
        if value is not None and len(value) > MAX_RECORD_BYTES:
            return self._results.refuse(on_result, f"more than {MAX_RECORD_BYTES} bytes")
        number = -1 if partition is None else partition
        sent: Any = list(headers) if headers else None
        give = self._results.give

        def delivered(error: KafkaError | None, message: RawMessage) -> None:
            give(on_result, message.offset(), None if error is None else _text(error))

        deadline = None
        while True:
            try:
                return self._producer.produce(topic, value, key, number, delivered, headers=sent)
            except BufferError as error:
                deadline = deadline or monotonic() + self._timeout_s
                if monotonic() > deadline:
                    return self._results.refuse(on_result, str(error))
                self._make_room()
            except KafkaException as error:
                return self._results.refuse(on_result, _text(error.args[0]))

    def poll(self, timeout_s: float = 0.0) -> None:
        """Call the `on_result` of every record whose fate is known; wait at most so long."""
        told = self._results.tell()
        self._producer.poll(0.0 if told else timeout_s)

    def flush(self, timeout_s: float) -> int:
        """Poll until nothing is under way; how many records still are after `timeout_s`."""
        self._results.tell()
        return self._producer.flush(timeout_s)

    def close(self) -> None:
        """Give up what is under way (its results say so) and let go of the broker."""
        self._producer.purge()
        self.flush(1.0)

    def _make_room(self) -> None:
        """Serve deliveries without calling the owner back, who is in the middle of a `send`."""
        self._results.keeping = True
        try:
            self._producer.poll(0.05)
        finally:
            self._results.keeping = False

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.fatal = _text(error)
        _warn(error)


class Reader:
    """Reads partitions that it was told, from offsets that it was told; commits nothing."""

    def __init__(self, bootstrap: str, *, fetch_wait_ms: int = 50) -> None:
        self._progress = kafka_port.Progress()
        on_error = partial(self._take_error, kafka_port.NOWHERE, -1)
        more = kafka_settings.reader(fetch_wait_ms) | {"error_cb": on_error}
        self._make = partial(Consumer, _settings(bootstrap, more))
        self._consumer = self._make()
        self._bootstrap = bootstrap

    def assign(self, positions: Mapping[Place, int]) -> None:
        """Read these partitions from these offsets and no others."""
        self._progress.start(positions)
        asked = [TopicPartition(*place, offset) for place, offset in positions.items()]
        with _translated("cannot assign"):
            self._consumer.assign(asked)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Go on from `offset` in a partition that is assigned, or assign it too."""
        place = (topic, partition)
        with _translated(f"cannot seek {topic}[{partition}]"):
            if place in self._progress.positions:
                self._consumer.incremental_unassign([TopicPartition(topic, partition)])
            self._consumer.incremental_assign([TopicPartition(topic, partition, offset)])
        self._progress.move(place, offset)

    def position(self, topic: str, partition: int) -> int:
        """The offset to be read next: after the last record given out, or the end once seen."""
        return self._progress.positions[topic, partition]

    def poll(self, timeout_s: float, max_records: int = 10_000) -> list[Message]:
        """What has arrived, at once if anything has; else the first to come within `timeout_s`.

        Lost connections are made again silently, and what cannot be unpacked comes as `broken`.
        Raises `OffsetOutOfRange`, or `KafkaUnavailable` where waiting would not help, after
        everything before it was given out.
        """
        deadline = monotonic() + timeout_s
        while True:
            self._progress.raise_failure()
            if self._progress.broken and (lost := give_up(self, self._progress, max_records)):
                return lost
            first = self._consumer.poll(max(deadline - monotonic(), 0.0))
            if first is None:
                return []
            batch = [first]
            if max_records > 1:  # poll, then drain: consume alone would wait to fill its batch
                batch += self._consumer.consume(max_records - 1, 0.0)
            records = [record for raw in batch if (record := self._take(raw)) is not None]
            if records:
                return records

    def begin_offset(self, topic: str, partition: int) -> int:
        """The first offset that the partition still has."""
        return self._watermarks(topic, partition)[0]

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset that the partition's next record will have."""
        return self._watermarks(topic, partition)[1]

    def offset_at(self, topic: str, partition: int, micros: int) -> int:
        """The first record whose broker's time is not before this moment, or the end."""
        asked = TopicPartition(topic, partition, -(-micros // 1000))
        end = self.end_offset(topic, partition)  # before asking: what comes meanwhile lies behind

        def question() -> int:
            found = self._consumer.offsets_for_times([asked], timeout=REQUEST_TIMEOUT_S)[0]
            if found.error is not None:
                raise KafkaException(found.error)
            return found.offset

        with _translated(f"no offset by time in {topic}[{partition}]"):
            offset = kafka_port.insist(question, _will_pass, REQUEST_TIMEOUT_S)
        return offset if offset >= 0 else end

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()

    def _watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        asked = TopicPartition(topic, partition)
        ask = partial(self._consumer.get_watermark_offsets, asked, timeout=REQUEST_TIMEOUT_S)
        with _translated(f"no offsets of {topic}[{partition}]"), kafka_port.or_else(self._renew):
            return kafka_port.insist(ask, _will_pass, REQUEST_TIMEOUT_S)

    def _renew(self) -> None:
        """The library's client may have lost its brokers for good: another goes on where it stood."""
        self._consumer.close()
        self._consumer = self._make()
        self.assign(self._progress.positions)

    def twin(self) -> Reader:
        """Another one that reads nothing yet."""
        return Reader(self._bootstrap)

    def hits(self, place: Place) -> int | None:
        """The first thing that comes: where a broken batch begins, or None for all else."""
        raw = self._consumer.poll(REQUEST_TIMEOUT_S)
        if raw is None:
            raise KafkaUnavailable(f"no answer of {place[0]}[{place[1]}]")
        self._take(raw)
        self._progress.raise_failure()
        return self._progress.base_of(place)

    def _take(self, raw: RawMessage) -> Message | None:
        place: Any = (raw.topic(), raw.partition())
        offset: Any = raw.offset()
        if (error := raw.error()) is not None:
            self._take_error(place, offset, error)
        elif self._progress.admit(place, offset):
            return kafka_port.message_of(raw)
        return None

    def _take_error(self, place: Place, offset: int, error: KafkaError) -> None:
        told = (error.name(), error.str())
        self._progress.take_error(place, offset, told, own=error.code() < 0)


class Membership:
    """Suggests, by a consumer group (KIP-848), who should claim what of a topic. Fetches nothing."""

    def __init__(self, bootstrap: str, group: str, topic: str) -> None:
        self._topic = topic
        self._assigned = self._told = frozenset[int]()
        more = {"error_cb": _warn, "on_commit": _warn}
        self._consumer = Consumer(_settings(bootstrap, kafka_settings.membership(group) | more))
        lose = self._lose
        self._consumer.subscribe([topic], on_assign=self._gain, on_revoke=lose, on_lost=lose)

    def poll(self, timeout_s: float = 0.0) -> tuple[frozenset[int], bool]:
        """The partitions suggested to us, and whether that changed since the last call.

        Must be called every few minutes, or the group goes on without us.
        """
        message = self._consumer.poll(timeout_s)
        if message is not None and (error := message.error()) and not error.retriable():
            raise KafkaUnavailable(f"membership: {_text(error)}")
        changed, self._told = self._told != self._assigned, self._assigned
        return self._assigned, changed

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Note the next offset of each partition for lag dashboards; nothing else reads it."""
        asked = [TopicPartition(self._topic, *item) for item in offsets.items()]
        with _translated("cannot commit"):
            self._consumer.commit(offsets=asked, asynchronous=True)

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        self._consumer.close()

    def _gain(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        at_end = [TopicPartition(part.topic, part.partition, OFFSET_END) for part in partitions]
        consumer.incremental_assign(at_end)
        consumer.pause(at_end)
        self._assigned |= {part.partition for part in partitions}

    def _lose(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_unassign(partitions)
        self._assigned -= {part.partition for part in partitions}
