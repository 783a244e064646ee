"""Squared Euclidean distances to a codebook, in blocks: never N x K x d, never all of N x K."""

from collections.abc import Iterator

import torch
from torch import Tensor

# 2^22 fp32 scores = 16 MiB: large enough for a matrix product to run at full speed, small
# enough that the reduction that follows finds most of the block in the cache.
BLOCK_ELEMENTS = 1 << 22


def score_blocks(vectors: Tensor, codebook: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of ||e_j||^2 - 2 z_i . e_j = ||z_i - e_j||^2 - ||z_i||^2.

    The term ||z_i||^2 is the same for every code, so neither the nearest code nor the softmax
    over codes needs it.

    Args:
        vectors: `(N, d)` fp32.
        codebook: `(K, d)` fp32.

    Yields:
        The slice of rows, and their scores `(rows, K)`, which the caller may overwrite.
    """
    norms = codebook.square().sum(dim=1)  # (K,)
    rows = max(1, BLOCK_ELEMENTS // codebook.shape[0])
    transposed = codebook.t()
    for start in range(0, vectors.shape[0], rows):
        block = slice(start, start + rows)
        yield block, torch.addmm(norms, vectors[block], transposed, alpha=-2)


def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """z_i = argmin_j ||z_e(x_i) - e_j||_2 (document 002).

    Args:
        vectors: `(N, d)` fp32; N may be 0.
        codebook: `(K, d)` fp32.

    Returns:
        `(N,)` int64.
    """
    codes = torch.empty(vectors.shape[0], dtype=torch.int64, device=vectors.device)
    for block, scores in score_blocks(vectors, codebook):
        # On CPU `min` is twice as fast as `argmin`.
        codes[block] = scores.min(dim=1).indices
    return codes
