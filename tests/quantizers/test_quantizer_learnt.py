"""Gumbel-softmax and semantic hashing against NumPy written from the papers."""

import math

import numpy as np
import pytest
import torch

from tests.quantizers.fitting import fitting_config
from vqnmt.quantizers import build_quantizer

NAMES = ["gumbel_softmax", "semhash"]


def build(name: str, size: int, dim: int, **settings):
    torch.manual_seed(0)
    quantizer = build_quantizer(fitting_config(name=name, codebook_size=size, **settings), dim)
    with torch.no_grad():  # far from uniform, else all that follows is nearly 0
        quantizer.logits.weight.mul_(3.0)
    return quantizer


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def logits_of(quantizer, z: torch.Tensor) -> np.ndarray:
    return numbers(z) @ numbers(quantizer.logits.weight).T + numbers(quantizer.logits.bias)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("size", "dim"), [(1, 1), (2, 1), (7, 5)])
def test_gumbel_evaluation_is_the_likeliest_code(size, dim):
    quantizer = build("gumbel_softmax", size, dim).eval()
    z = torch.randn(3, 4, dim)
    out = quantizer(z)
    expected = logits_of(quantizer, z.reshape(-1, dim)).argmax(1).reshape(3, 4)
    np.testing.assert_array_equal(out.codes.numpy(), expected)
    np.testing.assert_array_equal(quantizer.nearest(z).numpy(), expected)
    np.testing.assert_array_equal(out.samples.numpy(), expected[..., None])
    np.testing.assert_allclose(numbers(out.quantized), numbers(quantizer.vectors)[expected])
    assert torch.equal(out.quantized, quantizer.codes_to_vectors(out.codes))
    error = np.mean((numbers(z) - numbers(quantizer.vectors)[expected]) ** 2)
    assert out.statistics["quantisation_error"].item() == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_gradients_are_those_of_the_relaxed_draw(temperature, hard):
    """With K < d the weights y of the draw can be read off its value y E."""
    settings = {"temperature": temperature, "prior_weight": 0.0}
    relaxed, quantizer = (
        build("gumbel_softmax", 4, 6, hard_samples=kind, **settings) for kind in (False, hard)
    )
    z = torch.randn(9, 6, requires_grad=True)
    torch.manual_seed(1)
    vectors = numbers(quantizer.vectors)  # (K, d)
    y = numbers(relaxed(z).quantized) @ np.linalg.pinv(vectors)  # (N, K)
    np.testing.assert_allclose(y.sum(1), 1, rtol=1e-4)
    torch.manual_seed(1)  # the same draws again
    out = quantizer(z)
    np.testing.assert_array_equal(out.samples[:, 0].numpy(), y.argmax(1))
    np.testing.assert_array_equal(out.codes.numpy(), logits_of(quantizer, z).argmax(1))
    taken = np.eye(4)[y.argmax(1)] if hard else y
    np.testing.assert_allclose(numbers(out.quantized), taken @ vectors, atol=1e-5)

    weight = torch.randn(9, 6)
    (out.quantized * weight).sum().backward()
    outer = numbers(weight)
    np.testing.assert_allclose(numbers(quantizer.vectors.grad), taken.T @ outer, atol=1e-5)
    upstream = outer @ vectors.T  # dL/dy (N, K)
    # dy_j/dl_k = y_j (1[j = k] - y_k) / t
    gradient = y * (upstream - (upstream * y).sum(1, keepdims=True)) / temperature
    expected = gradient @ numbers(quantizer.logits.weight)
    np.testing.assert_allclose(numbers(z.grad), expected, rtol=1e-3, atol=1e-4)


def test_gumbel_draws_follow_the_posterior():
    quantizer = build("gumbel_softmax", 5, 3)
    z = torch.randn(2, 3)
    out = quantizer(z.repeat_interleave(20_000, 0))
    posterior = softmax(logits_of(quantizer, z))
    for row in range(2):
        draws = out.samples[row * 20_000 : (row + 1) * 20_000, 0]
        frequencies = np.bincount(draws.numpy(), minlength=5) / 20_000
        np.testing.assert_allclose(frequencies, posterior[row], atol=0.015)


def test_gumbel_prior_loss_and_entropy():
    quantizer = build("gumbel_softmax", 5, 3, prior_weight=0.7)
    z = torch.randn(6, 3, requires_grad=True)
    out = quantizer(z)
    posterior = softmax(logits_of(quantizer, z))
    divergence = (posterior * np.log(posterior * 5)).sum(1).mean()
    assert out.losses["prior"].item() == pytest.approx(0.7 * divergence, rel=1e-5)
    assert out.losses["prior"].requires_grad
    entropy = -(posterior * np.log(posterior)).sum(1).mean()
    assert out.statistics["posterior_entropy"].item() == pytest.approx(entropy, rel=1e-5)


def test_gumbel_temperature_is_annealed():
    quantizer = build("gumbel_softmax", 5, 3, temperature=1.2, temperature_end=0.2)
    found = []
    for fraction in (0.0, 0.5, 1.0, 3.0):
        quantizer.set_progress(fraction)
        found.append(quantizer.temperature)
    assert found == pytest.approx([1.2, 0.7, 0.2, 0.2])
    quantizer.temperature = 1e-4  # nearly a one-hot: the draw's value is its code's vector
    out = quantizer(torch.randn(50, 3))
    drawn = quantizer.codes_to_vectors(out.samples[:, 0])
    torch.testing.assert_close(out.quantized, drawn, atol=1e-3, rtol=1e-3)


