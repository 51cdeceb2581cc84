"""A small neural network in numpy: 64 pixels, one hidden layer, ten digits.

All weights lie in one flat vector, so that a gradient is exchanged in one message. Pure.
"""

from __future__ import annotations

import numpy as np

from foldline.demo.digits import Labels, Matrix

INPUTS, HIDDEN, CLASSES = 64, 48, 10
_CUTS = np.cumsum([INPUTS * HIDDEN, HIDDEN, HIDDEN * CLASSES])


def initial_weights(seed: int) -> Matrix:
    """He-initialised weights; equal seeds give equal weights on every member."""
    draw = np.random.default_rng(seed)
    first = draw.normal(0, np.sqrt(2 / INPUTS), INPUTS * HIDDEN)
    second = draw.normal(0, np.sqrt(2 / HIDDEN), HIDDEN * CLASSES)
    return np.concatenate([first, np.zeros(HIDDEN), second, np.zeros(CLASSES)])


def _layers(weights: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    first, bias, second, last_bias = np.split(weights, _CUTS)
    return first.reshape(INPUTS, HIDDEN), bias, second.reshape(HIDDEN, CLASSES), last_bias


def _forward(weights: Matrix, images: Matrix) -> tuple[Matrix, Matrix]:
    first, bias, second, last_bias = _layers(weights)
    hidden = np.maximum(images @ first + bias, 0)
    scores = hidden @ second + last_bias
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, scores / scores.sum(axis=1, keepdims=True)


def loss_and_gradient(weights: Matrix, images: Matrix, labels: Labels) -> tuple[float, Matrix]:
    """Summed cross-entropy over the images, and its gradient in the shape of `weights`."""
    hidden, chances = _forward(weights, images)
    rows = np.arange(len(labels))
    loss = float(-np.log(chances[rows, labels] + 1e-12).sum())
    chances[rows, labels] -= 1
    second = _layers(weights)[2]
    back = (chances @ second.T) * (hidden > 0)
    parts = (images.T @ back, back.sum(axis=0), hidden.T @ chances, chances.sum(axis=0))
    return loss, np.concatenate([part.ravel() for part in parts])


def predict(weights: Matrix, images: Matrix) -> Labels:
    """The most likely digit of each image."""
    best: Labels = _forward(weights, images)[1].argmax(axis=1)
    return best
