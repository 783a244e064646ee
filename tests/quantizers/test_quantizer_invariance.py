"""Padding, gradient accumulation, checkpointing, autocast and resuming change nothing."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.quantizers.fitting import fitting_config
from vqnmt.quantizers import build_quantizer

VECTOR_NAMES = ["gradient", "ema", "hard_em", "soft_em"]
# name/part: codebooks that move by themselves
CODEBOOK_NAMES = [
    *VECTOR_NAMES,
    "product/ema",
    "product/soft_em",
    "residual/ema",
    "residual/soft_em",
]
NAMES = [*CODEBOOK_NAMES, "gumbel_softmax", "semhash", "residual/semhash", "fsq", "lfq", "sim_vq"]
STARTS = ["normal", "kmeans"]


def build(name: str, start: str = "normal", seed: int = 0, **settings):
    """A quantizer of 16 codes of dimension 6; temperature near 0, so that sampling is exact."""
    torch.manual_seed(seed)
    name, _, part = name.partition("/")
    defaults = {
        "codebook_size": 16,
        "levels": [4, 4],
        "part": part or "ema",
        "decay": 0.9,
        "initialisation": start,
        "temperature": 1e-6,
        "restart_threshold": 0.3,
    }
    return build_quantizer(fitting_config(name, **(defaults | settings)), 6)


def assert_same_codebook(left, right):
    states = left.state_dict(), right.state_dict()
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], atol=1e-6, rtol=1e-6, msg=key)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name, start):
    padded, plain = build(name, start), build(name, start)
    for step in range(8):
        torch.manual_seed(step)
        z = torch.randn(4, 7, 6)
        mask = torch.arange(7) < torch.tensor([7, 3, 1, 0])[:, None]
        z[~mask] = float("nan") if step % 2 else 1e4
        z.requires_grad_()
        torch.manual_seed(step)
        a = padded(z, mask)
        torch.manual_seed(step)
        b = plain(z.detach()[mask])
        assert torch.equal(a.samples[mask], b.samples)
        assert torch.equal(a.codes[mask], b.codes)
        assert torch.equal(a.quantized[mask], b.quantized)
        assert (a.codes[~mask] == 0).all() and (a.quantized[~mask] == 0).all()
        for key in a.losses:
            assert a.losses[key].item() == b.losses[key].item()
        (a.quantized.sum() + sum(a.losses.values())).backward()
        assert (z.grad[~mask] == 0).all()
        padded.step()
        plain.step()
    assert_same_codebook(padded, plain)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", CODEBOOK_NAMES)
def test_accumulation_over_micro_batches_equals_one_batch(name, start):
    whole, parts = build(name, start), build(name, start)
    for step in range(8):
        torch.manual_seed(step)
        z = torch.randn(21, 6)
        whole(z)
        for part in z.split([10, 0, 4, 7]):
            parts(part)
        whole.step()
        parts.step()
    assert_same_codebook(whole, parts)
    assert whole.epoch_statistics().perplexity == parts.epoch_statistics().perplexity


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_activation_checkpointing_changes_nothing(name, reentrant, start):
    settings = {"temperature": 1.0}  # real sampling: the recomputation must draw the same codes
    plain, saved = build(name, start, **settings), build(name, start, **settings)
    results = []
    for quantizer in (plain, saved):
        torch.manual_seed(1)
        layer = torch.nn.Linear(6, 6)

        def block(x, layer=layer, quantizer=quantizer):
            out = quantizer(torch.dropout(layer(x), 0.1, True))
            # dropout after the quantizer: its random state must not have been moved either
            return torch.dropout(out.quantized, 0.1, True), sum(out.losses.values())

        for _ in range(6):
            x = torch.randn(15, 6, requires_grad=True)
            if quantizer is saved:
                y, loss = checkpoint(block, x, use_reentrant=reentrant)
            else:
                y, loss = block(x)
            (y.square().sum() + loss).backward()
            quantizer.step()
        results.append((layer.weight.grad, quantizer.epoch_statistics()))
    assert torch.equal(results[0][0], results[1][0])
    assert_same_codebook(plain, saved)
    assert torch.equal(results[0][1].usage, results[1][1].usage)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_autocast_leaves_codes_identical(name, dtype):
    quantizer = build(name)
    z = torch.randn(40, 6).to(dtype)
    torch.manual_seed(1)
    plain = quantizer(z.float())
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantizer(z)
    assert torch.equal(plain.codes, cast.codes)
    assert cast.quantized.dtype == dtype
    assert torch.equal(cast.quantized, plain.quantized.to(dtype))
    assert all(value.dtype == torch.float32 for value in cast.losses.values())


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("stop", [1, 2, 5])
@pytest.mark.parametrize("name", CODEBOOK_NAMES)
def test_resuming_is_bit_for_bit(name, start, stop):
    """Also in the middle of the initialisation: 48 vectors are gathered 13 a step."""

    def train(quantizer, steps):
        for step in steps:
            torch.manual_seed(step)
            quantizer(torch.randn(13, 6))
            quantizer.step()

    whole = build(name, start, temperature=1.0)
    train(whole, range(9))
    first = build(name, start, temperature=1.0)
    train(first, range(stop))
    second = build(name, start, seed=123, temperature=1.0)
    second.load_state_dict(first.state_dict())
    train(second, range(stop, 9))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_forward_never_moves_the_codebook(name):
    quantizer = build(name, "kmeans")
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    quantizer(torch.randn(30, 6))
    quantizer.nearest(torch.randn(30, 6))
    for key, value in quantizer.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", VECTOR_NAMES)
def test_evaluation_leaves_the_codebook_alone(name):
    quantizer = build(name)
    before = quantizer.codebook.vectors.clone()
    quantizer.eval()(torch.randn(30, 6))
    quantizer.step()
    assert torch.equal(quantizer.codebook.vectors, before)
