"""k-means (the EM algorithm with hard assignments, Roy et al. 2018) to start a codebook."""

import torch
from torch import Tensor

from vqnmt.quantizers.distances import nearest_codes


def choose_vectors(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Choose `count` rows at random, distinct ones while there are enough.

    Beyond M rows the choice repeats, with noise of 1% of the vectors' scale so that no two
    codes are equal.

    Args:
        vectors: `(M, d)` with M >= 1.
        count: Number of rows to choose.
        generator: On the CPU.

    Returns:
        `(count, d)`.
    """
    available = vectors.shape[0]
    rounds = -(-count // available)
    order = torch.cat([torch.randperm(available, generator=generator) for _ in range(rounds)])
    chosen = vectors[order[:count].to(vectors.device)]  # (count, d)
    if count > available:
        shape = (count - available, vectors.shape[1])
        noise = torch.randn(shape, generator=generator, dtype=vectors.dtype)
        scale = 0.01 * vectors.square().mean().sqrt()
        chosen[available:] += scale * noise.to(vectors.device)
    return chosen


def spread_vectors(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The start of k-means++: vectors far from those already chosen are likelier.

    Each round draws a sixteenth of the vectors, so that the start of a large codebook costs no
    more than one E step. For 16 vectors or fewer this is k-means++ itself, one vector a round.

    Args:
        vectors: `(M, d)` fp32.
        count: Number of vectors to choose, at most M.
        generator: On the CPU.

    Returns:
        `(count, d)`.
    """
    chosen = torch.randint(vectors.shape[0], (1,), generator=generator).to(vectors.device)
    distances = torch.full(vectors.shape[:1], torch.inf, device=vectors.device)  # (M,)
    latest = chosen
    while chosen.shape[0] < count:
        found = vectors[latest]
        difference = vectors - found[nearest_codes(vectors, found)]
        distances = torch.minimum(distances, difference.square().sum(dim=1))
        # Drawing without replacement in proportion to the distances: the largest of ln p + Gumbel.
        noise = torch.rand(distances.shape, generator=generator, dtype=distances.dtype)
        noise.clamp_(min=1e-30)
        keys = distances.log() - (-noise.log()).log().to(vectors.device)
        draws = min(max(1, count // 16), count - chosen.shape[0])
        latest = keys.topk(draws).indices
        chosen = torch.cat([chosen, latest])
    return vectors[chosen]


def kmeans(vectors: Tensor, count: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm from the start of k-means++.

    E step: z_i = argmin_j ||mu_j - x_i||^2; M step: mu_j = mean of the x_i with z_i = j
    (Roy et al. 2018). A cluster left empty moves to the vector that is farthest from its own
    mean, and stays where every vector is a mean.

    Args:
        vectors: `(M, d)` fp32 with M >= 1.
        count: K, the number of clusters.
        iterations: Number of E and M steps.
        generator: On the CPU; decides the start.

    Returns:
        `(K, d)` cluster means.
    """
    spread = vectors.shape[0] >= count
    means = (spread_vectors if spread else choose_vectors)(vectors, count, generator)
    for _ in range(iterations):
        codes = nearest_codes(vectors, means)  # (M,)
        sums = torch.zeros_like(means).index_add_(0, codes, vectors)
        sizes = torch.bincount(codes, minlength=count)  # (K,)
        hit = sizes > 0
        distances = (vectors - means[codes]).square().sum(dim=1)  # (M,)
        means = torch.where(hit[:, None], sums / sizes.clamp(min=1)[:, None], means)
        empty = (~hit).nonzero().squeeze(1)[: vectors.shape[0]]
        farthest = distances.topk(empty.shape[0])
        # A vector that is a mean already would make two codes equal.
        apart = farthest.values[:, None] > 0
        means[empty] = torch.where(apart, vectors[farthest.indices], means[empty])
    return means
