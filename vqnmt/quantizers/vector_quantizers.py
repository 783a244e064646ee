"""The quantizers with one codebook of K vectors: gradient, EMA, hard EM and soft EM.

They differ in two places: which codes a position takes (the nearest one, or m draws from the
posterior), and how `step` moves the codebook (see `Update`).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vqnmt.quantizers.base import (
    Assignment,
    Quantizer,
    Rotation,
    StraightThrough,
    linear,
    mean_square_error,
)
from vqnmt.quantizers.codebook import Codebook, CodebookConfig, Update
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.distances import row_maxima, score_blocks
from vqnmt.quantizers.registry import register_quantizer

# Logits are clamped to this much below the highest one. e^-80 is negligible compared to e^0 and
# still a normal fp32 number; subnormal numbers take a CPU several times as long.
_LOGIT_RANGE = 80.0


@dataclass(kw_only=True)
class GradientConfig(CodebookConfig):
    """Settings of `GradientQuantizer`."""


@dataclass(kw_only=True)
class HardEMConfig(CodebookConfig):
    """Settings of `HardEMQuantizer`."""


@dataclass(kw_only=True)
class EMAConfig(CodebookConfig):
    """Settings of `EMAQuantizer`."""

    epsilon: float = 1e-5
    """Laplace smoothing of the EMA counts; 0 = none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("epsilon")
        # Without smoothing an unhit code would be 0 / 0 at the first step.
        fits = self.initialisation != "reference" or self.epsilon > 0
        self.require("epsilon", fits, "above 0 beside quantizer.initialisation=reference")


@dataclass(kw_only=True)
class SoftEMConfig(EMAConfig):
    """Settings of `SoftEMQuantizer`.

    The codebook of the reference implementation (tensor2tensor, Roy et al. 2018) is
    `initialisation=reference, restart_threshold=0, distance_scale=none`.
    """

    samples: int = 10
    """m, the number of codes drawn for each position in training."""

    samples_end: int | None = None
    """m at the end of training, approached linearly; None = `samples` throughout."""

    temperature: float = 1.0
    """Divides the scaled distances of the posterior (`soft_em`) or the noisy logits of the draw
    (`gumbel_softmax`); towards 0 both become hard."""

    temperature_end: float | None = None
    """Temperature at the end of training, approached linearly; None = constant."""

    distance_scale: str = "none"
    """Squared distances are divided by 1 (`none`, the reference), sqrt(d) or d."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_between("samples", 1, 10_000)
        self.require_between("samples_end", 1, 10_000)
        self.require_positive("temperature")
        self.require_positive("temperature_end")
        self.require_choice("distance_scale", ("none", "sqrt_dim", "dim"))


class VectorQuantizer(Quantizer):
    """A quantizer with K vectors of its own, of dimension c: d, or `codebook_dim`.

    With `codebook_dim` or `cosine` the codebook's space differs from that of z_e:

        z = W_in z_e + b_in,    z <- z / ||z||,    z_q = W_out Q(z) + b_out,

    Each part is there if its setting asks for it. Losses and statistics are those of the
    codebook's space, and Q passes the gradient straight through, or rotated, to z.

    `_assign` and `_nearest` get z, `(N, c)`.

    Args:
        dim: d, the size of the encoder's vectors.
        config: See `Quantizer`.
        options: See `Quantizer`.
    """

    update: Update

    def __init__(self, dim: int, config: QuantizerConfig | None = None, **options: Any) -> None:
        super().__init__(dim, config, **options)
        settings: CodebookConfig = self.config
        inner = settings.codebook_dim or dim
        self.codebook = Codebook(settings, inner, self.update)
        self.project_in = self.project_out = None
        if settings.codebook_dim is not None:
            self.project_in, self.project_out = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.straight_through = settings.codebook_dim is None and not settings.cosine
        self.estimator = Rotation if settings.rotation else StraightThrough

    def _pass(self, vectors: Tensor) -> Assignment:
        if self.straight_through:
            return self._assign(vectors)
        inner = self._enter(vectors)
        assignment = self._assign(inner)
        assignment.quantized = self._leave(self.estimator.apply(inner, assignment.quantized))
        return assignment

    def _enter(self, vectors: Tensor) -> Tensor:
        """Map `(N, d)` vectors to the codebook's space `(N, c)`."""
        if self.project_in is not None:
            vectors = linear(self.project_in, vectors)
        return functional.normalize(vectors, dim=1) if self.config.cosine else vectors

    def _leave(self, vectors: Tensor) -> Tensor:
        """Map code vectors `(..., c)` to `(..., d)`."""
        return vectors if self.project_out is None else linear(self.project_out, vectors)

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """e_j: the vectors `(..., d)` fp32 of codes `(...)` int64."""
        return self._leave(self.codebook.lookup(codes))

    def set_progress(self, fraction: float) -> None:
        """Stop restarting codes at `restart_until`; `fraction` of training done, 0 to 1."""
        self.codebook.restarting = fraction <= self.config.restart_until

    def _clear(self) -> None:
        self.codebook.clear()

    @property
    def initialised(self) -> bool:
        """Whether k-means has placed the codes, or is not asked to."""
        return int(self.codebook.kmeans_filled) == self.codebook.kmeans_vectors.shape[0]

    def _step(self) -> None:
        self.codebook.step()

    def _nearest(self, vectors: Tensor) -> Tensor:
        return self.codebook.nearest(self._enter(vectors))


