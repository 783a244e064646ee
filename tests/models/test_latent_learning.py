"""The latent Transformer learns a few pairs by heart."""

import pytest
import torch

from tests.models.searching import generate
from vqnmt.layers import TransformerConfig
from vqnmt.tokens import PAD
from vqnmt.translate.generation import reconstruct


def real(row: torch.Tensor) -> list[int]:
    return [t for t in row.tolist() if t != PAD]


@pytest.mark.parametrize("output", ["ctc", "cross_entropy"])
@pytest.mark.parametrize("name", ["ema", "soft_em"])
def test_learns_eight_pairs_by_heart(make_latent, output, name):
    quantizer = {"name": name, "initialisation": "kmeans", "codebook_size": 24, "decay": 0.9}
    if name == "soft_em":
        quantizer["samples_end"] = 1
    size = TransformerConfig(dim=32, feedforward=64, heads=2, dropout=0.0)
    model = make_latent(output=output, quantizer=quantizer, transformer=size, continuous_start=0.15)
    source, target = torch.randint(4, 12, (8, 5)), torch.randint(4, 12, (8, 6))
    target[::2, 4:] = PAD
    steps = 200
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for step in range(steps):
        model.set_progress(step / steps)
        optimizer.zero_grad()
        model(source, target).total.backward()
        optimizer.step()
        schedule.step()
        model.after_optimizer_step()
    model.eval()
    expected = [real(row) for row in target]
    assert reconstruct(model, source, target) == expected
    for beam in (1, 4):
        assert [found.tokens for found in generate(model, source, beam)] == expected
