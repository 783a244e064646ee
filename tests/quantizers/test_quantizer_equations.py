"""The quantizers against NumPy written from the equations of the documents."""

import numpy as np
import pytest
import torch

from tests.quantizers.fitting import fitting_config
from vqnmt.quantizers import QuantizerConfig, build_quantizer
from vqnmt.quantizers.codebook import Codebook
from vqnmt.quantizers.kmeans import kmeans
from vqnmt.quantizers.vector_quantizers import soft_counts

RNG = np.random.default_rng


def config(name: str, **settings) -> QuantizerConfig:
    defaults = {"codebook_size": 7, "initialisation": "normal", "restart_threshold": 0.0}
    return fitting_config(name=name, **(defaults | settings))


def numpy_codes(z: np.ndarray, e: np.ndarray) -> np.ndarray:
    return np.argmin(np.linalg.norm(z[:, None, :] - e[None], axis=2), axis=1)


def codebook(quantizer) -> np.ndarray:
    return quantizer.codebook.vectors.detach().double().numpy().copy()


@pytest.mark.parametrize("name", ["gradient", "ema", "hard_em", "soft_em"])
def test_evaluation_returns_the_nearest_code(name):
    torch.manual_seed(0)
    quantizer = build_quantizer(config(name), 5).eval()
    z = torch.randn(3, 4, 5)
    out = quantizer(z)
    expected = numpy_codes(z.reshape(-1, 5).double().numpy(), codebook(quantizer)).reshape(3, 4)
    np.testing.assert_array_equal(out.codes.numpy(), expected)
    np.testing.assert_array_equal(quantizer.nearest(z).numpy(), expected)
    np.testing.assert_array_equal(out.samples.numpy(), expected[..., None])
    assert torch.equal(out.quantized, quantizer.codes_to_vectors(out.codes))
    error = np.mean((z.numpy() - codebook(quantizer)[expected]) ** 2)
    assert out.statistics["quantisation_error"].item() == pytest.approx(error, rel=1e-5)
    assert out.losses["commitment"].item() == pytest.approx(0.25 * error, rel=1e-5)


def test_nearest_codes_do_not_depend_on_blocks(monkeypatch):
    torch.manual_seed(0)
    quantizer = build_quantizer(config("ema", codebook_size=50), 8).eval()
    z = torch.randn(101, 8)
    whole = quantizer.nearest(z)
    monkeypatch.setattr("vqnmt.quantizers.distances._CPU_ROWS", 9)
    monkeypatch.setattr("vqnmt.quantizers.distances._CPU_ELEMENTS", 50)
    assert torch.equal(quantizer.nearest(z), whole)


@pytest.mark.parametrize("mean", [0, 1000, -30_000])
@pytest.mark.parametrize("name", ["gradient", "ema", "hard_em", "soft_em", "product", "residual"])
def test_codes_are_the_nearest_ones_far_from_the_origin(name, mean):
    """Also where a code that is never hit lies farther still, as the reference start leaves it."""
    torch.manual_seed(0)
    quantizer = build_quantizer(config(name, codebook_size=4096 if name[-1] == "l" else 64), 16)
    books = [module for module in quantizer.modules() if isinstance(module, Codebook)]
    for index, book in enumerate(books):
        if name != "residual" or index == 0:  # later stages see what is left
            book.vectors.data += mean
        book.vectors.data[5] = 1e7
        book.counts[5] = 0
    z = torch.randn(500, 16) + mean
    codes = quantizer.nearest(z)
    vectors = quantizer.codes_to_vectors(codes).detach().double().numpy()
    left = z.double().numpy()
    if name == "product":
        tables = [book.vectors.double().numpy() for book in books]
        halves = zip(np.split(left, 2, axis=1), tables, strict=True)
        exact = [e[numpy_codes(x, e)] for x, e in halves]
        np.testing.assert_array_equal(vectors, np.concatenate(exact, axis=1))
    else:
        for book in books:
            e = book.vectors.detach().double().numpy()
            left = left - e[numpy_codes(left, e)]
        np.testing.assert_allclose(z.double().numpy() - vectors, left, atol=1e-5 + abs(mean) * 1e-6)


@pytest.mark.parametrize("mean", [0, 1000])
def test_the_posterior_is_that_of_the_distances_far_from_the_origin(mean):
    torch.manual_seed(0)
    quantizer = build_quantizer(config("soft_em", codebook_size=64, distance_scale="dim"), 16)
    quantizer.codebook.vectors += mean
    z = torch.randn(500, 16) + mean
    x, e = z.double().numpy(), codebook(quantizer)
    weights = np.exp(-((x[:, None] - e[None]) ** 2).sum(2) / 16)
    posterior = weights / weights.sum(1, keepdims=True)
    entropy = -(posterior * np.log(posterior)).sum(1).mean()
    found = quantizer(z).statistics["posterior_entropy"].item()
    assert found == pytest.approx(entropy, abs=1e-5)


