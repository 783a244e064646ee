"""The settings of a training."""

import math
from dataclasses import dataclass, field

from vqnmt.errors import VqnmtError
from vqnmt.settings import NO_NUMBER

_MOST_BATCH_TOKENS = 1 << 24


@dataclass(kw_only=True, slots=True)
class TrainingConfig:
    """How long and how a model is trained; every number of steps counts optimiser steps."""

    steps: int = 1500
    """Optimiser steps in all."""
    batch_tokens: int = 1024
    """Positions on the longer side of a batch, padding included; the processes share it out, so
    that their number does not change it."""
    accumulation: int = 1
    """Batches whose gradients are averaged, by target tokens, for each optimiser step."""
    optimizer: str = "muon"
    """`muon` (linear layers and 2-d convolutions; AdamW for all else), or `adamw` for all."""
    learning_rate: float = 0.002
    """Peak learning rate; the two optimisers are on one scale."""
    warmup: int = 200
    """Steps of linear warm-up."""
    schedule: str = "cosine"
    """After warm-up: `cosine` to zero at the last step, or `inverse_sqrt`."""
    weight_decay: float = 0.01
    """Decoupled weight decay on matrices."""
    beta2: float = 0.98
    """Adam's decay of the second moment."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    skip_factor: float = 100.0
    """A step is skipped if its gradient is not finite, or over this many times the average norm of
    the steps before."""
    skip_limit: int = field(default=20, metadata=NO_NUMBER)
    """The training aborts after this many consecutive skipped steps."""
    precision: str = "auto"
    """`fp32`, `bf16`, or `auto`: bf16 on GPUs and on CPUs with bf16 matrix units."""
    log_every: int = field(default=50, metadata=NO_NUMBER)
    """Steps between two rows of metrics.jsonl."""
    trackers: list[str] = field(default_factory=list, metadata=NO_NUMBER)
    """Names of accelerate's trackers, such as wandb, mlflow or comet_ml, that get what
    metrics.jsonl gets, and samples of translations."""
    validate_every: int = 500
    """Steps between two validations; each also saves a checkpoint and a snapshot of weights."""
    average: int = 1
    """The trained model is the mean of this many last snapshots; a cosine to zero needs only
    one."""
    keep: int = field(default=2, metadata=NO_NUMBER)
    """Checkpoints kept to resume from; that of the best validation stays beside them."""

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the key, its value and the values allowed.
        """
        for key in ("steps", "batch_tokens", "accumulation", "log_every", "validate_every"):
            self._at_least(key, 1)
        for key in ("average", "keep", "skip_limit"):
            self._at_least(key, 1)
        if self.batch_tokens > _MOST_BATCH_TOKENS:
            raise VqnmtError(
                f"training.batch_tokens is {self.batch_tokens}; it must be {_MOST_BATCH_TOKENS} or "
                "less, for a batch is held in memory: training.accumulation adds up several"
            )
        self._at_least("warmup", 0)
        if not self.skip_factor > 1:
            raise VqnmtError(f"training.skip_factor is {self.skip_factor}; it must be above 1")
        for key in ("learning_rate", "clip_norm"):
            if not getattr(self, key) > 0:
                raise VqnmtError(f"training.{key} is {getattr(self, key)}; it must be above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise VqnmtError(f"training.weight_decay is {self.weight_decay}; it must be 0 or more")
        if not 0 <= self.beta2 < 1:
            raise VqnmtError(f"training.beta2 is {self.beta2}; it must be 0 or more and below 1")
        for key, allowed in (
            ("optimizer", ("muon", "adamw")),
            ("schedule", ("cosine", "inverse_sqrt")),
            ("precision", ("auto", "bf16", "fp32")),
        ):
            if getattr(self, key) not in allowed:
                raise VqnmtError(
                    f"training.{key} is {getattr(self, key)!r}; choose one of {', '.join(allowed)}"
                )

        self._check_trackers()

    def _check_trackers(self) -> None:
        """Refuse a tracker that is unknown or not installed, before anything is trained."""
        if not self.trackers:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
        from accelerate.utils import LoggerType

        available = {str(name) for name in get_available_trackers()}
        for name in self.trackers:
            if name not in LOGGER_TYPE_TO_CLASS:
                raise VqnmtError(
                    f"training.trackers names {name!r}; choose among "
                    f"{', '.join(LOGGER_TYPE_TO_CLASS)}"
                )
            if name in LoggerType and name not in available:
                raise VqnmtError(
                    f"training.trackers names {name}, which is not installed: pip install it, or "
                    "leave it out"
                )

    def _at_least(self, key: str, least: int) -> None:
        if getattr(self, key) < least:
            raise VqnmtError(f"training.{key} is {getattr(self, key)}; it must be {least} or more")
