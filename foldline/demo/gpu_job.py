"""Workload: a job that was given a (declared) GPU says which, and does a little linear algebra.

Reads CUDA_VISIBLE_DEVICES. The principal components are computed on the CPU: a declared device is
there to try scheduling out on a machine that has none. Prints `RESULT {...}`.
"""

from __future__ import annotations

import json
import os

import numpy as np

from foldline.demo.digits import load_digits

COMPONENTS = 10


def main() -> None:
    """The share of the images' variance that ten principal components hold."""
    images = load_digits().train_x
    spread = np.linalg.svd(images - images.mean(axis=0), compute_uv=False) ** 2
    result = {
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "components": COMPONENTS,
        "variance_held": round(float(spread[:COMPONENTS].sum() / spread.sum()), 4),
    }
    print(f"RESULT {json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main()
