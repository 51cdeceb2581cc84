"""Workload: one point of a hyper-parameter sweep on the digits, over two families of models.

Reads `model` from the job's `config` (FOLDLINE_CONFIG_JSON): `svm` is scikit-learn's support-vector
machine with `C` and `gamma`, `network` our small network with `learning_rate` and `momentum`.
Prints one line `RESULT {...}` with its accuracy on the test images. Writes no file.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from foldline.demo.digits import Digits, Labels, load_digits
from foldline.demo.network import predict
from foldline.demo.training import ALONE, Recipe, train

EPOCHS = 24
BATCH = 32

Config = dict[str, Any]


def main() -> None:
    """Fit, score, print."""
    config = json.loads(os.environ.get("FOLDLINE_CONFIG_JSON", "{}"))
    fit = FAMILIES[config.get("model", "svm")]
    digits = load_digits()
    began = time.monotonic()
    guesses = fit(config, digits)
    result = {
        **config,
        "accuracy": round(float((guesses == digits.test_y).mean()), 4),
        "fit_ms": round((time.monotonic() - began) * 1000, 1),
        "cpu_ms": round(time.process_time() * 1000, 1),
    }
    print(f"RESULT {json.dumps(result)}", flush=True)


def fit_svm(config: Config, digits: Digits) -> Labels:
    """What a support-vector machine says of the test images."""
    # Its import takes a second: the other family does not pay for it.
    from sklearn.svm import SVC  # type: ignore[import-untyped]  # ships no types

    penalty, gamma = float(config.get("C", 1.0)), float(config.get("gamma", 0.1))
    model = SVC(C=penalty, gamma=gamma, kernel=config.get("kernel", "rbf"))
    guesses: Labels = model.fit(digits.train_x, digits.train_y).predict(digits.test_x)
    return guesses


def fit_network(config: Config, digits: Digits) -> Labels:
    """What a small network says of the test images."""
    rate, momentum = float(config["learning_rate"]), float(config["momentum"])
    recipe = Recipe(EPOCHS, BATCH, learning_rate=rate, momentum=momentum)
    weights, _ = train(ALONE, digits, recipe, print)
    return predict(weights, digits.test_x)


FAMILIES = {"svm": fit_svm, "network": fit_network}


if __name__ == "__main__":
    main()
