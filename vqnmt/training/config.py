"""The settings of a training."""

from dataclasses import InitVar, dataclass, field
from typing import Annotated, Literal

from vqnmt.errors import VqnmtError
from vqnmt.settings import (
    NO_NUMBER,
    Fraction,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    above,
    at_least,
    between,
    check,
)

BatchTokens = Annotated[
    int, between(1, 1 << 24, ", because a batch is held in memory: accumulation adds up several")
]


@dataclass(kw_only=True, slots=True)
class TrainingConfig(Settings):
    """How long and how a model is trained; every number of steps counts optimiser steps."""

    group: InitVar[str] = "training"
    steps: PositiveInt = 1500
    """Optimiser steps in all."""
    batch_tokens: BatchTokens = 1024
    """Positions on the longer side of a batch, padding included; the processes share it out, so
    that their number does not change it."""
    accumulation: PositiveInt = 1
    """Batches whose gradients are averaged, by target tokens, for each optimiser step."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """`muon` (linear layers and 2-d convolutions; AdamW for all else), or `adamw` for all."""
    learning_rate: PositiveFloat = 0.002
    """Peak learning rate; the two optimisers are on one scale."""
    warmup: NonNegativeInt = 200
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "inverse_sqrt"] = "cosine"
    """After warm-up: `cosine` to zero at the last step, or `inverse_sqrt`."""
    weight_decay: Annotated[float, at_least(0)] = 0.01
    """Decoupled weight decay on matrices."""
    beta2: Fraction = 0.98
    """Adam's decay of the second moment."""
    clip_norm: PositiveFloat = 1.0
    """Largest gradient norm."""
    skip_factor: Annotated[float, above(1)] = 100.0
    """A step is skipped if its gradient is not finite, or over this many times the average norm of
    the steps before."""
    skip_limit: PositiveInt = field(default=20, metadata=NO_NUMBER)
    """The training aborts after this many consecutive skipped steps."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`fp32`, `bf16`, or `auto`: bf16 on GPUs and on CPUs with AMX tiles."""
    log_every: PositiveInt = field(default=50, metadata=NO_NUMBER)
    """Steps between two rows of metrics.jsonl."""
    trackers: list[str] = field(default_factory=list, metadata=NO_NUMBER)
    """Names of accelerate's trackers, such as wandb, mlflow or comet_ml, that get what
    metrics.jsonl gets, and samples of translations."""
    validate_every: PositiveInt = 500
    """Steps between two validations; each also saves a checkpoint and a snapshot of weights."""
    average: PositiveInt = 1
    """The trained model is the mean of this many last snapshots; a cosine to zero needs only
    one."""
    keep: PositiveInt = field(default=2, metadata=NO_NUMBER)
    """Checkpoints kept to resume from; that of the best validation stays beside them."""

    def __post_init__(self, group: str) -> None:
        """Check every field, and that the trackers are installed."""
        check(self, group)
        self._check_trackers(group)

    def _check_trackers(self, group: str) -> None:
        """Refuse a tracker that is unknown or not installed, before anything is trained."""
        if not self.trackers:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
        from accelerate.utils import LoggerType

        available = {str(name) for name in get_available_trackers()}
        for name in self.trackers:
            if name not in LOGGER_TYPE_TO_CLASS:
                raise VqnmtError(
                    f"{group}.trackers names {name!r}; choose among "
                    f"{', '.join(LOGGER_TYPE_TO_CLASS)}"
                )
            if name in LoggerType and name not in available:
                raise VqnmtError(
                    f"{group}.trackers names {name}, which is not installed: pip install it, or "
                    "leave it out"
                )
