"""Durations counted in buckets whose width grows with the value, so that any window can be summed.

Pure. Eight buckets for each doubling (the layout of HDR Histogram with three significant bits): a
quantile read back is at most 1/16 away from the truth.
"""

from __future__ import annotations

from collections.abc import Mapping

BITS = 3
PER_DOUBLING = 1 << BITS


def bucket(value: int) -> int:
    """The bucket of a value; negative ones count as 0."""
    value = max(value, 0)
    shift = max(value.bit_length() - BITS - 1, 0)
    return (shift << BITS) + (value >> shift)


def middle(index: int) -> int:
    """The value in the middle of a bucket."""
    shift = max((index >> BITS) - 1, 0)
    least = (index - (shift << BITS)) << shift
    return least + ((1 << shift) >> 1)


def quantile(counts: Mapping[int, int], share_milli: int) -> int:
    """The value that `share_milli` thousandths of all counted ones do not exceed; 0 for none."""
    total = sum(counts.values())
    if not total:
        return 0
    rank = max(-(-total * share_milli // 1000), 1)
    for index in sorted(counts):
        rank -= counts[index]
        if rank <= 0:
            return middle(index)
    raise AssertionError("the ranks of a histogram sum up to its total")