def test_kmeans_is_as_good_far_from_the_origin():
    torch.manual_seed(0)
    vectors = (torch.randn(2000, 8) * 64).round() / 64  # so that moving them rounds nothing
    errors = []
    for mean in (0, 4096):
        means = kmeans(vectors + mean, 50, 10, torch.Generator().manual_seed(1))
        x, e = vectors.double().numpy(), means.double().numpy() - mean
        errors.append(((x - e[numpy_codes(x, e)]) ** 2).mean())
    assert errors[1] == pytest.approx(errors[0], rel=0.01)


@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
def test_ema_follows_its_equations(epsilon):
    torch.manual_seed(1)
    decay, size = 0.9, 7
    quantizer = build_quantizer(config("ema", decay=decay, epsilon=epsilon), 4)
    e = codebook(quantizer)
    c, m = np.ones(size), e.copy()
    for _ in range(100):
        z = torch.randn(20, 4) + 1.0
        quantizer(z)
        quantizer.step()
        x = z.double().numpy()
        one_hot = np.eye(size)[numpy_codes(x, e)]
        c = decay * c + (1 - decay) * one_hot.sum(0)
        m = decay * m + (1 - decay) * one_hot.T @ x
        smoothed = (c + epsilon) / (c.sum() + size * epsilon) * c.sum()
        e = m / smoothed[:, None]
    np.testing.assert_allclose(codebook(quantizer), e, rtol=1e-5, atol=1e-6)


def test_codes_that_are_never_hit_stay():
    torch.manual_seed(0)
    quantizer = build_quantizer(config("ema", decay=0.9, epsilon=0.0), 3)
    quantizer.codebook.vectors[3:] += 1000
    quantizer.codebook.sums.copy_(quantizer.codebook.vectors)
    before = codebook(quantizer)
    for _ in range(2000):  # far beyond the point where fp32 counts vanish
        quantizer(torch.randn(10, 3))
        quantizer.step()
    np.testing.assert_allclose(codebook(quantizer)[3:], before[3:], rtol=1e-4)


def test_the_reference_start_explodes_and_ours_does_not():
    sizes = {}
    for start in ("reference", "normal"):
        torch.manual_seed(0)
        quantizer = build_quantizer(config("ema", codebook_size=64, initialisation=start), 8)
        quantizer(torch.randn(16, 8))
        quantizer.step()
        sizes[start] = quantizer.codebook.vectors.norm(dim=1).max().item()
    assert sizes["reference"] > 1000 * sizes["normal"]


def test_hard_em_moves_hit_codes_to_their_means():
    torch.manual_seed(2)
    quantizer = build_quantizer(config("hard_em", codebook_size=12), 4)
    e = codebook(quantizer)
    z = torch.randn(15, 4)
    quantizer(z)
    quantizer.step()
    x = z.double().numpy()
    codes = numpy_codes(x, e)
    for j in set(codes):
        e[j] = x[codes == j].mean(0)
    np.testing.assert_allclose(codebook(quantizer), e, rtol=1e-5, atol=1e-6)


def test_gradient_losses_and_gradients():
    torch.manual_seed(3)
    quantizer = build_quantizer(config("gradient", beta=0.4), 4)
    z = torch.randn(9, 4, requires_grad=True)
    out = quantizer(z)
    weight = torch.randn(9, 4)
    ((out.quantized * weight).sum() + sum(out.losses.values())).backward()
    e = codebook(quantizer)
    x = z.detach().double().numpy()
    codes = numpy_codes(x, e)
    difference = x - e[codes]
    assert out.losses["codebook"].item() == pytest.approx(np.mean(difference**2), rel=1e-5)
    assert out.losses["commitment"].item() == pytest.approx(0.4 * np.mean(difference**2), rel=1e-5)
    expected = np.zeros_like(e)
    np.add.at(expected, codes, -2 * difference / difference.size)
    np.testing.assert_allclose(quantizer.codebook.vectors.grad.numpy(), expected, atol=1e-6)
    # straight-through plus commitment; the codebook loss must not reach the encoder
    expected = weight.numpy() + 0.4 * 2 * difference / difference.size
    np.testing.assert_allclose(z.grad.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["ema", "soft_em"])
def test_commitment_gradient_reaches_the_encoder_alone(name):
    torch.manual_seed(3)
    quantizer = build_quantizer(config(name, beta=0.4), 4)
    z = torch.randn(9, 4, requires_grad=True)
    out = quantizer(z)
    (out.quantized.sum() + out.losses["commitment"]).backward()
    expected = 1 + 0.4 * 2 * (z - out.quantized).detach() / z.numel()
    torch.testing.assert_close(z.grad, expected)
    assert not list(quantizer.parameters())


