"""Real logs for views: what a `ViewShard` decided, as records that any reader counts."""

from __future__ import annotations

from dataclasses import replace

from infra.follow import CountedRecord
from infra.log import MemoryPartition
from schemas.codec import encode
from schemas.envelope import Claim, Decision
from stream_processors.domain.counting import GENESIS, Chain, judge
from tests.view_shard import Life


class LifeLog:
    """A random life of a shard whose decisions stand in a partition; `live` makes more of it."""

    def __init__(self, seed: int) -> None:
        self.life = Life(seed)
        self.partition = MemoryPartition()
        self._chain: Chain = GENESIS
        self._write()

    def live(self, steps: int) -> None:
        """Some more steps, written to the log."""
        for _ in range(steps):
            self.life.step()
        self._write()

    def land(self, value: bytes) -> int:
        """Put any bytes at the log's end; its offset."""
        offset = self.partition.land(value)
        self._chain = replace(self._chain, next_offset=offset + 1)
        return offset

    def _write(self) -> None:
        shard = self.life.shard
        records, shard.records = shard.records, []
        for counted in records:
            self._append(counted)

    def _append(self, counted: CountedRecord) -> None:
        record: Claim | Decision = counted.record
        if isinstance(record, Decision):
            record = replace(record, prev=self._chain.value)
        value = encode(record)
        offset = self.partition.land(value)
        self._chain, verdict = judge(self._chain, record, value, offset)
        assert verdict.counts, verdict
