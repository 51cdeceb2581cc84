"""Workload: batch inference over the test images with the model that the gang trained.

Reads the model from DEMO_SHARED_DIR, writes `predictions.csv` beside it, prints `RESULT {...}`.
Submitted with `depends_on` the gang's job: it starts only when the model is there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from foldline.demo.digits import load_digits
from foldline.demo.gang_train import MODEL_FILE
from foldline.demo.network import predict

BATCH = 64


def main() -> None:
    """Score every test image, batch by batch."""
    shared = Path(os.environ["DEMO_SHARED_DIR"])
    with np.load(shared / MODEL_FILE) as model:
        weights = model["weights"]
    digits = load_digits()
    starts = range(0, len(digits.test_y), BATCH)
    guesses = np.concatenate(
        [predict(weights, digits.test_x[start : start + BATCH]) for start in starts]
    )
    rows = np.column_stack([digits.test_y, guesses])
    np.savetxt(shared / "predictions.csv", rows, "%d", ",", header="digit,predicted", comments="")
    right = guesses == digits.test_y
    hardest = min(range(10), key=lambda digit: float(right[digits.test_y == digit].mean()))
    result = {
        "images": len(guesses),
        "batches": len(starts),
        "accuracy": round(float(right.mean()), 4),
        "hardest_digit": hardest,
    }
    print(f"RESULT {json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main()
