"""The likelihood of residual codes and of pixels in passes, summed anew in NumPy."""

import itertools

import numpy as np
import pytest
import torch

from tests.images.models.conftest import smooth_images
from vqnmt.errors import VqnmtError
from vqnmt.images.models import (
    AutoencoderConfig,
    BlockwiseVQVAE,
    ImageModelConfig,
    PriorConfig,
    build_image_model,
)
from vqnmt.images.models.blockwise import split_passes
from vqnmt.images.models.logistics import pixel_nats, sample_pixels
from vqnmt.quantizers import ResidualConfig


def make(size: int = 8, codebook_size: int = 9, **further) -> BlockwiseVQVAE:
    """A model with 2 codes of sqrt(codebook_size) a position, two levels, random weights."""
    torch.manual_seed(0)
    config = ImageModelConfig(
        kind="blockwise",
        autoencoder=AutoencoderConfig(width=8, blocks=1, halvings=2, mixtures=2),
        latent_dim=4,
        quantizer=ResidualConfig(
            codebook_size=codebook_size, decay=0.9, initialisation="normal", restart_threshold=0.0
        ),
        prior=PriorConfig(width=8, layers=2, heads=2),
        **further,
    )
    model = build_image_model(config, size)
    assert isinstance(model, BlockwiseVQVAE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def pictures() -> torch.Tensor:
    """Twenty smooth images (20, 3, 8, 8) uint8."""
    return smooth_images(20, corners=3, side=8)


def table(mean: float, log_scale: float) -> np.ndarray:
    """P(0) .. P(255) of a logistic as differences of its distribution function, in float64."""
    edges = ((np.arange(255) + 0.5) * 2 / 255 - 1 - mean) / np.exp(max(log_scale, -8.0))
    below = np.diff(np.concatenate([[0.0], 1 / (1 + np.exp(-edges)), [1.0]]))
    above = -np.diff(np.concatenate([[1.0], 1 / (1 + np.exp(edges)), [0.0]]))
    # Far above the mean only the other tail is exact.
    return np.where(np.append(edges, np.inf) > 0, above, below)


def colour_tables(values: np.ndarray, pixel: list[int]) -> list[np.ndarray]:
    """P(v), P(v | red), P(v | red, green) for all v of a pixel, from its (10 M,) parameters."""
    count = len(values) // 10
    weights = np.exp(values[:count] - values[:count].max())
    means, log_scales, couplings = values[count:].reshape(3, count, 3)
    red, green, _ = (v * 2 / 255 - 1 for v in pixel)
    found = []
    for channel in range(3):
        tables = []
        for m in range(count):
            a, b, c = np.tanh(couplings[m])
            shift = (0.0, a * red, b * red + c * green)[channel]
            tables.append(table(means[m, channel] + shift, log_scales[m, channel]))
        mixed = (weights[:, None] / weights.sum()) * np.stack(tables)
        found.append(mixed.sum(axis=0))
        # What a channel says of the component weighs the mixture of the next.
        weights = weights / weights.sum() * np.stack(tables)[:, pixel[channel]]
    return found


def test_the_bound_of_20_images_is_the_sum_over_codes_and_channels(pictures):
    """Code by code and channel by channel, each of a distribution that adds up to 1."""
    model = make().eval()
    with torch.no_grad():
        bound, codes = model.bound(pictures), model.encode(pictures)
        assert codes.shape == (20, 2, 2, 2) and len(codes.unique()) > 1
        rate = np.zeros(20)
        for row, column, stage in itertools.product(range(2), repeat=3):
            seen = torch.zeros_like(codes)  # only the codes before this one
            place = 4 * row + 2 * column + stage
            seen.view(20, 8)[:, :place] = codes.view(20, 8)[:, :place]
            scores = model.prior.logits(seen)[:, :, row, 2 * column + stage].double().numpy()
            chances = np.exp(scores - scores.max(1, keepdims=True))
            chances /= chances.sum(1, keepdims=True)
            assert chances.shape == (20, 3)
            rate -= np.log(chances[np.arange(20), codes[:, row, column, stage].numpy()])
        np.testing.assert_allclose(bound.rate.numpy(), rate, rtol=1e-4)

        truth, nats = iter(split_passes(pictures, 2)), np.zeros(20)

        def pick(parameters):
            pixels = next(truth)
            values = parameters.double().numpy()
            for n, i, j in itertools.product(*map(range, (20, *pixels.shape[2:]))):
                pixel = pixels[n, :, i, j].tolist()
                for value, chances in zip(
                    pixel, colour_tables(values[n, :, i, j], pixel), strict=True
                ):
                    assert chances.sum() == pytest.approx(1, abs=1e-9)
                    nats[n] -= np.log(chances[value])
            return pixels

        assert torch.equal(model.decoder.emit(model.latents(codes), pick), pictures)
    np.testing.assert_allclose(bound.reconstruction.numpy(), nats, rtol=2e-3)
    uniform = 8 * np.log(3)
    np.testing.assert_allclose(bound.rate_uniform.numpy(), uniform, rtol=1e-6)


def test_256_values_of_a_channel_add_up_to_1_in_the_models_own_likelihood(pictures):
    """All blues of a pixel given its red and green, against NumPy's P(red, green)."""
    model = make().eval()
    with torch.no_grad():
        latents = model.latents(model.encode(pictures[:1]))
        parameters = model.decoder.parameters_of(latents, pictures[:1])[5][:, :, 1:2, 1:2]
        colours = (
            torch.tensor([90, 140, 0], dtype=torch.uint8).view(1, 3, 1, 1).repeat(256, 1, 1, 1)
        )
        colours[:, 2, 0, 0] = torch.arange(256, dtype=torch.uint8)
        nats = pixel_nats(parameters.expand(256, -1, -1, -1), colours)
    tables = colour_tables(parameters.double().numpy()[0, :, 0, 0], [90, 140, 0])
    expected = tables[0][90] * tables[1][140]
    assert torch.exp(-nats.double()).sum().item() == pytest.approx(expected, rel=1e-3)


def test_the_bound_is_a_term_of_the_sum_over_all_codes(pictures):
    """sum_z p(x | z) p(z) of 2 codes of 3 at one position: the bound is above its logarithm."""
    model, images = make(size=4).eval(), pictures[:, :, :4, :4]
    every = torch.tensor(list(itertools.product(range(3), repeat=2))).view(9, 1, 1, 2)
    with torch.no_grad():
        bound, codes = model.bound(images), model.encode(images)
        assert torch.exp(-model.prior.nats(every)).sum().item() == pytest.approx(1, abs=1e-5)
        for i in range(3):
            image = images[i : i + 1].expand(9, -1, -1, -1)
            terms = model.decoder.nats(model.latents(every), image) + model.prior.nats(every)
            place = (every == codes[i]).flatten(1).all(1)
            total = bound.reconstruction[i] + bound.rate[i]
            assert total.item() == pytest.approx(terms[place].item(), rel=1e-5)
            assert total > -torch.logsumexp(-terms, 0)


def test_the_training_loss_is_the_bound_and_the_quantizers_loss(pictures):
    model = make().eval()
    bound = model.bound(pictures)
    losses = model(pictures)
    expected = (bound.reconstruction + bound.rate).mean() / 192 + losses.terms["commitment"]
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_relaxed_rate_draws_vectors_to_likely_codes():
    """Two codes at +-1: the gradient is that of q_1 c_1 + q_2 c_2, written out."""
    model = make(size=4, codebook_size=4)
    for part in model.quantizer.quantizers:
        part.codebook.vectors.zero_()
    first = model.quantizer.quantizers[0].codebook.vectors
    first[0, 0], first[1, 0] = 1.0, -1.0
    vectors = torch.tensor([0.2, 0.0, 0.0, 0.0]).view(1, 1, 1, 4).requires_grad_()
    codes = torch.zeros(1, 1, 1, 2, dtype=torch.int64)
    costs = torch.tensor([3.0, 1.0]).view(1, 2, 1, 1, 1) * torch.tensor([1.0, 0.0])
    model.relaxed_rate(vectors, codes, costs).backward()
    # s^2 = 0.8^2 / 4, q_1 = sigma(4 r / 2 s^2), d/dr (q_1 c_1 + q_2 c_2) = q_1 q_2 (2 / s^2) * 2
    q = 1 / (1 + np.exp(-4 * 0.2 / (2 * 0.16)))
    expected = q * (1 - q) * 4 / (2 * 0.16) * (3.0 - 1.0)
    assert vectors.grad.flatten().tolist() == pytest.approx([expected, 0, 0, 0], rel=1e-4)


def test_the_weight_of_the_rate_changes_the_encoders_gradient_alone(pictures):
    gradients = []
    for weight in (0.0, 1.0):
        model = make()
        model.rate_weight = weight
        losses = model(pictures)
        losses.total.backward()
        gradients.append(
            {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        )
    moved = {name for name in gradients[0] if not torch.equal(*(g[name] for g in gradients))}
    assert moved and all(name.startswith(("encoder.", "block.")) for name in moved)
    assert all("prior." + name in gradients[0] for name, _ in model.prior.named_parameters())


def test_training_lowers_the_bound_and_draws_images(pictures):
    model, pictures = make(rate_warmup=0.5), pictures[:6]
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    first = model(pictures)
    for step in range(40):
        model.set_progress(step / 40)
        losses = model(pictures)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_optimizer_step()
    before, after = (x.terms["reconstruction"] + x.terms["rate"] for x in (first, losses))
    assert after < before - 0.5
    drawn = model.eval().sample(2)
    assert drawn.shape == (2, 3, 8, 8) and drawn.dtype == torch.uint8
    found = model.reconstruct(model.encode(pictures))
    assert (found.int() - pictures.int()).abs().float().mean() < 60


def test_a_fresh_model_reads_colours_from_its_latents():
    """Its first pass starts at the mean colour of a block."""
    torch.manual_seed(0)
    config = ImageModelConfig(
        kind="blockwise",
        autoencoder=AutoencoderConfig(width=8, blocks=1, halvings=2),
        quantizer=ResidualConfig(codebook_size=16),
    )
    model = build_image_model(config, 8).eval()
    plain = torch.tensor([200, 90, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    latents = model.vectors(plain).permute(0, 3, 1, 2)
    drawn = model.decoder.emit(latents, sample_pixels)
    assert (drawn.int() - plain.int()).abs().float().mean() < 60


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(VqnmtError, match=r"quantizer\.name is 'soft_em'; .* takes residual alone"):
        ImageModelConfig(kind="blockwise")
    with pytest.raises(VqnmtError, match="kind=blockwise takes pixelcnn alone"):
        ImageModelConfig(
            kind="blockwise", quantizer=ResidualConfig(), prior=PriorConfig(name="transformer")
        )