@register_quantizer("gradient", config=GradientConfig)
class GradientQuantizer(VectorQuantizer):
    """Nearest code; the optimiser trains the codebook (van den Oord et al. 2017).

        L = log p(x|z_q) + ||sg[z_e] - e||^2 + beta ||z_e - sg[e]||^2

    Both quantizer terms are means over positions and dimensions. `step` only starts the codebook
    from k-means and restarts dead codes.
    """

    update = Update.GRADIENT

    def _assign(self, vectors: Tensor) -> Assignment:
        with torch.no_grad():
            codes = self.codebook.nearest(vectors)  # (N,)
            if self._accumulates():
                hits = vectors.new_zeros(self.codebook_size)
                hits.index_add_(0, codes, hits.new_ones(()).expand(codes.shape))
                self.codebook.accumulate(vectors, hits, None)
        quantized = self.codebook.lookup(codes).float()  # (N, d), with gradient to the codebook
        error = mean_square_error(vectors, quantized.detach())
        return Assignment(
            quantized=quantized.detach(),
            codes=codes,
            losses={
                "codebook": mean_square_error(quantized, vectors.detach()),
                "commitment": self.config.beta * error,
            },
            error=error.detach(),
        )


@register_quantizer("ema", config=EMAConfig)
class EMAQuantizer(VectorQuantizer):
    """Nearest code; the codebook is a moving average (van den Oord et al. 2017).

    A code vector is the average of the vectors assigned to it, see `Codebook`.
    """

    update = Update.AVERAGE

    def _assign(self, vectors: Tensor) -> Assignment:
        with torch.no_grad():
            codes = self.codebook.nearest(vectors)  # (N,)
            quantized = self.codebook.lookup(codes).float()  # (N, d)
            if self._accumulates():
                hits, sums = hard_counts(vectors, codes, self.codebook_size)
                self.codebook.accumulate(vectors, hits, sums)
        error = mean_square_error(vectors, quantized)
        return Assignment(
            quantized=quantized,
            codes=codes,
            losses={"commitment": self.config.beta * error},
            error=error.detach(),
        )


@register_quantizer("hard_em", config=HardEMConfig)
class HardEMQuantizer(EMAQuantizer):
    """Nearest code; a code becomes the mean of the vectors assigned to it in the last step.

    The EM algorithm of Roy et al. 2018 applied to each batch: E step z_i = argmin, M step
    c_j = sum_i 1[z_i = j], mu_j = 1/c_j sum_i 1[z_i = j] x_i; codes without a vector stay.
    """

    update = Update.REPLACE


