"""Stochastic gradient descent with momentum, alone or in a gang whose members share the work.

Every step each member computes the gradient of its own batch, the gradients are summed over all
members (`allreduce.py`), and all take the same step; a gang of one sums over itself. Deterministic
for a recipe and a gang's size. Each epoch is reported as progress, for jobs that must make some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from foldline.demo.allreduce import Gang
from foldline.demo.digits import Digits, Matrix
from foldline.demo.network import initial_weights, loss_and_gradient
from workers.progress import report_progress

SEED = 7
ALONE = Gang(0, 1, ())
TOLD_EPOCHS = 10


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. `batch` is images a member and step."""

    epochs: int = 30
    batch: int = 16
    learning_rate: float = 0.15
    momentum: float = 0.9


def train(
    gang: Gang, digits: Digits, recipe: Recipe, tell: Callable[[str], None]
) -> tuple[Matrix, list[float]]:
    """The trained weights, and the mean loss over all members' images of each epoch."""
    weights = initial_weights(SEED)
    velocity = np.zeros_like(weights)
    mine = part_of(gang, len(digits.train_y))
    draw = np.random.default_rng(SEED + 1 + gang.rank)
    losses = []
    for epoch in range(recipe.epochs):
        order = draw.permutation(mine)
        total = np.zeros(2)
        for step in range(steps_per_epoch(gang, digits, recipe)):
            batch = order[step * recipe.batch : (step + 1) * recipe.batch]
            loss, gradient = loss_and_gradient(
                weights, digits.train_x[batch], digits.train_y[batch]
            )
            summed = gang.sum(np.append(gradient, [loss, len(batch)]))
            total += summed[-2:]
            mean = summed[:-2] / summed[-1]
            velocity = recipe.momentum * velocity - recipe.learning_rate * mean
            weights = weights + velocity
        losses.append(float(total[0] / total[1]))
        report_progress()
        if epoch % TOLD_EPOCHS == 0:
            tell(f"epoch {epoch}: loss {losses[-1]:.4f}")
    return weights, losses


def part_of(gang: Gang, images: int) -> range:
    """The images that are this member's."""
    return range(gang.rank, images, gang.size)


def steps_per_epoch(gang: Gang, digits: Digits, recipe: Recipe) -> int:
    """The same on every member, or one would wait for a gradient that never comes."""
    smallest = len(digits.train_y) // gang.size
    return -(-smallest // recipe.batch)
