"""Squared Euclidean distances to a codebook, in blocks: no tensor of N x K x d or all N x K."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Most scores of a block, 64 MiB in fp32. On a GPU each block costs kernel launches.
_MOST_ELEMENTS = 1 << 24
# On a CPU a block of 2^20 fp32 scores (4 MiB) stays in the cache for the passes that follow the
# matrix product. A block has at least 256 rows: a product of fewer is slower, and each block costs
# dozens of calls.
_CPU_ELEMENTS, _CPU_ROWS = 1 << 20, 256
# `row_maxima` folds a row to this many columns, a multiple of a CPU's vector width.
_FOLDED = 32


def score_blocks(
    vectors: Tensor, codebook: Tensor, factor: float = 1.0, centre: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of factor (2 z_i . e_j - ||e_j||^2) = factor (||z_i||^2 - ||z_i - e_j||^2).

    The term ||z_i||^2 is the same for every code, so neither the nearest code, which has the
    highest score, nor the softmax over codes needs it.

    z and e are taken relative to a centre, which changes no distance. Far from the origin the
    rounding of the large squares would otherwise hide the differences between codes.

    Args:
        vectors: `(N, d)` fp32.
        codebook: `(K, d)` fp32.
        factor: Above 0.
        centre: `(d,)`, near the vectors and their codes; None = the mean of the codebook.

    Yields:
        The slice of rows, and their scores `(rows, K)`, without gradient: a buffer that the
        caller may overwrite and that the next block reuses.
    """
    vectors, codebook = vectors.detach(), codebook.detach()
    count, (size, dim) = vectors.shape[0], codebook.shape
    if centre is None:
        centre = codebook.mean(dim=0)
    rows = max(1, min(_block_rows(size, vectors.device), count))
    # One product of [z, 1] and [2 e, -||e||^2]: subtracting ||e||^2 from the scores afterwards
    # would take another pass over them.
    weights = codebook.new_empty(size, dim + 1)
    scaled = weights[:, :dim]
    torch.sub(codebook, centre, out=scaled)
    torch.sum(scaled.square_(), dim=1, out=weights[:, dim])
    weights[:, dim].mul_(-factor)
    torch.sub(codebook, centre, out=scaled).mul_(2 * factor)
    transposed = weights.t()  # (d + 1, K)
    extended = vectors.new_ones(rows, dim + 1)
    buffer = vectors.new_empty(rows, size)
    for start in range(0, count, rows):
        block = slice(start, min(start + rows, count))
        left = block.stop - start  # fewer than `rows` in the last block
        torch.sub(vectors[block], centre, out=extended[:left, :dim])
        yield block, torch.mm(extended[:left], transposed, out=buffer[:left])


def nearest_codes(vectors: Tensor, codebook: Tensor, centre: Tensor | None = None) -> Tensor:
    """z_i = argmin_j ||z_e(x_i) - e_j||_2 (Roy et al. 2018).

    Args:
        vectors: `(N, d)` fp32; N may be 0.
        codebook: `(K, d)` fp32.
        centre: See `score_blocks`.

    Returns:
        `(N,)` int64.
    """
    codes = torch.empty(vectors.shape[0], dtype=torch.int64, device=vectors.device)
    for block, scores in score_blocks(vectors, codebook, centre=centre):
        codes[block] = row_maxima(scores)[1]
    return codes


def row_maxima(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The highest score of each row, and its index.

    On a CPU a maximum without its index is vectorised and ten times as fast as one with it. So
    the columns are first folded to 32 by such a maximum, then the index is searched among these 32
    and among the scores folded into the best of them. Any of several equal scores may be found.

    Args:
        scores: `(N, K)`.

    Returns:
        Maxima `(N,)`, and their columns `(N,)` int64.
    """
    size = scores.shape[1]
    if scores.device.type != "cpu" or size < 4 * _FOLDED or size % _FOLDED:
        maxima = scores.max(dim=1)
        return maxima.values, maxima.indices
    groups = scores.unflatten(1, (-1, _FOLDED))  # (N, K / 32, 32)
    column = groups.amax(dim=1).max(dim=1, keepdim=True).indices  # (N, 1)
    members = groups.gather(2, column[:, None].expand(-1, groups.shape[1], 1))  # (N, K / 32, 1)
    values, places = members[..., 0].max(dim=1)
    return values, places.mul_(_FOLDED).add_(column[:, 0])


def _block_rows(size: int, device: torch.device) -> int:
    """Number of rows of K scores in a block."""
    most = max(1, _MOST_ELEMENTS // size)
    if device.type != "cpu":
        return most
    return min(most, max(_CPU_ROWS, _CPU_ELEMENTS // size))
