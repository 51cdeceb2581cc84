"""The data of the demo: scikit-learn's handwritten digits, 1,797 images of 8 by 8 pixels.

Reads the file that ships inside the scikit-learn package, without importing it: a workload that
needs only numpy starts in a tenth of the time. Never downloads anything.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PIXEL_MAX = 16.0
SPLIT_SEED = 20
TEST_SHARE = 0.25

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Digits:
    """Images as rows of 64 pixels from 0 to 1, with the digit that each shows."""

    train_x: Matrix
    train_y: Labels
    test_x: Matrix
    test_y: Labels


def load_digits() -> Digits:
    """The data, split always alike, so that every job is measured on the same test images."""
    table = np.loadtxt(_data_file(), delimiter=",")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(table))
    table = table[order]
    cut = int(len(table) * (1 - TEST_SHARE))
    pixels, labels = table[:, :-1] / PIXEL_MAX, table[:, -1].astype(np.int64)
    return Digits(pixels[:cut], labels[:cut], pixels[cut:], labels[cut:])


def _data_file() -> Path:
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("scikit-learn is not installed: pip install 'foldline[demo]'")
    return Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
