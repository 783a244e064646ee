"""Bounds of the image models against exact values."""

import itertools
import math

import pytest
import torch

from vqnmt.errors import VqnmtError
from vqnmt.images.models import (
    AutoencoderConfig,
    AveragedWeights,
    ImageModelConfig,
    PriorConfig,
    load_image_model,
    save_image_model,
)
from vqnmt.images.models.logistics import expected_pixels, pixel_nats
from vqnmt.images.models.vae import kl_to_standard_normal


def exact_nats(model, image):
    """-log sum_z p(x | z) p(z) of one image over all codes, and every term."""
    side, count = 2, 4 * (model.config.codes if model.config.kind == "vqvae" else 2)
    choices = itertools.product(range(model.codebook_size), repeat=count)
    codes = torch.tensor(list(choices)).view(-1, side, side, count // 4)
    images = image.expand(len(codes), -1, -1, -1)
    if model.config.kind == "vqvae":
        terms = pixel_nats(model.decode(codes), images) + model.prior.nats(codes)
    else:
        terms = model.nats(codes, images) + model.prior.nats(model.scaled(codes))
    return -torch.logsumexp(-terms, dim=0), terms, codes


@pytest.mark.parametrize(
    ("kind", "further"),
    [
        ("vqvae", {"codes": 2}),
        ("vqvae", {"prior": "transformer"}),
        ("vqvae", {"prior": "uniform", "quantizer": "soft_em"}),
        ("integers", {"latent_dim": 2, "levels": 3}),
    ],
)
def test_the_bound_is_a_term_of_the_exact_value(make_model, images, kind, further):
    """The sum over all codes is -log p(x); the bound is its one term of the codes by argmax."""
    model = make_model(kind, **further).eval()
    with torch.no_grad():
        bound = model.bound(images)
        codes = model.encode(images)
        for i in range(len(images)):
            exact, terms, choices = exact_nats(model, images[i : i + 1])
            total = (bound.reconstruction + bound.rate)[i]
            (place,) = (choices == codes[i]).flatten(1).all(1).nonzero().flatten()
            assert total.item() == pytest.approx(terms[place].item(), rel=1e-5)
            assert total >= exact - 1e-4


def test_with_one_code_the_bound_is_exact(make_model, images):
    model = make_model("vqvae", codebook_size=1).eval()
    bound = model.bound(images)
    assert bound.rate.tolist() == pytest.approx([0.0] * 3, abs=1e-5)
    for i in range(3):
        exact, _, _ = exact_nats(model, images[i : i + 1])
        assert bound.reconstruction[i].item() == pytest.approx(exact.item(), rel=1e-6)


def test_the_bound_of_a_trained_toy_is_nearly_exact(make_model, images):
    """Once the decoder knows its codes, others have no mass left (van den Oord et al. 2017)."""
    model = make_model("vqvae", codebook_size=4, joint=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(600):  # after fewer, rounding decides which code an image has
        model(images).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_optimizer_step()
    model.eval()
    with torch.no_grad():
        bound = model.bound(images)
        for i in range(3):
            exact, _, _ = exact_nats(model, images[i : i + 1])
            total = (bound.reconstruction + bound.rate)[i].item()
            assert exact.item() - 1e-3 <= total <= exact.item() + 0.5


def test_evaluation_is_by_argmax_for_soft_em_too(make_model, images):
    model = make_model("vqvae", quantizer="soft_em", codebook_size=8).eval()
    first, second = model.bound(images), model.bound(images)
    assert torch.equal(first.reconstruction, second.reconstruction)
    vectors = model.vectors(images)
    table = model.quantizer.codes_to_vectors(torch.arange(8))
    nearest = (vectors[..., None, :] - table).square().sum(-1).argmin(-1)
    assert torch.equal(model.encode(images), nearest)


@pytest.mark.parametrize(
    ("kind", "further"),
    [
        ("vqvae", {"quantizer": "gradient", "codebook_size": 8}),
        ("vqvae", {"quantizer": "soft_em", "codebook_size": 8, "joint": True}),
        ("vae", {}),
        ("integers", {}),
        ("pixels", {"prior": "transformer"}),
    ],
)
def test_training_lowers_the_bound(make_model, images, kind, further):
    model = make_model(kind, **further)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.01)
    first = model(images)
    assert first.total.isfinite() and first.tokens == 3
    for _ in range(60):
        losses = model(images)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        if hasattr(model, "after_optimizer_step"):
            model.after_optimizer_step()
    assert losses.terms["reconstruction"] < first.terms["reconstruction"] - 0.5
    drawn = model.eval().sample(2)
    assert drawn.shape == (2, 3, 4, 4) and drawn.dtype == torch.uint8


def test_the_loss_of_integers_is_their_bound(make_model, images):
    model = make_model("integers").eval()
    bound = model.bound(images)
    expected = (bound.reconstruction + bound.rate).mean() / 48
    assert model(images).total.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["vae", "integers"])
