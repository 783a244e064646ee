"""Soft EM (document 002; Roy et al. 2018): m codes drawn from the posterior at each position."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from vqnmt.quantizers.base import Assignment
from vqnmt.quantizers.codebook import Update
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.distances import score_blocks
from vqnmt.quantizers.vector_quantizer import VectorQuantizer, mean_square_error

# e^-80 beside e^0 is nothing in fp32, and still a normal number: exp, sums and products of what
# underflows take several times as long on a CPU.
_LOWEST_LOGIT = -80.0
_DRAW_ELEMENTS = 1 << 20


class SoftEMQuantizer(VectorQuantizer):
    """The mean of m sampled code vectors, and a codebook that moves by soft counts.

    E step: z_i^1..z_i^m ~ Multinomial(softmax(-||e_j - z_e(x_i)||^2 / (scale * temperature)));
    M step: c_j = 1/m sum_i sum_l 1[z_i^l = j], and likewise the sums, averaged over steps;
    z_q(x_i) = 1/m sum_l e_{z_i^l} (document 002). In evaluation z_q is the nearest code alone:
    set `samples_end=1` or `temperature_end` to bring training there gradually.
    """

    update = Update.AVERAGE
    stochastic = True

    def __init__(self, config: QuantizerConfig, dim: int) -> None:
        super().__init__(config, dim)
        self.scale = {"none": 1.0, "sqrt_dim": math.sqrt(dim), "dim": float(dim)}[
            config.distance_scale
        ]
        self.set_progress(0.0)

    def set_progress(self, fraction: float) -> None:
        """Anneal temperature and m linearly; `fraction` of training done, 0 to 1."""
        config, fraction = self.config, min(max(fraction, 0.0), 1.0)
        self.temperature = _between(config.temperature, config.temperature_end, fraction)
        self.samples = round(_between(config.samples, config.samples_end, fraction))

    def _assign(self, vectors: Tensor) -> Assignment:
        finite = self.codebook.check_finite(vectors, self._accumulates())
        with torch.no_grad():
            seen = vectors.detach()
            if vectors.device.type != "cpu":
                # The error waits for `step`, and indices found among NaN would abort the process.
                seen = torch.where(finite, seen, 0.0)
            codes, samples, entropies = self._posterior(seen)
            nearest = self.codebook.lookup(codes).float()  # (N, d)
            if self.training and vectors.shape[0] > 0:
                # (N, m) -> (N, d) without the (N, m, d) in between; on CPU the mode "mean" takes
                # twice as long.
                table = self.codebook.vectors.float() / samples.shape[1]
                quantized = functional.embedding_bag(samples, table, mode="sum")
                error = mean_square(nearest.sub_(vectors))
            else:
                quantized = nearest
                error = mean_square(nearest - vectors)
            if self._accumulates():
                hits, sums = soft_counts(vectors, codes, samples, self.codebook_size)
                self.codebook.accumulate(vectors, hits, sums)
        return Assignment(
            quantized=quantized,
            codes=codes,
            samples=samples,
            losses={"commitment": self.config.beta * mean_square_error(vectors, quantized)},
            statistics={
                "quantisation_error": error,
                "posterior_entropy": entropies.sum() / max(entropies.numel(), 1),
            },
        )

    def _posterior(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The E step in blocks of positions.

        Returns:
            Nearest codes `(N,)`, samples `(N, m)` (the nearest code alone in evaluation) and
            the posterior's entropies `(N,)` in nats.
        """
        count, draws = vectors.shape[0], self.samples if self.training else 1
        codes = torch.empty(count, dtype=torch.int64, device=vectors.device)
        samples = codes.new_empty(count, draws)
        entropies = vectors.new_empty(count)
        for block, nearest, weights, products in self._weights(vectors):
            masses = cumulated_masses(weights, self.codebook_size)  # (rows, groups)
            totals = 1 + masses[:, -1]
            # H = ln Z - sum_j p_j logit_j
            entropies[block] = totals.log() - products / totals
            codes[block] = nearest
            drawn = nearest[:, None].repeat(1, draws)  # (rows, m)
            if self.training:
                # Only the draws that miss the nearest code, few of them where the posterior is
                # peaked, look for another. On a GPU, counting them waits for the device.
                points = torch.rand(drawn.shape, device=drawn.device)  # in [0, 1)
                missed = (points * totals[:, None] >= 1).flatten().nonzero().squeeze(1)  # (n,)
                rows = missed.div(draws, rounding_mode="floor")
                drawn.view(-1)[missed] = draw(weights, masses, rows)
            samples[block] = drawn
        return codes, samples, entropies

    def _weights(self, vectors: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Yield blocks of the posterior, undivided by its sum Z.

        Yields:
            The slice of rows; their nearest codes `(rows,)`, which weigh e^0 = 1; the weights
            e^logit of the others, 0 at the nearest, `(rows, K and up to a whole group)`; and
            their sums of weight times logit `(rows,)`. The next block reuses the tensors.
        """
        count, size = vectors.shape[0], self.codebook_size
        factor = 1.0 / (self.scale * self.temperature)
        start = 0
        for block, scores in score_blocks(vectors, self.codebook.vectors.float()):
            if block.start == 0:
                # Several blocks of scores together: drawing takes many small operations.
                rows = scores.shape[0] * max(1, _DRAW_ELEMENTS // scores.numel())
                group = group_size(size)
                codes = torch.empty(min(rows, count), dtype=torch.int64, device=vectors.device)
                weights = vectors.new_zeros(codes.shape[0], -(-size // group) * group)
                products = vectors.new_empty(codes.shape[0])
            part = slice(block.start - start, block.stop - start)
            lowest, nearest = scores.min(dim=1, keepdim=True)  # (rows, 1)
            codes[part] = nearest.squeeze(1)
            logits = torch.sub(lowest, scores, out=scores)  # (rows, K), at most 0
            if factor != 1.0:
                logits.mul_(factor)
            others = weights[part]
            torch.exp(logits.clamp_(min=_LOWEST_LOGIT), out=others[:, :size])
            torch.sum(logits.mul_(others[:, :size]), dim=1, out=products[part])
            others.scatter_(1, nearest, 0.0)
            if part.stop == codes.shape[0] or block.stop == count:
                done = slice(0, part.stop)
                yield slice(start, block.stop), codes[done], weights[done], products[done]
                start = block.stop


def group_size(size: int) -> int:
    """The power of two next below sqrt(K): what `draw` has to look at is then smallest."""
    return 1 << ((size.bit_length() - 1) // 2)


def cumulated_masses(weights: Tensor, size: int) -> Tensor:
    """The cumulated sums `(N, G)` of groups of weights `(N, G g)`, where g = group_size(size)."""
    group = group_size(size)
    # (N G, g) -> (N, G); on CPU a sum takes longer than the product
    masses = weights.view(-1, group).mv(weights.new_ones(group))
    return masses.view(weights.shape[0], -1).cumsum(dim=1)


def draw(weights: Tensor, masses: Tensor, rows: Tensor) -> Tensor:
    """Draw one code for each of `rows`, first a group of codes, then one of its codes.

    `torch.multinomial` adds up all the weights of a row one by one, on one thread.

    Args:
        weights: `(N, G g)`, not negative, contiguous.
        masses: `(N, G)`, the cumulated sums of g weights each; the last is above 0 in `rows`.
        rows: `(n,)` of the N rows, any number of times each.

    Returns:
        `(n,)` indices of weights above 0.
    """
    groups = masses.shape[1]
    group = weights.shape[1] // groups
    chosen = _invert(masses.index_select(0, rows))
    members = weights.view(-1, group).index_select(0, rows * groups + chosen)  # (n, g)
    return chosen * group + _invert(members.cumsum(dim=1))


def _invert(cumulated: Tensor) -> Tensor:
    """Draw `(n,)` indices by inverting the cumulated masses `(n, C)` at uniform points."""
    totals = cumulated[:, -1:]
    points = torch.rand(totals.shape, device=totals.device)  # in [0, 1)
    # In (0, total], also after rounding: at 0 an index without mass would be found, and at the
    # total the last one with mass is.
    targets = torch.addcmul(totals, points, totals, value=-1)  # (n, 1)
    below = torch.empty_like(cumulated)
    # Counting is several times faster in floats than in booleans.
    torch.lt(cumulated, targets, out=below)
    return below.mv(below.new_ones(below.shape[1])).long()


def soft_counts(
    vectors: Tensor, codes: Tensor, samples: Tensor, codebook_size: int
) -> tuple[Tensor, Tensor]:
    """Soft counts and sums of document 002.

    Args:
        vectors: `(N, d)`.
        codes: `(N,)` one code of each position, such as the nearest: samples equal to it are
            counted together, so the more are, the quicker this is.
        samples: `(N, m)` codes.
        codebook_size: K.

    Returns:
        1/m sum_i sum_l 1[z_i^l = j] `(K,)`, which add up to N, and
        1/m sum_i sum_l 1[z_i^l = j] z_e(x_i) `(K, d)`.
    """
    count, draws = samples.shape
    different = (samples != codes[:, None]).flatten().nonzero().squeeze(1)  # (n,)
    others = different.div(draws, rounding_mode="floor")
    keys = torch.cat([codes, samples.flatten()[different]])  # (N + n,)
    positions = torch.cat([torch.arange(count, device=codes.device), others])
    weights = vectors.new_ones(keys.shape)
    weights[:count] = draws - torch.bincount(others, minlength=count)
    hits = vectors.new_zeros(codebook_size).index_add_(0, keys, weights).div_(draws)
    if count == 0:
        return hits, vectors.new_zeros(codebook_size, vectors.shape[1])
    # The sort goes byte by byte: narrower codes take fewer passes.
    narrow = torch.int16 if codebook_size < 1 << 15 else torch.int32
    ordered, order = keys.to(narrow).sort(stable=True)
    edges = torch.searchsorted(
        ordered, torch.arange(codebook_size, dtype=narrow, device=codes.device)
    )  # (K,): where each code begins
    # One bag of vectors per code: several times faster than index_add_ over as many rows, and
    # summed in a fixed order on every device.
    sums = functional.embedding_bag(
        positions[order], vectors, edges, mode="sum", per_sample_weights=weights[order]
    )
    return hits, sums.div_(draws)


def mean_square(differences: Tensor) -> Tensor:
    """Mean of the squares of `(N, d)`, 0 if N is 0; the norm spares a temporary of their size."""
    return torch.linalg.vector_norm(differences).square() / max(differences.numel(), 1)


def _between(start: float, end: float | None, fraction: float) -> float:
    return start if end is None else start + (end - start) * fraction
