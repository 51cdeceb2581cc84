"""The hot view in Redis or Valkey: what lives now, one generation a shard. The writing side.

`HotView` is a view of `pipeline.py`: a batch's net effect (`hot_net.py`) goes in by one script
call, which refuses gaps and repeats and moves the position with the data. A view that lost its
tail, or belongs to another log, is written anew beside the old one and then flipped. Nothing is
kept here that the server does not confirm: every call tells where the data stands. Readers:
`hot_read.py`; keys: `hot_keys.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from infra.redis_store import RedisStore, Script, StoreUnavailable
from projections.hot_keys import (
    REGISTRY,
    chain_text,
    decode_position,
    encode_position,
    meta,
    parse_meta,
    root,
)
from projections.hot_net import Memory, Net, net_effect, remember, settle, whole_effects
from projections.hot_rows import decode_job
from projections.pipeline import (
    START,
    Position,
    StaleWriter,
    ViewBatch,
    ViewBehind,
    ViewReplaced,
    ViewUnavailable,
)
from schemas.digest import JobRow, digest
from stream_processors.domain.state import State

HERE = Path(__file__).parent
BATCH = Script((HERE / "hot_batch.lua").read_text())
FLIP = Script((HERE / "hot_flip.lua").read_text())
READ = Script((HERE / "hot_read.lua").read_text())

_pack = msgspec.msgpack.Encoder().encode


class HotView:
    """The live generation of every shard, or one that is being built beside it.

    Every method raises `ViewUnavailable` where the server does not answer or cannot write.
    """

    def __init__(self, url: str, generation: int | None = None) -> None:
        """`generation` names one that is being built; without it, the live one is written."""
        self.generation = generation
        self._url = url
        self._store = RedisStore(url)
        self._written: dict[int, int] = {}
        self._memories: dict[int, Memory] = {}

    def position(self, shard: int) -> Position | None:
        """Where the view stands, asked of the server anew; None where it holds nothing.

        Asking means doubt: what was remembered of the last batch is forgotten.
        """
        self._memories.pop(shard, None)
        with _reachable():
            return self._position(shard)

    def store(self, batch: ViewBatch) -> None:
        """Take in a batch: all of it with its position, or nothing.

        Raises `StaleWriter` where the data stands elsewhere, `ViewReplaced` where another
        generation has become the live one. Storing the same batch again changes nothing.
        """
        with _reachable():
            generation = self._writing(batch)
            memory = Memory() if batch.start == START else self._memories.get(batch.shard)
            net = net_effect(batch, memory)
            places = (chain_text(batch.start), chain_text(batch.stop))
            position = encode_position(batch.stop)
            self._write((batch.shard, generation), places, position, net)
        if memory is None:
            self._memories[batch.shard] = remember(batch.state)
        else:
            settle(batch, memory)
            self._memories[batch.shard] = memory

    def refill(self, shard: int, state: State, at: Position) -> None:
        """Write the whole live state into a new generation, and make it the live one at once.

        Readers see the old one or the new one, never a part. Raises `StaleWriter` where the view
        stands further than `at`.
        """
        with _reachable():
            if self.generation is not None:
                self._store.unlink(self._store.keys(f"{root(shard, self.generation)}*"))
                self._fill((shard, self.generation), state, at)
            else:
                self._refill_live(shard, state, at)
        self._memories[shard] = remember(state)

    def rows(self, shard: int) -> tuple[Position, list[JobRow]]:
        """Every job that has not ended, and the position at which that is so."""
        with _reachable():
            if self.generation is None:
                self._find_live(shard)
            generation = self._written.get(shard, self.generation)
            answer = self._read(shard, generation, "rows") if generation is not None else []
        if not answer:
            return START, []
        return decode_position(answer[0]), [decode_job(data).row for data in answer[1][0]]

    def digest(self, shard: int) -> tuple[Position, int, int]:
        """The position, the digest of all rows there, and how many they are."""
        position, rows = self.rows(shard)
        return position, digest(rows), len(rows)

    def new_generation(self) -> HotView:
        """A view to build beside the live one; `flip` its `generation` when it has caught up."""
        with _reachable():
            for shard, generation in self._listed("building"):
                self._drop(shard, generation)
            number = self._store.next_number(REGISTRY, "next")
        return HotView(self._url, number)

    def flip(self, generation: int) -> None:
        """Make a built generation the live one for all shards that it holds; the old one is kept.

        Flipping back to that one is a rollback; what was kept before it is deleted. Raises
        `ViewBehind` where a shard of a new generation stands before the live one (a kept one may).
        """
        with _reachable():
            fields = self._store.get_fields(REGISTRY)
            old = self._check_flip(generation, fields)
            if not old:  # no log has a record yet
                return
            pairs = [part for shard in old for part in (str(shard), "*")]
            for shard in old:
                self._store.drop_fields(meta(shard, generation), ["retired"])
            self._store.run(FLIP, [REGISTRY], [str(generation), "keep", *pairs])
            for shard, live in old.items():
                if live not in ("", str(generation)):
                    self._store.put_fields(meta(shard, int(live)), {"retired": "1"})
            self._sweep(list(old))

    def close(self) -> None:
        """Give the connections back."""
        self._store.close()

    def _check_flip(self, generation: int, fields: dict[str, str]) -> dict[int, str]:
        """For each shard that the generation holds, the live one (or ""); raises `ViewBehind`."""
        found = map(parse_meta, self._store.keys(f"foldline:{{s*.g{generation}}}:meta"))
        shards = sorted(shard for shard, _ in found)
        for shard in shards:
            built = self._stands(shard, generation)
            assert built is not None, f"generation {generation} of shard {shard} is not complete"
            live = fields.get(f"live:{shard}")
            stands = None if live is None else self._stands(shard, int(live))
            is_kept = fields.get(f"previous:{shard}") == str(generation)
            if stands is not None and stands.next_offset > built.next_offset and not is_kept:
                raise ViewBehind(
                    f"shard {shard}: the live generation stands at offset {stands.next_offset},"
                    f" generation {generation} at {built.next_offset}"
                )
        return {shard: fields.get(f"live:{shard}", "") for shard in shards}

    def _stands(self, shard: int, generation: int) -> Position | None:
        text = self._store.get_fields(meta(shard, generation)).get("position")
        return decode_position(text) if text else None

    def _position(self, shard: int) -> Position | None:
        generation = self.generation
        if generation is None:
            generation = self._find_live(shard)
        return None if generation is None else self._stands(shard, generation)

    def _find_live(self, shard: int) -> int | None:
        """The live generation, by the registry; what was remembered of another one is void."""
        live = self._store.get_fields(REGISTRY).get(f"live:{shard}")
        if live is None:
            self._written.pop(shard, None)
        elif self._written.get(shard) != int(live):
            self._written[shard] = int(live)
            self._memories.pop(shard, None)
        return self._written.get(shard)

    def _writing(self, batch: ViewBatch) -> int:
        """The generation that this batch goes to; the first batch of all opens one."""
        shard = batch.shard
        if self.generation is not None:
            if shard not in self._written:
                self._mark("building", shard, self.generation)
                self._written[shard] = self.generation
            return self.generation
        generation = self._written.get(shard)
        if generation is None:
            generation = self._find_live(shard)
        if generation is not None:
            return generation
        if batch.start != START:
            raise StaleWriter(f"shard {shard}: the hot view is empty, or lost what it held")
        number = self._store.next_number(REGISTRY, "next")
        if not self._store.run(FLIP, [REGISTRY], [str(number), "drop", str(shard), ""]):
            raise StaleWriter(f"shard {shard}: somebody else began to write the hot view")
        self._written[shard] = number
        return number

    def _write(
        self,
        place: tuple[int, int],
        chain: tuple[str, str],
        position: str,
        net: Net,
        counted_from: int = 0,
    ) -> None:
        """One script call; `chain` are the chain values before and after it."""
        shard, generation = place
        arguments: list[str | bytes] = [*chain, position, _pack(net), str(counted_from)]
        word, stands = self._store.run(BATCH, [meta(shard, generation)], arguments)
        if word == b"retired":
            self._written.pop(shard, None)
            raise ViewReplaced(f"shard {shard}: generation {generation} is no longer the live one")
        if word == b"elsewhere":
            self._written.pop(shard, None)
            self._memories.pop(shard, None)
            where = decode_position(stands) if stands else None
            raise StaleWriter(f"shard {shard}: the hot view stands at {where}")
        assert word in (b"stored", b"repeated"), word

    def _refill_live(self, shard: int, state: State, at: Position) -> None:
        self._sweep([shard])
        live = self._find_live(shard)
        stands = self._position(shard)
        if stands is not None and stands.next_offset > at.next_offset:
            raise StaleWriter(f"shard {shard}: the hot view stands further, at {stands}")
        number = self._store.next_number(REGISTRY, "next")
        self._mark("doomed", shard, number)
        self._fill((shard, number), state, at)
        expected = "" if live is None else str(live)
        if not self._store.run(FLIP, [REGISTRY], [str(number), "drop", str(shard), expected]):
            raise StaleWriter(f"shard {shard}: another generation became the live one meanwhile")
        if live is not None:
            self._store.put_fields(meta(shard, live), {"retired": "1"})
        self._written[shard] = number
        self._sweep([shard])

    def _fill(self, place: tuple[int, int], state: State, at: Position) -> None:
        """Write a state step by step; the generation has no position before the last one."""
        before = ""
        self._memories.pop(place[0], None)
        for number, net in enumerate(whole_effects(state)):
            after = f"filling.{number}"
            self._write(place, (before, after), "", net, at.at)
            before = after
        self._write(place, (before, chain_text(at)), encode_position(at), Net())

    def _read(self, shard: int, generation: int, asked: str) -> Sequence[Any]:
        answer: Sequence[Any] = self._store.run(READ, [meta(shard, generation)], [asked])
        return answer

    def _mark(self, word: str, shard: int, generation: int) -> None:
        self._store.put_fields(REGISTRY, {f"{word}:{generation}:{shard}": "1"})

    def _listed(self, word: str) -> list[tuple[int, int]]:
        """Shard and generation of everything that the registry lists under a word."""
        found = []
        for name in self._store.get_fields(REGISTRY):
            listed, _, rest = name.partition(":")
            if listed == word:
                generation, _, shard = rest.partition(":")
                found.append((int(shard), int(generation)))
        return sorted(found)

    def _sweep(self, shards: Sequence[int]) -> None:
        """Delete what nobody will read again, a crash of an earlier writer's included."""
        for shard, generation in self._listed("doomed"):
            if shard in shards:
                self._drop(shard, generation)

    def _drop(self, shard: int, generation: int) -> None:
        self._store.unlink(self._store.keys(f"{root(shard, generation)}*"))
        names = [f"{word}:{generation}:{shard}" for word in ("doomed", "building")]
        self._store.drop_fields(REGISTRY, names)


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise ViewUnavailable(f"Redis: {error}") from error