def test_the_rate_comes_in_gradually(make_model, images, kind):
    model = make_model(kind, rate_warmup=0.5)
    totals = []
    for fraction in (0.0, 0.25, 0.5, 1.0):
        model.set_progress(fraction)
        torch.manual_seed(1)
        totals.append(model(images).total.item())
    torch.manual_seed(1)
    bound = model.bound(images)
    parts = [x.mean().item() / 48 for x in (bound.reconstruction, bound.rate)]
    expected = [parts[0] + weight * parts[1] for weight in (0, 0.5, 1, 1)]
    assert totals == pytest.approx(expected, rel=1e-5)


def test_integers_are_rounded_and_bounded(make_model, images):
    model = make_model("integers", levels=5)
    with torch.no_grad():
        model.encoder.output.weight.mul_(100)
    codes = model.encode(images)
    assert codes.min() >= 0 and codes.max() <= 4 and codes.unique().numel() > 2


def test_integers_start_as_a_coarse_image(make_model, images):
    """Of each block's A, lightness in 31 steps; strong colours would be cut off."""
    model, pale = make_model("integers").eval(), images // 3 + 80
    found = model.reconstruct(model.encode(pale))
    assert found.shape == pale.shape and found.dtype == torch.uint8
    error = (found.int() - pale.int())[:, :, ::2, ::2].abs().float()
    assert error.mean() < 8 < pale.float().std()


def test_pixels_depend_on_earlier_ones_alone(make_model):
    model = make_model("pixels", prior="transformer").eval()
    images = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    before = model.parameters_of(images)
    for place in range(16):
        changed = images.clone()
        changed[0, :, place // 4, place % 4] ^= 128
        moved = (model.parameters_of(changed) - before).abs().amax((0, 1)).flatten() > 1e-6
        assert not moved[: place + 1].any()
        assert moved[place + 1 :].all()


def test_sampling_pixels_decodes_what_the_parallel_pass_says(make_model, monkeypatch):
    """Taking always the expected pixel, the image repeats itself under the parallel pass."""
    model = make_model("pixels", prior="transformer").eval()
    monkeypatch.setattr("vqnmt.images.models.pixels.sample_pixels", expected_pixels)
    drawn = model.sample(2)
    with torch.no_grad():
        again = expected_pixels(model.parameters_of(drawn))
    assert (drawn.int() - again.int()).abs().max() <= 1  # rounding


def test_kl_against_torch():
    mean, log_scale = torch.randn(3, 2, 2, 2), torch.randn(3, 2, 2, 2)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, log_scale.exp()), normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(mean, log_scale), expected.flatten(1).sum(1))


