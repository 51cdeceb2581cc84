"""Projectors and relay in the simulated world: their hands, and what their views must say.

The loops are the product's (`projections/loop.py`, `relay.py`); so are both views. Whatever a view
holds is compared with the histories as soon as it is stored, and all of it when a run ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from infra.follow import ShardFollower
from infra.kafka_port import KafkaUnavailable
from infra.log import Entry
from projections.audit import AuditView
from projections.hot_keys import REGISTRY, decode_position, parse_meta, root
from projections.hot_net import whole_effects
from projections.hot_rows import decode_job
from projections.pipeline import START, Projector
from projections.relay_facts import PublicRecord
from schemas.digest import JobRow
from schemas.ids import format_job_id
from schemas.topics import LOG
from tests.simulation.history import History
from tests.simulation.kafka import Kafka, Reader, call
from tests.simulation.postgres import Key, Postgres, SimDatabase
from tests.simulation.redis import Redis
from tests.simulation.world import Violation, World

NAMES = [
    "tenant",
    "pool",
    "queue",
    "state",
    "priority",
    "attempt",
    "retries_used",
    "submitted_at",
    "due_at",
    "started_at",
    "ended_at",
    "failure",
    "message",
]


class SimLogs:
    """One process's reader of all logs."""

    def __init__(self, kafka: Kafka, shards: int) -> None:
        self.kafka = kafka
        self.shards = tuple(range(shards))
        self.reader = Reader(kafka, kafka.world.me(), "follow logs")

    def seek(self, shard: int, offset: int) -> None:
        """Go on from this offset."""
        self.reader.assign(self.reader.positions | {(LOG.name, shard): offset})

    def poll(self, timeout_s: float, max_records: int) -> list[tuple[int, Entry]]:
        """What is at hand, or comes in time."""
        found = self.reader.poll(timeout_s, max_records)
        return [(shard, entry) for (_, shard), entry, _ in found]

    def end(self, shard: int) -> int:
        """Asked of the broker."""
        part = self.kafka.part((LOG.name, shard))
        return call(self.kafka.world, "find end", lambda: part.end, KafkaUnavailable)

    def read_one(self, shard: int, offset: int) -> Entry | None:
        """The record at an offset."""
        part = self.kafka.part((LOG.name, shard))

        def read() -> Entry | None:
            return part.entries[offset] if offset < part.end else None

        return call(self.kafka.world, "find end", read, KafkaUnavailable)


class PublicSide:
    """The public topics and how far the relay says it is; nothing is told that is not so."""

    def __init__(self, world: World, histories: Sequence[History]) -> None:
        self.world = world
        self.histories = histories
        self.told: dict[str, None] = {}
        self.stands: dict[int, int] = {}

    def land(self, record: PublicRecord) -> None:
        """A record on its topic."""
        name = dict(record.headers)["ce_id"].decode()
        expected = self.histories[int(name.split(":")[0])].public.get(name)
        if expected != record:
            raise Violation("public records follow from the log alone", f"{name}: {record}")
        self.told[name] = None

    def published(self, shards: Sequence[int]) -> Mapping[int, int]:
        """The relay's position."""
        del shards
        return call(self.world, "relay position", lambda: dict(self.stands), KafkaUnavailable)

    def publish(self, records: Sequence[PublicRecord]) -> None:
        """All of them; where that fails, some may be there."""

        def land() -> None:
            for record in records:
                self.land(record)

        try:
            call(self.world, "publish", land, KafkaUnavailable)
        except KafkaUnavailable:
            for record in records[: self.world.chance.randint(0, len(records))]:
                self.land(record)
            raise

    def move(self, offsets: Mapping[int, int]) -> None:
        """The relay says that everything before these was published."""

        def move() -> None:
            for shard, offset in offsets.items():
                self.stands[shard] = offset
                names = self.histories[shard].public_before(offset)
                missing = [name for name in names if name not in self.told]
                if missing:
                    raise Violation("what the relay has passed is published", f"{missing[:3]}")

        call(self.world, "move relay", move, KafkaUnavailable)