def test_soft_em_equations_given_its_samples():
    torch.manual_seed(4)
    decay, draws = 0.8, 6
    quantizer = build_quantizer(config("soft_em", decay=decay, samples=draws, epsilon=0.0), 4)
    e = codebook(quantizer)
    z = torch.randn(11, 4)
    out = quantizer(z)
    quantizer.step()
    x, samples = z.double().numpy(), out.samples.numpy()
    assert samples.shape == (11, draws)
    np.testing.assert_allclose(out.quantized.numpy(), e[samples].mean(1), atol=1e-6)
    soft = np.eye(7)[samples].mean(1)  # (N, K): soft labels
    c = decay * 1 + (1 - decay) * soft.sum(0)
    m = decay * e + (1 - decay) * soft.T @ x
    np.testing.assert_allclose(codebook(quantizer), m / c[:, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("scale", "divisor"), [("none", 1), ("sqrt_dim", 2), ("dim", 4)])
def test_many_soft_samples_approach_the_posterior(scale, divisor):
    torch.manual_seed(5)
    settings = {"samples": 10_000, "distance_scale": scale, "temperature": 1.5}
    quantizer = build_quantizer(config("soft_em", **settings), 4)
    z = torch.randn(5, 4)
    out = quantizer(z)
    e, x = codebook(quantizer), z.double().numpy()
    logits = -((x[:, None] - e[None]) ** 2).sum(2) / divisor / 1.5
    posterior = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    frequencies = np.eye(7)[out.samples.numpy()].mean(1)
    np.testing.assert_allclose(frequencies, posterior, atol=0.02)
    np.testing.assert_allclose(out.quantized.numpy(), posterior @ e, atol=0.05)
    entropy = -(posterior * np.log(posterior)).sum(1).mean()
    assert out.statistics["posterior_entropy"].item() == pytest.approx(entropy, rel=1e-4)


def test_soft_em_at_temperature_zero_is_hard():
    torch.manual_seed(6)
    hard = build_quantizer(config("ema", codebook_size=20), 6)
    soft = build_quantizer(config("soft_em", codebook_size=20, temperature=1e-7), 6)
    soft.load_state_dict(hard.state_dict())
    for _ in range(5):
        z = torch.randn(30, 6)
        a, b = hard(z), soft(z)
        assert torch.equal(a.codes[:, None].expand(-1, 10), b.samples)
        torch.testing.assert_close(a.quantized, b.quantized, atol=1e-6, rtol=1e-6)
        hard.step()
        soft.step()
    torch.testing.assert_close(hard.codebook.vectors, soft.codebook.vectors, atol=1e-5, rtol=1e-5)


def test_soft_counts_add_up_to_the_unmasked_positions():
    torch.manual_seed(7)
    quantizer = build_quantizer(config("soft_em", decay=0.0), 4)
    mask = torch.rand(6, 9) < 0.6
    quantizer(torch.randn(6, 9, 4), mask)
    quantizer.step()
    assert quantizer.codebook.counts.sum().item() == pytest.approx(mask.sum().item(), rel=1e-6)


def test_soft_counts_against_one_hots():
    rng = RNG(0)
    vectors, samples = rng.normal(size=(8, 3)), rng.integers(0, 5, size=(8, 4))
    hits, sums = soft_counts(torch.tensor(vectors), torch.tensor(samples), 6)
    one_hot = np.eye(6)[samples].mean(1)
    np.testing.assert_allclose(hits.numpy(), one_hot.sum(0))
    np.testing.assert_allclose(sums.numpy(), one_hot.T @ vectors)


def test_annealing_of_temperature_and_samples():
    settings = {"samples": 10, "samples_end": 1, "temperature": 2.0, "temperature_end": 0.5}
    quantizer = build_quantizer(config("soft_em", **settings), 4)
    shapes = []
    for fraction in (0.0, 0.5, 1.0, 7.0):
        quantizer.set_progress(fraction)
        shapes.append((quantizer(torch.randn(2, 4)).samples.shape[-1], quantizer.temperature))
    assert shapes == [(10, 2.0), (6, 1.25), (1, 0.5), (1, 0.5)]
    quantizer.eval()
    assert quantizer(torch.randn(2, 4)).samples.shape == (2, 1)


def test_epoch_statistics_against_numpy():
    torch.manual_seed(8)
    quantizer = build_quantizer(config("soft_em"), 4)
    codes, errors, entropies = [], [], []
    for size in (3, 8, 0, 5):
        out = quantizer(torch.randn(size, 4))
        codes.append(out.codes.numpy())
        errors.append(out.statistics["quantisation_error"].item() * size)
        entropies.append(out.statistics["posterior_entropy"].item() * size)
    quantizer.eval()
    quantizer(torch.randn(50, 4))  # evaluation is counted apart
    quantizer.train()
    statistics = quantizer.epoch_statistics()
    usage = np.bincount(np.concatenate(codes), minlength=7)
    p = usage[usage > 0] / usage.sum()
    np.testing.assert_array_equal(statistics.usage.numpy(), usage)
    assert statistics.positions == 16
    assert statistics.used_codes == len(p)
    assert statistics.perplexity == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert statistics.quantisation_error == pytest.approx(sum(errors) / 16, rel=1e-5)
    assert statistics.posterior_entropy == pytest.approx(sum(entropies) / 16, rel=1e-5)
    quantizer.reset_statistics()
    empty = quantizer.epoch_statistics()
    assert (empty.positions, empty.used_codes, empty.perplexity) == (0, 0, 0.0)
    assert quantizer.eval().epoch_statistics().positions == 50
