"""Learning-rate schedules."""

import math

from vqnmt.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Return the learning rate of optimiser step `step`, counted from 0."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * math.sqrt(max(config.warmup, 1) / (step + 1))
    remaining = (config.steps - step) / max(config.steps - config.warmup, 1)
    return config.learning_rate * 0.5 * (1 - math.cos(math.pi * remaining))
