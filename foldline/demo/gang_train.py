"""Workload: the members of a gang train one network together, each on its part of the images.

Reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun sets them, and DEMO_SHARED_DIR,
where rank 0 writes the model. Each member prints `RESULT {...}` with a hash of its weights: they
must be equal on all. How they train is in `training.py`.
"""

from __future__ import annotations

import json
import os
import time
from hashlib import sha256
from pathlib import Path

import numpy as np

from foldline.demo.allreduce import join_gang
from foldline.demo.digits import Matrix, load_digits
from foldline.demo.network import predict
from foldline.demo.training import Recipe, part_of, steps_per_epoch, train

MODEL_FILE = "gang-model.npz"


def main() -> None:
    """Meet, train, and tell; rank 0 also keeps the model."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    digits, recipe = load_digits(), Recipe()
    with join_gang(rank, size, address, port) as gang:
        began = time.monotonic()
        weights, losses = train(gang, digits, recipe, _tell)
        took = time.monotonic() - began
    accuracy = float((predict(weights, digits.test_x) == digits.test_y).mean())
    result = {
        "rank": rank,
        "world_size": size,
        "images": len(part_of(gang, len(digits.train_y))),
        "steps": recipe.epochs * steps_per_epoch(gang, digits, recipe),
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
        "accuracy": round(accuracy, 4),
        "train_ms": round(took * 1000, 1),
        "weights_sha256": sha256(weights.tobytes()).hexdigest(),
    }
    if rank == 0:
        save_model(Path(os.environ["DEMO_SHARED_DIR"]) / MODEL_FILE, weights)
    print(f"RESULT {json.dumps(result)}", flush=True)


def save_model(path: Path, weights: Matrix) -> None:
    """Write the model whole or not at all, so that no reader sees half of it."""
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    np.savez(partial, weights=weights)
    partial.replace(path)


def _tell(news: str) -> None:
    print(news, flush=True)


if __name__ == "__main__":
    main()
