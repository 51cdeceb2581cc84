"""The end of a batch that nobody can unpack: found exactly, however the batches around it lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.broken_batches import find_stop, give_up
from infra.kafka_port import Message, Place, Progress

PLACE = ("topic", 0)


@dataclass
class Partition:
    """Batches of so many records, some broken; as much of a reader as is asked."""

    batches: list[tuple[int, bool]]
    progress: Progress = field(default_factory=Progress)
    questions: int = 0
    stands: int = 0

    def batch_at(self, offset: int) -> tuple[int, bool]:
        """First offset of the batch there, and whether it is broken."""
        base = 0
        for size, is_broken in self.batches:
            if offset < base + size:
                return base, is_broken
            base += size
        return base, False

    def end_offset(self, topic: str, partition: int) -> int:
        del topic, partition
        return sum(size for size, _ in self.batches)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self.progress.move((topic, partition), offset)

    def assign(self, positions: Mapping[Place, int]) -> None:
        self.stands = positions[PLACE]

    def hits(self, place: Place) -> int | None:
        assert place == PLACE
        base, is_broken = self.batch_at(self.stands)
        return base if is_broken else None

    def twin(self) -> Partition:
        self.questions += 1
        return Partition(self.batches)

    def close(self) -> None:
        return


def read_all(partition: Partition, start: int, most: int) -> list[Message]:
    """Every record from there on, as a reader gives them out."""
    progress, found = partition.progress, []
    progress.start({PLACE: start})
    while progress.positions[PLACE] < partition.end_offset(*PLACE):
        if progress.broken:
            found += give_up(partition, progress, most)
            continue
        offset = progress.positions[PLACE]
        base, is_broken = partition.batch_at(offset)
        if is_broken:
            told = ("_BAD_COMPRESSION", "cannot be unpacked")
            progress.take_error(PLACE, base, told, own=True)
        else:
            found.append(Message(*PLACE, offset, None, b"good", [], 0))
            progress.admit(PLACE, offset)
    return found


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 200), st.booleans()), min_size=1, max_size=8),
    st.integers(0, 50),
    st.integers(1, 70),
)
def test_every_record_is_given_out_once_and_only_broken_ones_as_broken(
    batches: list[tuple[int, bool]], start: int, most: int
) -> None:
    partition = Partition(batches)
    found = read_all(partition, start, most)
    assert [one.offset for one in found] == list(range(start, partition.end_offset(*PLACE)))
    for one in found:
        assert bool(one.broken) is partition.batch_at(one.offset)[1]
        assert (one.value is None) is bool(one.broken)


def test_a_single_record_costs_three_questions_and_a_million_few() -> None:
    small = Partition([(1, True), (5, False)])
    assert len(read_all(small, 0, 10)) == 6
    assert small.questions <= 3
    asked: list[int] = []

    def is_broken(at: int) -> bool:
        asked.append(at)
        return at < 1_000_003

    assert find_stop(is_broken, 3, 5_000_000) == 1_000_003
    assert len(asked) < 45


def test_an_error_left_over_from_before_a_seek_loses_nothing() -> None:
    partition = Partition([(2, True), (3, False)])
    progress = partition.progress
    progress.start({PLACE: 2})
    progress.take_error(PLACE, 0, ("_BAD_COMPRESSION", "old news"), own=True)
    assert give_up(partition, progress, 10) == []
    assert progress.positions[PLACE] == 2
    assert not progress.broken
