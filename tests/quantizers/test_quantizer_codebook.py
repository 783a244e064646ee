"""Initialisation and restarts of the codebook."""

import pytest
import torch

from tests.quantizers.fitting import fitting_config
from vqnmt.quantizers import QuantizerConfig, build_quantizer
from vqnmt.quantizers.kmeans import choose_vectors, kmeans


def clusters(count: int, per_cluster: int, dim: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    centres = 20 * torch.randn(count, dim)
    points = centres.repeat_interleave(per_cluster, 0)
    return centres, points + 0.1 * torch.randn_like(points)


def test_kmeans_finds_clear_clusters():
    torch.manual_seed(0)
    centres, points = clusters(6, 30)
    means = kmeans(points, 6, 10, torch.Generator().manual_seed(0))
    assert torch.cdist(centres, means).min(dim=1).values.max() < 0.2


def test_kmeans_with_fewer_vectors_than_clusters():
    points = torch.randn(3, 4)
    means = kmeans(points, 10, 3, torch.Generator().manual_seed(0))
    assert means.isfinite().all() and means.shape == (10, 4)
    assert torch.cdist(points, means).min() < 1e-3
    assert len(means.unique(dim=0)) == 10


def test_chosen_vectors_are_distinct_rows():
    points = torch.arange(20.0)[:, None]
    chosen = choose_vectors(points, 20, torch.Generator().manual_seed(0))
    assert sorted(chosen.flatten().tolist()) == points.flatten().tolist()


@pytest.mark.parametrize("name", ["gradient", "ema", "soft_em"])
def test_kmeans_initialisation_from_the_first_batches(name):
    torch.manual_seed(0)
    centres, points = clusters(8, 40)
    points = points[torch.randperm(320)]
    config = fitting_config(name=name, codebook_size=8, kmeans_vectors=200)
    quantizer = build_quantizer(config, 5)
    for batch in points.split(64):
        quantizer(batch)
        quantizer.step()
    assert torch.cdist(centres, quantizer.codebook.vectors).min(dim=1).values.max() < 0.5
    quantizer.reset_statistics()
    quantizer(points)
    statistics = quantizer.epoch_statistics()
    assert statistics.used_codes == 8
    assert statistics.quantisation_error < 0.1


def test_the_first_step_starts_from_the_data():
    quantizer = build_quantizer(QuantizerConfig(codebook_size=8), 5)
    z = 100 + torch.randn(10, 5)
    quantizer(z)
    quantizer.step()
    assert torch.cdist(quantizer.codebook.vectors, z).min(dim=1).values.max() < 1e-3
    assert quantizer(z).codes.unique().numel() >= 8 - 1


@pytest.mark.parametrize("name", ["ema", "soft_em", "hard_em", "gradient"])
def test_a_restarted_code_stays_where_it_was_put(name):
    """Its count and sum move too: else the next average would pull it back."""
    torch.manual_seed(0)
    settings = {"initialisation": "normal", "restart_threshold": 0.2, "decay": 0.9}
    quantizer = build_quantizer(fitting_config(name=name, codebook_size=6, **settings), 3)
    codebook = quantizer.codebook
    with torch.no_grad():
        codebook.vectors[4:] += 1e4
        codebook.counts[4:] = 0.0
        if hasattr(codebook, "sums"):
            codebook.sums.copy_(codebook.vectors * codebook.counts[:, None])
    z = torch.randn(50, 3)
    quantizer(z)
    quantizer.step()
    placed = codebook.vectors.detach()[4:].clone()
    assert torch.cdist(placed, z).min(dim=1).values.max() < 1e-3
    assert not torch.equal(placed[0], placed[1])
    torch.testing.assert_close(
        codebook.counts[4:], codebook.counts.mean().expand(2), rtol=1, atol=0
    )
    codebook.config.restart_threshold = 0.0
    quantizer(torch.full((4, 3), 50.0))  # another code's vectors
    quantizer.step()
    assert (codebook.vectors.detach()[4:] - placed).abs().max() < 40
    assert codebook.vectors.detach()[4:].abs().max() < 100


def test_restarts_bring_a_collapsed_codebook_back():
    used = {}
    for threshold in (0.0, 0.1):
        torch.manual_seed(0)
        settings = {"initialisation": "normal", "decay": 0.9, "restart_threshold": threshold}
        quantizer = build_quantizer(QuantizerConfig(codebook_size=32, **settings), 8)
        for _ in range(150):
            quantizer(torch.randn(64, 8) + 20.0)  # offset data: one code wins them all
            quantizer.step()
        quantizer.reset_statistics()
        quantizer(torch.randn(500, 8) + 20.0)
        used[threshold] = quantizer.epoch_statistics().used_codes
    assert used[0.0] <= 3
    assert used[0.1] >= 28


@pytest.mark.parametrize("name", ["ema", "soft_em", "gradient"])
def test_restarts_end_where_they_are_told_to(name):
    torch.manual_seed(0)
    settings = {"initialisation": "normal", "decay": 0.5, "restart_until": 0.5}
    quantizer = build_quantizer(QuantizerConfig(name=name, codebook_size=32, **settings), 4)
    moved = []
    for fraction in (0.6, 0.4):  # later in the training, then earlier
        quantizer.set_progress(fraction)
        for _ in range(20):
            quantizer(torch.randn(16, 4) + 20.0)
            quantizer.step()
        moved.append(int((quantizer.codebook.vectors.mean(1) > 10).sum()))
    assert moved[0] <= 3 and moved[1] >= 28


def test_only_restarts_below_the_threshold():
    torch.manual_seed(0)
    settings = {"initialisation": "normal", "restart_threshold": 0.01}
    quantizer = build_quantizer(QuantizerConfig(codebook_size=6, decay=0.999, **settings), 3)
    before = quantizer.codebook.vectors.clone()
    quantizer(torch.randn(5, 3))
    quantizer.step()
    assert (quantizer.codebook.vectors - before).abs().max() < 0.1


def test_the_pool_of_a_large_batch_covers_all_of_it():
    quantizer = build_quantizer(QuantizerConfig(codebook_size=2, kmeans_vectors=1024), 1)
    for part in torch.arange(50_000.0)[:, None].split(7_000):
        quantizer(part)
    pool = quantizer.codebook._pool.flatten()
    assert pool.numel() == 1024 == pool.unique().numel()
    counts = torch.histc(pool, bins=50, min=0, max=50_000)
    assert counts.min() > 10 and counts.max() < 32
