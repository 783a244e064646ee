"""FSQ, LFQ and SimVQ of vector-quantize-pytorch behind our interface."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.quantizers.fitting import fitting_config
from vqnmt.errors import VqnmtError
from vqnmt.quantizers import build_quantizer

NAMES = ["fsq", "lfq", "sim_vq"]


def build(name: str, dim: int = 6, size: int = 16, seed: int = 0, **settings):
    torch.manual_seed(seed)
    settings = {"levels": [4, size // 4]} | settings
    return build_quantizer(fitting_config(name=name, codebook_size=size, **settings), dim)


def test_fsq_rounds_bounded_numbers():
    """Equations of the FSQ paper: odd levels round (L - 1) / 2 tanh(z), d = number of levels."""
    quantizer = build("fsq", dim=2, size=15, levels=[5, 3]).eval()
    z = torch.randn(40, 2)
    out = quantizer(z)
    half = np.array([2, 1])
    rounded = np.round(np.tanh(z.double().numpy()) * half * (1 + 1e-3))
    np.testing.assert_allclose(out.quantized.numpy(), rounded / half, atol=1e-6)
    np.testing.assert_array_equal(out.codes.numpy(), (rounded + half) @ [1, 5])


def test_lfq_takes_signs():
    quantizer = build("lfq", dim=4).eval()
    z = torch.randn(40, 4)
    out = quantizer(z)
    np.testing.assert_array_equal(out.quantized.numpy(), np.where(z.numpy() > 0, 1.0, -1.0))
    np.testing.assert_array_equal(out.codes.numpy(), (z.numpy() > 0) @ [8, 4, 2, 1])


def test_sim_vq_takes_the_nearest_mapped_vector():
    quantizer = build("sim_vq", beta=0.5)
    z = torch.randn(40, 6)
    out = quantizer(z)
    vectors = quantizer.codes_to_vectors(torch.arange(16)).detach().double().numpy()
    codes = ((z.double().numpy()[:, None] - vectors) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(out.codes.numpy(), codes)
    np.testing.assert_allclose(out.quantized.detach().numpy(), vectors[codes], atol=1e-5)
    error = np.mean((z.numpy() - vectors[codes]) ** 2)
    assert out.losses["codebook"].item() == pytest.approx(1.5 * error, rel=1e-5)
    assert out.statistics["quantisation_error"].item() == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("shape", [(4,), (9, 4), (2, 3, 4), (2, 3, 2, 4), (0, 4), (2, 0, 4)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_shapes_gradients_and_codes_to_vectors(name, training, shape):
    quantizer = build(name, dim=4).train(training)
    z = torch.randn(shape, requires_grad=True)
    out = quantizer(z)
    assert out.quantized.shape == shape and out.codes.shape == shape[:-1]
    assert out.codes.dtype == torch.int64 and out.samples.shape == (*shape[:-1], 1)
    assert torch.equal(out.codes, quantizer.nearest(z))
    assert quantizer.inner.training == training
    vectors = quantizer.codes_to_vectors(out.codes)
    torch.testing.assert_close(vectors, out.quantized, atol=1e-5, rtol=1e-5)
    if training:
        (out.quantized.square().sum() + sum(out.losses.values())).backward()
        assert z.grad.isfinite().all() and (z.numel() == 0 or z.grad.abs().sum() > 0)
        assert all(p.grad.isfinite().all() for p in quantizer.parameters())
    assert quantizer.epoch_statistics().positions == out.codes.numel()


@pytest.mark.parametrize(
    ("name", "size", "levels"), [("sim_vq", 1, []), ("lfq", 2, []), ("fsq", 3, [3])]
)
@pytest.mark.parametrize("dim", [1, 5])
def test_the_smallest_codebooks(name, size, levels, dim):
    quantizer = build(name, dim=dim, size=size, levels=levels or [3])
    out = quantizer(torch.randn(20, dim))
    assert ((out.codes >= 0) & (out.codes < size)).all()
    assert out.quantized.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_every_code_has_its_vector(name):
    quantizer = build(name)
    vectors = quantizer.codes_to_vectors(torch.arange(16).view(4, 4)).view(16, 6)
    pairs = itertools.combinations(vectors.detach(), 2)
    assert min((a - b).norm() for a, b in pairs) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_masked_positions_never_reach_the_package(name):
    quantizer = build(name)
    seen = []
    quantizer.inner.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    z = torch.randn(3, 5, 6)
    mask = torch.rand(3, 5) < 0.5
    quantizer(z, mask)
    assert len(seen) == 1 and torch.equal(seen[0][0], z[mask])


@pytest.mark.parametrize("name", NAMES)
def test_saving_and_loading_is_exact(name):
    first, second = build(name), build(name, seed=1)
    second.load_state_dict(first.state_dict())
    z = torch.randn(30, 6)
    outs = first.eval()(z), second.eval()(z)
    assert torch.equal(outs[0].codes, outs[1].codes)
    assert torch.equal(outs[0].quantized, outs[1].quantized)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_holds_every_constant(name):
    """transformers builds models without values and fills them from what was saved."""
    quantizer = build(name)
    tensors = {key for key, _ in quantizer.named_buffers()}
    tensors |= {key for key, _ in quantizer.named_parameters()}
    assert tensors == quantizer.state_dict().keys()
    with torch.device("meta"):
        build(name)


@pytest.mark.parametrize("name", NAMES)
def test_an_absent_package_is_named_with_the_remedy(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    with pytest.raises(VqnmtError, match=rf"'{name}'.*pip install 'vqnmt\[quantizers\]'"):
        build(name)


def test_the_package_is_loaded_only_when_it_is_used():
    code = (
        "import sys, vqnmt.quantizers as q; q.build_quantizer(q.QuantizerConfig(), 4); "
        "sys.exit('vector_quantize_pytorch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