class ViewChecks:
    """Compares both views with the histories."""

    def __init__(self, postgres: Postgres, redis: Redis, histories: Sequence[History]) -> None:
        self.postgres = postgres
        self.redis = redis
        self.histories = histories
        postgres.on_commit = self.committed
        redis.on_stored = self.stored
        redis.on_flip = self.flipped

    def committed(self, shard: int, after: Key, before: Key | None, jobs: list[int]) -> None:
        """A transaction of the audit view is true from now on."""
        history, stop = self.histories[shard], after[0]
        touched = history.changed(before[0] if before else 0, stop) | dict.fromkeys(jobs)
        for no in touched:
            self._compare_audit(history, no, stop)

    def _compare_audit(self, history: History, no: int, stop: int) -> None:
        row = self.postgres.table("jobs").get((history.shard, no))
        found = None if row is None else audit_row(row)
        expected = history.row(no, stop)
        if found != expected:
            raise Violation("the audit view is the fold at its place", f"{found} for {expected}")

    def stored(self, meta: str, before: str, after: str) -> None:
        """A batch of the hot view is there."""
        del after
        shard, generation = parse_meta(meta)
        live = self.redis.data.get(REGISTRY, {}).get(f"live:{shard}")
        if live == str(generation) and before:
            self.check_hot(shard, generation)

    def flipped(self, new: str, shards: list[str]) -> None:
        """Another generation is live."""
        for shard in shards:
            self.check_hot(int(shard), int(new))

    def check_hot(self, shard: int, generation: int) -> None:
        """Every live job, and none else."""
        prefix = root(shard, generation)
        text: str = self.redis.data.get(f"{prefix}meta", {}).get("position", "")
        if not text:
            return
        stop = decode_position(text).next_offset
        expected = self.histories[shard].live_rows(stop)
        held = self.redis.data.get(f"{prefix}jobs", {})
        for job_id in sorted(expected.keys() | held.keys()):
            data = held.get(job_id)
            found = None if data is None else decode_job(data.encode()).row
            if found != expected.get(job_id):
                detail = f"{found} for {expected.get(job_id)} before {stop}"
                raise Violation("the hot view is the fold at its place", detail)

    def hot_is_at(self, shard: int, seq: int) -> bool:
        """Whether the hot view has taken in this decision."""
        live = self.redis.data.get(REGISTRY, {}).get(f"live:{shard}")
        held = self.redis.data.get(f"{root(shard, int(live))}meta", {}) if live else {}
        text: str = held.get("position", "")
        return bool(text) and decode_position(text).seq >= seq

    def check_all(self) -> None:
        """At rest: every row of every table, and every key."""
        for history in self.histories:
            end = history.follower.chain.next_offset
            jobs = {no for shard, no in self.postgres.table("jobs") if shard == history.shard}
            for no in sorted(jobs | set(history.versions)):
                self._compare_audit(history, no, end)
            live = self.redis.data.get(REGISTRY, {})[f"live:{history.shard}"]
            self.check_hot(history.shard, int(live))
            self._compare_keys(history, int(live))
            self._compare_tables(history)

    def _compare_tables(self, history: History) -> None:
        """Every row of every table: the same as in a view that took other batches."""
        fresh = Postgres(self.postgres.world)
        projector = Projector(history.shard, ShardFollower(history.shard), START)
        view = AuditView("simulated")
        view._database = SimDatabase(fresh)  # type: ignore[assignment]  # it speaks like one
        view._number = 1
        entries = history.entries()
        for entry in entries:
            projector.feed(entry)
            batch = projector.take() if entry.offset % 9 == 8 or entry is entries[-1] else None
            if batch is not None:
                view.store(batch)
                projector.settle(batch.stop)
        for name, rows in fresh.tables.items():
            held = self.postgres.table(name)
            found = {
                key: row for key, row in held.items() if name == "other" or key[0] == history.shard
            }
            if name != "other" and rows != found:
                wrong = [
                    key for key in rows.keys() | found.keys() if rows.get(key) != found.get(key)
                ]
                detail = f"{name} {wrong[:2]}: {found.get(wrong[0])} for {rows.get(wrong[0])}"
                raise Violation("the audit view is the fold at its place", detail)

    def _compare_keys(self, history: History, generation: int) -> None:
        """Sets, nodes and queues: the same as in a view written anew."""
        fresh = Redis(self.redis.world)
        fresh.begin()
        prefix = root(history.shard, generation)
        for net in whole_effects(history.follower.state):
            fresh._apply(prefix, as_plain(net))
        names = sorted(
            key
            for key in self.redis.data.keys() | fresh.data.keys()
            if key.startswith(prefix) and not key.endswith("meta")
        )
        for key in names:
            found, expected = self.redis.data.get(key, {}), fresh.data.get(key, {})
            # A load of nothing is the same as none.
            if key.endswith(":loads") and not expected and found == {"": "0 0"}:
                continue
            if found != expected:
                detail = f"{key}: {found} for {expected}"
                raise Violation("the hot view is the fold at its place", detail)


def as_plain(net: Any) -> dict[str, Any]:
    """A net effect as its script gets it."""
    plain: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(net))
    return plain


def audit_row(row: dict[str, Any]) -> JobRow:
    """What a row of the audit view says of a job."""
    values = {name: _plain(row[name]) for name in NAMES}
    return JobRow(
        job_id=format_job_id(row["job_id"]), shard=row["shard"], job_no=row["job_no"], **values
    )


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