def test_a_vaes_importance_estimate_lies_between_the_bound_and_the_exact_value(make_model):
    """One number as latent, so that -log p(x) is an integral over a line."""
    model = make_model("vae", size=2, latent_dim=1).eval()
    image = torch.tensor([10, 200, 60, 90], dtype=torch.uint8).repeat(3).view(1, 3, 2, 2)
    with torch.no_grad():
        model.encoder.output.bias.copy_(torch.tensor([1.0, -0.3]))
        model.decoder.input.weight.mul_(6)
        line = torch.linspace(-9, 9, 4001)
        nats = torch.cat(
            [
                pixel_nats(
                    model.decoder(part.view(-1, 1, 1, 1)), image.expand(len(part), -1, -1, -1)
                )
                for part in line.split(1000)
            ]
        )
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(line)
        exact = -(torch.logsumexp(prior - nats, 0) + math.log(18 / 4000)).item()
        torch.manual_seed(0)
        many = image.expand(400, -1, -1, -1)
        bound = model.bound(many)
        elbo = (bound.reconstruction + bound.rate).mean().item()
        estimates = {k: model.importance_nats(many, k).mean().item() for k in (1, 5, 300)}
    assert estimates[1] == pytest.approx(elbo, abs=0.1)  # k = 1 is the bound itself
    assert exact - 0.02 < estimates[300] < estimates[5] < elbo
    assert estimates[300] == pytest.approx(exact, abs=0.03)


def test_averaged_weights_follow_their_model(make_model, images):
    model = make_model("vqvae", codebook_size=4)
    averaged = AveragedWeights(model, 0.5)
    start = model.decoder.output.bias.detach().clone()
    optimizer = torch.optim.SGD([p for p in averaged.parameters() if p.requires_grad], 0.1)
    expected = start.clone()
    for n in range(1, 4):
        averaged(images).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        averaged.after_optimizer_step()
        kept = min(0.5, (1 + n) / (10 + n))
        expected = kept * expected + (1 - kept) * model.decoder.output.bias.detach()
        torch.testing.assert_close(averaged.average.decoder.output.bias, expected)
    assert not any(p.requires_grad for p in averaged.average.parameters())
    for mine, its in zip(averaged.average.buffers(), model.buffers(), strict=True):
        assert torch.equal(mine, its)
    assert torch.equal(
        averaged.average.quantizer.codebook.vectors, model.quantizer.codebook.vectors
    )


def test_averaged_weights_bear_a_table_that_grows(make_model):
    """Full-size images have more pixels than the table of positions starts with."""
    averaged = AveragedWeights(make_model("pixels", 32, prior="transformer"), 0.0)
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    averaged(images).total.backward()
    averaged.after_optimizer_step()
    assert torch.equal(averaged.average.parameters_of(images), averaged.model.parameters_of(images))


@pytest.mark.parametrize("kind", ["vqvae", "vae", "integers"])
def test_a_saved_model_comes_back(make_model, images, kind, tmp_path):
    model = make_model(kind, latent_dim=2).eval()
    save_image_model(model, tmp_path)
    again = load_image_model(tmp_path)
    assert again.config == model.config and not again.training
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_damaged_model_is_named(make_model, tmp_path):
    save_image_model(make_model("vae"), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(VqnmtError, match=r"model\.safetensors: is not the file that was saved"):
        load_image_model(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()  # as an earlier version left it
    with pytest.raises(VqnmtError, match="holds no image model"):
        load_image_model(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 99}')
    with pytest.raises(VqnmtError, match="format is 99"):
        load_image_model(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageModelConfig(kind="gan"), "model.kind is 'gan'; choose one of vqvae"),
        (lambda: ImageModelConfig(levels=4), "model.levels is 4; it must be odd"),
        (lambda: ImageModelConfig(codes=0), "model.codes is 0"),
        (lambda: PriorConfig(name="lstm"), "prior.name is 'lstm'"),
        (lambda: PriorConfig(width=12, heads=4), "prior.width is 12"),
        (
            lambda: ImageModelConfig(kind="integers", autoencoder=AutoencoderConfig(halvings=2)),
            "autoencoder.halvings is 2; model.kind=integers takes 1 alone",
        ),
        (lambda: ImageModelConfig(kind="pixels"), "model.kind=pixels takes transformer alone"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(VqnmtError, match=message):
        make()


def test_an_image_size_that_cannot_be_halved_is_named(make_model):
    with pytest.raises(VqnmtError, match=r"data\.size is 5; it must be a multiple of 2"):
        make_model("vqvae", size=5)