def bit_vectors(quantizer, bits: np.ndarray) -> np.ndarray:
    """The dense layers behind the bits `(N, b)`."""
    hidden = bits @ numbers(quantizer.hidden.weight).T + numbers(quantizer.hidden.bias)
    weight, bias = numbers(quantizer.output.weight), numbers(quantizer.output.bias)
    return np.maximum(hidden, 0) @ weight.T + bias


@pytest.mark.parametrize(("size", "dim"), [(2, 1), (8, 5), (64, 3)])
def test_semhash_evaluation(size, dim):
    quantizer = build("semhash", size, dim).eval()
    z = torch.randn(3, 4, dim)
    out = quantizer(z)
    bits = (logits_of(quantizer, z.reshape(-1, dim)) > 0).astype(float)
    codes = (bits @ 2.0 ** np.arange(bits.shape[1])).reshape(3, 4)
    np.testing.assert_array_equal(out.codes.numpy(), codes)
    np.testing.assert_array_equal(quantizer.nearest(z).numpy(), codes)
    np.testing.assert_array_equal(out.samples.numpy(), codes[..., None])
    expected = bit_vectors(quantizer, bits).reshape(3, 4, dim)
    np.testing.assert_allclose(numbers(out.quantized), expected, atol=1e-5)
    torch.testing.assert_close(quantizer.codes_to_vectors(out.codes), out.quantized)


def test_semhash_codes_and_bits_are_the_same_thing():
    quantizer = build("semhash", 8, 5)
    bits = np.array([[c >> i & 1 for i in range(3)] for c in range(8)], dtype=float)
    vectors = quantizer.codes_to_vectors(torch.arange(8).view(2, 4))
    np.testing.assert_allclose(numbers(vectors).reshape(8, 5), bit_vectors(quantizer, bits), 1e-4)


def test_semhash_training_mixes_bits_and_the_saturating_sigmoid():
    """Without noise all is a function of z but which half takes what."""
    quantizer = build("semhash", 8, 5, noise=0.0)
    z = torch.randn(400, 5, requires_grad=True)
    out = quantizer(z)
    logits = logits_of(quantizer, z)
    continuous = np.clip(1.2 / (1 + np.exp(-logits)) - 0.1, 0, 1)
    discrete = (logits > 0).astype(float)
    distances = [
        np.abs(numbers(out.quantized) - bit_vectors(quantizer, bits)).max(1)
        for bits in (continuous, discrete)
    ]
    assert np.minimum(*distances).max() < 1e-5
    assert 150 < (distances[0] < distances[1]).sum() < 250
    assert torch.equal(out.samples[:, 0], out.codes)
    assert out.statistics["posterior_entropy"] == 0

    # The gradient of both is that of the saturating sigmoid, at the bits that were passed on.
    weight = torch.randn(400, 5)
    (out.quantized * weight).sum().backward()
    taken = np.where((distances[0] < distances[1])[:, None], continuous, discrete)
    hidden = taken @ numbers(quantizer.hidden.weight).T + numbers(quantizer.hidden.bias)
    upstream = (numbers(weight) @ numbers(quantizer.output.weight)) * (hidden > 0)
    upstream = upstream @ numbers(quantizer.hidden.weight)
    sigmoid = 1 / (1 + np.exp(-logits))
    inside = (continuous > 0) & (continuous < 1)
    gradient = upstream * inside * 1.2 * sigmoid * (1 - sigmoid)
    expected = gradient @ numbers(quantizer.logits.weight)
    np.testing.assert_allclose(numbers(z.grad), expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_semhash_noise_flips_bits_as_often_as_its_posterior_says(noise):
    quantizer = build("semhash", 4, 3, noise=noise)
    z = torch.randn(1, 3) / 3
    out = quantizer(z.expand(20_000, 3))
    logits = logits_of(quantizer, z)[0]
    ones = np.array([0.5 * (1 + math.erf(v / noise / math.sqrt(2))) for v in logits])
    posterior = [
        np.prod([p if code >> i & 1 else 1 - p for i, p in enumerate(ones)]) for code in range(4)
    ]
    frequencies = np.bincount(out.samples[:, 0].numpy(), minlength=4) / 20_000
    np.testing.assert_allclose(frequencies, posterior, atol=0.015)
    entropy = -np.sum(np.array(posterior) * np.log(posterior))
    assert out.statistics["posterior_entropy"].item() == pytest.approx(entropy, rel=1e-4)
    assert out.codes.unique().numel() == 1  # the codes themselves are without noise


def test_semhash_entropy_far_from_the_threshold_is_zero():
    quantizer = build("semhash", 4, 3)
    out = quantizer(1e4 * torch.randn(5, 3))
    assert out.statistics["posterior_entropy"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_saving_and_loading_is_exact(name):
    first, second = build(name, 8, 5), build(name, 8, 5)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(torch.randn_like(parameter))
    second.load_state_dict(first.state_dict())
    z = torch.randn(30, 5)
    outs = first.eval()(z), second.eval()(z)
    assert torch.equal(outs[0].codes, outs[1].codes)
    assert torch.equal(outs[0].quantized, outs[1].quantized)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_the_width(name, dtype):
    """A model cast for translation still quantizes, in fp32."""
    quantizer = build(name, 8, 5).to(dtype).eval()
    z = torch.randn(30, 5, dtype=dtype)
    out = quantizer(z)
    assert out.quantized.dtype == dtype
    assert torch.equal(out.codes, quantizer.nearest(z))
    assert torch.equal(out.codes, quantizer.float()(z).codes)