def hard_counts(vectors: Tensor, codes: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """sum_i 1[z_i = j] `(K,)` and sum_i 1[z_i = j] z_e(x_i) `(K, d)`."""
    hits = vectors.new_zeros(codebook_size)
    hits.index_add_(0, codes, hits.new_ones(()).expand(codes.shape))
    sums = vectors.new_zeros(codebook_size, vectors.shape[1])
    return hits, sums.index_add_(0, codes, vectors)


@register_quantizer("soft_em", config=SoftEMConfig)
class SoftEMQuantizer(VectorQuantizer):
    """The mean of m sampled code vectors, and a codebook that moves by soft counts.

    E step: z_i^1..z_i^m ~ Multinomial(softmax(-||e_j - z_e(x_i)||^2 / (scale * temperature)));
    M step: c_j = 1/m sum_i sum_l 1[z_i^l = j], and likewise the sums, averaged over steps;
    z_q(x_i) = 1/m sum_l e_{z_i^l} (Roy et al. 2018). In evaluation z_q is the nearest code
    alone: set `samples_end=1` or `temperature_end` to bring training there gradually.
    """

    update = Update.AVERAGE
    stochastic = True

    def __init__(self, dim: int, config: QuantizerConfig | None = None, **options: Any) -> None:
        super().__init__(dim, config, **options)
        inner = self.config.codebook_dim or dim
        self.scale = {"none": 1.0, "sqrt_dim": math.sqrt(inner), "dim": float(inner)}[
            self.config.distance_scale
        ]
        self.set_progress(0.0)

    def set_progress(self, fraction: float) -> None:
        """Anneal temperature and m linearly; `fraction` of training done, 0 to 1."""
        super().set_progress(fraction)
        config = self.config
        self.temperature = annealed(config.temperature, config.temperature_end, fraction)
        self.samples = round(annealed(config.samples, config.samples_end, fraction))

    def _assign(self, vectors: Tensor) -> Assignment:
        with torch.no_grad():
            codes, samples, entropy = self._posterior(vectors.detach())
            nearest = self.codebook.lookup(codes).float()  # (N, d)
            if self.training and vectors.shape[0] > 0:
                # (N, m) -> (N, d) without a tensor (N, m, d). On a CPU mode="mean" takes twice as
                # long as mode="sum".
                table = self.codebook.table.float()
                quantized = functional.embedding_bag(samples, table, mode="sum")
                quantized.div_(samples.shape[1])
                error = mean_square(nearest.sub_(vectors))
            else:
                quantized = nearest
                error = mean_square(nearest - vectors)
            if self._accumulates():
                hits, sums = soft_counts(vectors, samples, self.codebook_size)
                self.codebook.accumulate(vectors, hits, sums)
        return Assignment(
            quantized=quantized,
            codes=codes,
            samples=samples.long(),
            losses={"commitment": self.config.beta * mean_square_error(vectors, quantized)},
            error=error,
            entropy=entropy / max(vectors.shape[0], 1),
        )

    def _posterior(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the E step in blocks of positions.

        Returns:
            Nearest codes `(N,)`, samples `(N, m)` int32 (in evaluation the nearest code alone,
            int64) and the sum of the posterior's entropies in nats.
        """
        count = vectors.shape[0]
        codes = torch.empty(count, dtype=torch.int64, device=vectors.device)
        samples = codes[:, None]
        if self.training:
            samples = torch.empty(count, self.samples, dtype=torch.int32, device=vectors.device)
        entropy = vectors.new_zeros(())
        factor = 1.0 / (self.scale * self.temperature)
        posterior = vectors.new_empty(0)
        codebook, centre = self.codebook.table, self.codebook.centre()
        for block, logits in score_blocks(vectors, codebook, factor, centre):
            if posterior.shape[0] != logits.shape[0]:
                posterior = torch.empty_like(logits)  # (rows, K)
            highest, nearest = row_maxima(logits)  # (rows,) each
            codes[block] = nearest
            logits.sub_(highest[:, None]).clamp_(min=-_LOGIT_RANGE)
            # On a CPU the exponential in `softmax` is twice as fast as `torch.exp`.
            torch.softmax(logits, dim=1, out=posterior)
            # H = -sum_j p_j ln p_j, and ln p_j = logit_j + ln p of the likeliest, whose logit is 0
            entropy -= torch.dot(logits.flatten(), posterior.flatten())
            entropy -= posterior.gather(1, nearest[:, None]).log_().sum()
            if self.training:
                samples[block] = draw(posterior, self.samples)
        return codes, samples, entropy


def draw(weights: Tensor, draws: int) -> Tensor:
    """Draw from the multinomial with replacement, by inverting the cumulated weights.

    `torch.multinomial` does the same, but cumulates the weights sequentially on one thread.

    Args:
        weights: `(N, K)`, not negative, at least one of each row above 0; overwritten.
        draws: m.

    Returns:
        `(N, m)` int32 indices of weights above 0.
    """
    cumulated = weights.cumsum_(dim=1)
    shape = (weights.shape[0], draws)
    targets = torch.rand(shape, dtype=weights.dtype, device=weights.device)  # in [0, 1)
    # In [0, total), also after rounding, so the first index with a greater cumulated weight has a
    # weight above 0.
    targets.mul_(cumulated[:, -1:])
    return torch.searchsorted(cumulated, targets, right=True, out_int32=True)


def soft_counts(vectors: Tensor, samples: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Soft counts and sums (Roy et al. 2018, M step).

    Args:
        vectors: `(N, d)`.
        samples: `(N, m)` codes, of any integer type.
        codebook_size: K.

    Returns:
        1/m sum_i sum_l 1[z_i^l = j] `(K,)`, which add up to N, and
        1/m sum_i sum_l 1[z_i^l = j] z_e(x_i) `(K, d)`.
    """
    draws = samples.shape[1]
    # The radix sort takes one pass a byte, so narrow integers are faster.
    narrow = torch.int16 if codebook_size < 1 << 15 else torch.int32
    ordered, order = samples.flatten().to(narrow).sort(stable=True)  # (N m,)
    edges = torch.searchsorted(
        ordered, torch.arange(codebook_size + 1, dtype=narrow, device=samples.device)
    )  # (K + 1,): where the draws of each code begin
    hits = edges.diff().to(vectors.dtype) / draws
    if vectors.shape[0] == 0:
        return hits, vectors.new_zeros(codebook_size, vectors.shape[1])
    # One bag of vectors per code is several times faster than index_add_ over N m rows, and its
    # sums have a fixed order on every device.
    sums = functional.embedding_bag(order // draws, vectors, edges[:-1], mode="sum")
    return hits, sums.div_(draws)


def mean_square(differences: Tensor) -> Tensor:
    """Mean of the squares of `(N, d)`, 0 if N is 0; the norm needs no temporary of that size."""
    return torch.linalg.vector_norm(differences).square() / max(differences.numel(), 1)


def annealed(start: float, end: float | None, fraction: float) -> float:
    """The value `fraction`, 0 to 1, of the way from `start` to `end`; `start` if `end` is None."""
    return start if end is None else start + (end - start) * min(max(fraction, 0.0), 1.0)
