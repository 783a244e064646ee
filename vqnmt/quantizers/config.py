"""The settings of a quantizer: one dataclass for all of them, which checks itself."""

import math
from dataclasses import dataclass, field
from typing import Any

from vqnmt.errors import VqnmtError

PARTS = ("gradient", "ema", "hard_em", "soft_em", "gumbel_softmax", "semhash")
COMPOSITES = ("product", "residual")
NAMES = (*PARTS, *COMPOSITES, "fsq", "lfq", "sim_vq")
PROJECTIONS = ("none", "random", "learnt")
INITIALISATIONS = ("kmeans", "normal", "reference")
DISTANCE_SCALES = ("none", "sqrt_dim", "dim")
# Usage is counted for each code, so that more codes fit no memory.
_MOST_CODES = 1 << 24


@dataclass(kw_only=True, slots=True)
class QuantizerConfig:
    """Settings of a quantizer; keys that do not concern the named quantizer are left unread.

    The codebook of the reference implementation (tensor2tensor, Roy et al. 2018) is
    `name=soft_em, initialisation=reference, restart_threshold=0, distance_scale=none`.

    Raises:
        VqnmtError: A value is out of range; the message names the key as `quantizer.<key>`.
    """

    name: str = "ema"
    """`gradient`, `ema`, `hard_em`, `soft_em`, `gumbel_softmax`, `semhash`, `product`, `residual`,
    or `fsq`, `lfq`, `sim_vq` of vector-quantize-pytorch."""

    codebook_size: int = 256
    """K, the number of codes; of the combined codes where there are `parts`, each of which has
    K^(1/parts); a power of two for `semhash` and `lfq`; the product of `levels` for `fsq`. At most
    2^24."""

    beta: float = 0.25
    """Weight of the commitment loss (not `gumbel_softmax`, `semhash`, `fsq`)."""

    decay: float = 0.999
    """lambda of the moving averages, per optimiser step (`hard_em`, `gradient`: of the usage);
    0.99 suits short trainings."""

    epsilon: float = 1e-5
    """Laplace smoothing of the EMA counts; 0 = none (`ema`, `soft_em`)."""

    samples: int = 10
    """m, the number of codes drawn for each position in training (`soft_em`)."""

    samples_end: int | None = None
    """m at the end of training, approached linearly; None = `samples` throughout (`soft_em`)."""

    temperature: float = 1.0
    """Divides the scaled distances of the posterior (`soft_em`) or the noisy logits of the draw
    (`gumbel_softmax`); towards 0 both become hard."""

    temperature_end: float | None = None
    """Temperature at the end of training, approached linearly; None = constant (`soft_em`,
    `gumbel_softmax`)."""

    distance_scale: str = "none"
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

    hard_samples: bool = False
    """Whether the value in training is one code vector, with the gradient of the relaxed draw,
    and not the relaxed draw itself (`gumbel_softmax`)."""

    prior_weight: float = 0.1
    """Weight of KL(posterior || uniform prior) (`gumbel_softmax`)."""

    noise: float = 1.0
    """Standard deviation of the noise on the bits' logits in training (`semhash`)."""

    part: str = "ema"
    """The quantizer of each part, by the same settings: `gradient`, `ema`, `hard_em`, `soft_em`,
    `gumbel_softmax` or `semhash` (`product`, `residual`)."""

    parts: int = 2
    """n, the number of parts (`product`) or stages (`residual`)."""

    projection: str = "none"
    """What the parts quantize: slices of the vector (`none`) or of a projection of it, which is
    fixed (`random`) or trained (`learnt`) (`product`)."""

    levels: list[int] = field(default_factory=lambda: [8, 8, 4])
    """How many values each number can take; 5 or more each are advised (`fsq`)."""

    entropy_weight: float = 0.1
    """Weight of the entropy loss (`lfq`)."""

    @property
    def part_size(self) -> int:
        """K^(1/parts), the number of codes of each part, to the nearest integer."""
        return round(self.codebook_size ** (1 / self.parts))

    def __post_init__(self) -> None:
        _require("name", self.name in NAMES, self.name, f"one of {', '.join(NAMES)}")
        _require("decay", 0 <= self.decay < 1, self.decay, "in [0, 1)")
        for key in ("beta", "epsilon", "prior_weight", "noise", "entropy_weight"):
            value = getattr(self, key)
            _require(key, _finite(value) and value >= 0, value, "0 or more")
        for key, most in (
            ("codebook_size", _MOST_CODES),
            ("samples", 10_000),
            ("samples_end", 10_000),
            ("kmeans_vectors", 4 * _MOST_CODES),
            ("kmeans_iterations", 10_000),
            ("parts", 64),
        ):
            value = getattr(self, key)
            _require(key, value is None or 1 <= value <= most, value, f"1 to {most}")
        for key in ("temperature", "temperature_end"):
            value = getattr(self, key)
            _require(key, value is None or (_finite(value) and value > 0), value, "above 0")
        for key, choices in (
            ("distance_scale", DISTANCE_SCALES),
            ("initialisation", INITIALISATIONS),
            ("part", PARTS),
            ("projection", PROJECTIONS),
        ):
            value = getattr(self, key)
            _require(key, value in choices, value, f"one of {', '.join(choices)}")
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
        self._check_codebook_size()

    def _check_codebook_size(self) -> None:
        """Check K against what the named quantizer makes of it."""
        name, size, power = self.name, self.codebook_size, 1
        if name in COMPOSITES:
            name, size, power = self.part, self.part_size, self.parts
            _require(
                "codebook_size",
                size**power == self.codebook_size,
                self.codebook_size,
                f"an integer to the power of quantizer.parts={power}, such as {size**power} or "
                f"{(size + 1) ** power}",
            )
        if name in ("semhash", "lfq"):
            floor = 2 ** max(size.bit_length() - 1, 1)
            _require(
                "codebook_size",
                size == floor,
                self.codebook_size,
                f"{'a power of two' if power == 1 else f'of {power} powers of two'}, 2 or more, "
                f"beside {name}, such as {floor**power} or {(2 * floor) ** power}",
            )
        if self.name == "fsq":
            _require(
                "levels",
                len(self.levels) >= 1 and all(type(n) is int and n >= 3 for n in self.levels),
                self.levels,
                "a list of integers of 3 or more",
            )
            product = math.prod(self.levels)
            _require(
                "codebook_size",
                size == product,
                size,
                f"{product}, the product of quantizer.levels={self.levels}",
            )


def _finite(value: float) -> bool:
    return math.isfinite(value)


def _require(key: str, holds: bool, value: Any, remedy: str) -> None:
    if not holds:
        raise VqnmtError(f"quantizer.{key} is {value!r}: it must be {remedy}.")
