"""The latent Transformer trains, translates and is saved with every quantizer."""

import pytest
import torch

from tests.models.searching import generate
from vqnmt.translate.generation import reconstruct
from vqnmt.translate.pretrained import VqnmtForConditionalGeneration

NAMES = ["gradient", "ema", "hard_em", "soft_em", "gumbel_softmax", "semhash"]
NAMES += ["product", "residual", "fsq", "lfq", "sim_vq"]


def settings(name: str) -> dict:
    """16 codes of each: a square and a power of two."""
    chosen = {"name": name, "codebook_size": 16, "levels": [4, 4], "decay": 0.9}
    return chosen | {"initialisation": "kmeans", "temperature_end": 0.3}


@pytest.mark.parametrize("name", NAMES)
def test_trains_with_every_quantizer(make_latent, name):
    """A few steps bring the losses down, and codes carry what the source does not say."""
    model = make_latent(quantizer=settings(name))
    source = torch.randint(4, 12, (8, 4))
    target = torch.randint(4, 12, (8, 4))
    steps = 60
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    before = {key: value.clone() for key, value in model.quantizer.state_dict().items()}
    totals = []
    for step in range(steps):
        model.set_progress(step / steps)
        optimizer.zero_grad()
        losses = model(source, target)
        losses.total.backward()
        optimizer.step()
        model.after_optimizer_step()
        totals.append(losses.total.item())
    assert sum(totals[-10:]) < 0.7 * sum(totals[:10])
    after = model.quantizer.state_dict()
    learnt = [key for key in after if key.rpartition(".")[2] in ("vectors", "weight")]
    assert learnt and all(not torch.equal(after[key], before[key]) for key in learnt)
    statistics = model.quantizer.epoch_statistics()
    assert statistics.used_codes >= 2 and statistics.positions > 0
    model.eval()
    for codes, tokens, _ in generate(model, source):
        assert all(0 <= code < 16 for code in codes.symbols)
        assert all(0 <= token < 12 for token in tokens)


@pytest.mark.parametrize("name", NAMES)
def test_saved_models_quantize_alike(make_latent, pairs, tmp_path, name):
    """Also what the quantizer computes and does not learn: transformers starts from nothing."""
    model = make_latent(quantizer=settings(name)).eval()
    VqnmtForConditionalGeneration.around(model, max_source_tokens=64).save_pretrained(tmp_path)
    loaded = VqnmtForConditionalGeneration.from_pretrained(tmp_path).model.eval()
    source, target = pairs
    expected, found = model(source, target), loaded(source, target)
    assert torch.equal(found.total, expected.total)
    assert reconstruct(loaded, source, target) == reconstruct(model, source, target)
    assert generate(loaded, source) == generate(model, source)
    codes = torch.arange(16)
    vectors = loaded.quantizer.codes_to_vectors(codes)
    assert torch.equal(vectors, model.quantizer.codes_to_vectors(codes))
