"""The EMA quantizer against vector-quantize-pytorch, an independent implementation."""

import pytest
import torch

from vqnmt.quantizers import QuantizerConfig, build_quantizer

package = pytest.importorskip("vector_quantize_pytorch")


@pytest.mark.parametrize(("decay", "epsilon"), [(0.9, 1e-5), (0.99, 0.1)])
def test_ema_equals_the_peer_for_100_steps(decay, epsilon):
    """The peer's options that make its equations those of Roy et al. 2018.

    Its counts too start at 1 and its sums at the vectors; k-means, the replacement of dead codes
    and the rotation trick (another gradient than straight-through) are off. It moves its codebook
    within forward, ours moves in `step`; its averages are lerps.
    """
    torch.manual_seed(0)
    size, dim, beta = 24, 8, 0.4
    ours = build_quantizer(
        QuantizerConfig(
            name="ema",
            codebook_size=size,
            decay=decay,
            epsilon=epsilon,
            beta=beta,
            initialisation="normal",
            restart_threshold=0.0,
        ),
        dim,
    )
    theirs = package.VectorQuantize(
        dim=dim,
        codebook_size=size,
        decay=decay,
        eps=epsilon,
        commitment_weight=beta,
        kmeans_init=False,
        threshold_ema_dead_code=0,
        rotation_trick=False,
    )
    book = theirs._codebook
    book.embed.copy_(ours.codebook.vectors)
    book.embed_avg.copy_(ours.codebook.vectors)
    start = ours.codebook.vectors.clone()
    for _ in range(100):
        z = 2 * torch.randn(3, 20, dim) + 1.0
        weight = torch.randn(3, 20, dim)
        left, right = z.clone().requires_grad_(), z.clone().requires_grad_()
        out = ours(left)
        ((out.quantized * weight).sum() + out.losses["commitment"]).backward()
        ours.step()
        quantized, codes, loss = theirs(right)
        ((quantized * weight).sum() + loss.sum()).backward()
        assert torch.equal(out.codes, codes)
        torch.testing.assert_close(out.quantized, quantized, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.losses["commitment"], loss.squeeze(), rtol=1e-5, atol=0)
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-5, atol=1e-6)
    for mine, other in [
        (ours.codebook.vectors, book.embed[0]),
        (ours.codebook.counts, book.cluster_size[0]),
        (ours.codebook.sums, book.embed_avg[0]),
    ]:
        # relative to the size of the whole: a component may be near 0 by chance
        assert (mine - other).norm() <= 1e-5 * other.norm()
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5 * other.abs().mean().item())
    assert (ours.codebook.vectors - start).abs().max() > 0.5  # it did move
