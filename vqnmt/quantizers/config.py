"""The settings of a quantizer: one dataclass for all of them, which checks itself."""

import math
from dataclasses import dataclass
from typing import Any

from vqnmt.errors import VqnmtError

NAMES = ("gradient", "ema", "hard_em", "soft_em")
INITIALISATIONS = ("kmeans", "normal", "reference")
DISTANCE_SCALES = ("none", "sqrt_dim", "dim")


@dataclass(kw_only=True, slots=True)
class QuantizerConfig:
    """Settings of a quantizer; keys that do not concern the named quantizer are left unread.

    The codebook of the reference implementation (tensor2tensor, Roy et al. 2018) is
    `name=soft_em, initialisation=reference, restart_threshold=0, distance_scale=none`.

    Raises:
        VqnmtError: A value is out of range; the message names the key as `quantizer.<key>`.
    """

    name: str = "ema"
    """`gradient`, `ema`, `hard_em` or `soft_em`."""

    codebook_size: int = 256
    """K, the number of codes."""

    beta: float = 0.25
    """Weight of the commitment loss."""

    decay: float = 0.999
    """lambda of the moving averages, per optimiser step (`hard_em`, `gradient`: of the usage)."""

    epsilon: float = 1e-5
    """Laplace smoothing of the EMA counts; 0 = none (`ema`, `soft_em`)."""

    samples: int = 10
    """m, the number of codes drawn for each position in training (`soft_em`)."""

    samples_end: int | None = None
    """m at the end of training, approached linearly; None = `samples` throughout (`soft_em`)."""

    temperature: float = 1.0
    """Divides the scaled distances of the posterior; towards 0 it becomes hard (`soft_em`)."""

    temperature_end: float | None = None
    """Temperature at the end of training, approached linearly; None = constant (`soft_em`)."""

    distance_scale: str = "sqrt_dim"
    """Squared distances are divided by 1 (`none`, the reference), sqrt(d) or d (`soft_em`)."""

    initialisation: str = "kmeans"
    """`kmeans`: k-means over the first vectors seen; `normal`: N(0, 1) with counts of 1;
    `reference`: N(0, 1) with counts of 0, which lets unhit codes explode at the first step."""

    kmeans_vectors: int | None = None
    """How many vectors are gathered before k-means runs; None = 4 K."""

    kmeans_iterations: int = 10
    """Lloyd iterations of the k-means initialisation."""

    restart_threshold: float = 0.1
    """A code used less than this fraction of the mean usage is restarted; 0 = never."""

    def __post_init__(self) -> None:
        _require("name", self.name in NAMES, self.name, f"one of {', '.join(NAMES)}")
        _require("codebook_size", self.codebook_size >= 1, self.codebook_size, "1 or more")
        _require("beta", _finite(self.beta) and self.beta >= 0, self.beta, "0 or more")
        _require("decay", 0 <= self.decay < 1, self.decay, "in [0, 1)")
        _require("epsilon", _finite(self.epsilon) and self.epsilon >= 0, self.epsilon, "0 or more")
        for key in ("samples", "samples_end", "kmeans_vectors"):
            value = getattr(self, key)
            _require(key, value is None or value >= 1, value, "1 or more")
        for key in ("temperature", "temperature_end"):
            value = getattr(self, key)
            _require(key, value is None or (_finite(value) and value > 0), value, "above 0")
        _require(
            "distance_scale",
            self.distance_scale in DISTANCE_SCALES,
            self.distance_scale,
            f"one of {', '.join(DISTANCE_SCALES)}",
        )
        _require(
            "initialisation",
            self.initialisation in INITIALISATIONS,
            self.initialisation,
            f"one of {', '.join(INITIALISATIONS)}",
        )
        _require(
            "kmeans_iterations", self.kmeans_iterations >= 1, self.kmeans_iterations, "1 or more"
        )
        _require(
            "restart_threshold",
            0 <= self.restart_threshold < 1,
            self.restart_threshold,
            "in [0, 1)",
        )
        if self.initialisation == "reference":
            # Counts of 0 mean that every code is "dead" at the first step, and without smoothing
            # an unhit code would be 0 / 0: the setting exists to show the reference's behaviour.
            _require(
                "restart_threshold",
                self.restart_threshold == 0,
                self.restart_threshold,
                "0 beside quantizer.initialisation=reference",
            )
            _require(
                "epsilon",
                self.epsilon > 0,
                self.epsilon,
                "above 0 beside quantizer.initialisation=reference",
            )


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _require(key: str, holds: bool, value: Any, remedy: str) -> None:
    if not holds:
        raise VqnmtError(f"quantizer.{key} is {value!r}: it must be {remedy}.")
