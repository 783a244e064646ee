"""Squared Euclidean distances to a codebook, in blocks: never N x K x d, never all of N x K."""

from collections.abc import Iterator

import torch
from torch import Tensor

# No block has more scores: 2^24 in fp32 = 64 MiB. On a GPU each block costs kernel launches.
_MOST_ELEMENTS = 1 << 24
# On a CPU a block should stay in the cache (2^18 fp32 scores = 1 MiB) for the passes over it that
# follow the matrix product, but a product of fewer rows than this runs below full speed.
_CPU_ELEMENTS, _CPU_ROWS = 1 << 18, 256
# Columns that `row_minima` folds a row to; a multiple of a CPU's vectors.
_FOLDED = 32


def score_blocks(vectors: Tensor, codebook: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of ||e_j||^2 - 2 z_i . e_j = ||z_i - e_j||^2 - ||z_i||^2.

    The term ||z_i||^2 is the same for every code, so neither the nearest code nor the softmax
    over codes needs it.

    Args:
        vectors: `(N, d)` fp32.
        codebook: `(K, d)` fp32.

    Yields:
        The slice of rows, and their scores `(rows, K)`, without gradient: a buffer that the
        caller may overwrite and that the next block reuses.
    """
    vectors, codebook = vectors.detach(), codebook.detach()
    count, (size, dim) = vectors.shape[0], codebook.shape
    rows = max(1, min(_block_rows(size, vectors.device), count))
    # One product of [z, 1] and [-2 e, ||e||^2] spares the pass over the scores that adding
    # ||e||^2 to them would take.
    weights = codebook.new_empty(size, dim + 1)
    scaled = weights[:, :dim]
    torch.mul(codebook, codebook, out=scaled)
    torch.sum(scaled, dim=1, out=weights[:, dim])
    torch.mul(codebook, -2, out=scaled)
    transposed = weights.t()  # (d + 1, K)
    extended = vectors.new_ones(rows, dim + 1)
    buffer = vectors.new_empty(rows, size)
    for start in range(0, count, rows):
        block = slice(start, min(start + rows, count))
        left = block.stop - start  # fewer than `rows` in the last block
        extended[:left, :dim] = vectors[block]
        yield block, torch.mm(extended[:left], transposed, out=buffer[:left])


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
        codes[block] = row_minima(scores)[1]
    return codes


def row_minima(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest score of each row, and where it stands.

    On a CPU a minimum without its place is vectorised, and ten times as fast as one with it. So
    columns 32 apart are first folded into one by such a minimum, and places are looked for among
    32 columns and then among the scores of one of them. Of equal scores any may be found.

    Args:
        scores: `(N, K)`.

    Returns:
        Minima `(N,)`, and their columns `(N,)` int64.
    """
    size = scores.shape[1]
    if scores.device.type != "cpu" or size < 4 * _FOLDED:
        minima = scores.min(dim=1)
        return minima.values, minima.indices
    whole = size - size % _FOLDED
    folded = scores[:, :whole].unflatten(1, (-1, _FOLDED)).amin(dim=1)  # (N, 32)
    if whole < size:
        rest = folded[:, : size - whole]
        torch.minimum(rest, scores[:, whole:], out=rest)
    first = folded.min(dim=1, keepdim=True).indices  # (N, 1)
    # Past the end stands the last column again, which is a column like any other.
    members = (first + torch.arange(0, size, _FOLDED)).clamp_(max=size - 1)  # (N, K / 32)
    values, places = scores.gather(1, members).min(dim=1, keepdim=True)
    return values[:, 0], members.gather(1, places)[:, 0]


def _block_rows(size: int, device: torch.device) -> int:
    """How many rows of K scores make a block."""
    most = max(1, _MOST_ELEMENTS // size)
    if device.type != "cpu":
        return most
    return min(most, max(_CPU_ROWS, _CPU_ELEMENTS // size))
