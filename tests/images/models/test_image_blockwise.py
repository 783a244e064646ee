"""The decoder of four passes: what each may see, and that its probabilities are exact."""

import pytest
import torch

from vqnmt.images.models.blockwise import (
    BlockwiseDecoder,
    _around,
    join_blocks,
    split_blocks,
    split_passes,
)
from vqnmt.images.models.config import AutoencoderConfig
from vqnmt.images.models.logistics import (
    bin_log_probability,
    expected_pixels,
    pixel_nats,
    sample_pixels,
    scale_values,
)


@pytest.fixture
def decoder():
    """Passes of 6x8 images with random weights throughout, residual blocks and predictions too."""
    torch.manual_seed(0)
    config = AutoencoderConfig(width=8, blocks=1, mixtures=2)
    decoder = BlockwiseDecoder(config, torch.eye(3)[:, :2]).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return decoder


@pytest.fixture
def latents():
    """(2, 2, 3, 4)."""
    torch.manual_seed(1)
    return torch.randn(2, 2, 3, 4)


@pytest.fixture
def pictures():
    """(2, 3, 6, 8) uint8."""
    torch.manual_seed(2)
    return torch.randint(0, 256, (2, 3, 6, 8), dtype=torch.uint8)


def test_blocks_are_split_in_the_order_of_the_passes(pictures):
    top_left, bottom_right, top_right, bottom_left = split_blocks(pictures)
    assert torch.equal(top_left, pictures[:, :, 0::2, 0::2])
    assert torch.equal(bottom_right, pictures[:, :, 1::2, 1::2])
    assert torch.equal(top_right, pictures[:, :, 0::2, 1::2])
    assert torch.equal(bottom_left, pictures[:, :, 1::2, 0::2])
    assert torch.equal(join_blocks(split_blocks(pictures)), pictures)


@pytest.mark.parametrize("group", range(4))
def test_a_pass_depends_on_earlier_passes_alone(decoder, latents, pictures, group):
    """Changing one pixel moves parameters of later passes, in neighbouring blocks too, no other."""
    before = torch.stack(decoder.parameters_of(latents, pictures))
    groups = split_blocks(pictures).clone()
    groups[group, :, :, 1, 1] ^= 128
    after = torch.stack(decoder.parameters_of(latents, join_blocks(groups)))
    moved = (after - before).abs().amax((1, 2)) > 1e-6
    assert not moved[: group + 1].any()
    assert moved[group + 1 :, 0:3, 0:3].all()  # (3 - group, 3, 3)


def test_levels_are_taken_apart_from_the_coarsest_pixels_to_the_finest(pictures):
    pictures = pictures.repeat(1, 1, 2, 1)  # (2, 3, 12, 8)
    coarse, fine = pictures[:, :, ::2, ::2], split_blocks(pictures)
    found = split_passes(pictures, 2)
    expected = [*split_blocks(coarse), *fine[1:]]
    assert len(found) == 7
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_a_pass_of_two_levels_depends_on_earlier_passes_alone():
    """Changing one emitted pixel leaves the parameters up to its own pass, and moves some later."""
    torch.manual_seed(0)
    config = AutoencoderConfig(width=8, blocks=1, mixtures=2)
    decoder = BlockwiseDecoder(config, torch.eye(3)[:, :2], levels=2).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    latents = torch.randn(1, 2, 2, 3)
    pictures = torch.randint(0, 256, (1, 3, 8, 12), dtype=torch.uint8)
    before = decoder.parameters_of(latents, pictures)
    for group in range(7):
        changed = pictures.clone()
        # Each pass's pixels are a part of the whole image's.
        places = split_passes(torch.arange(96).view(1, 1, 8, 12).expand(1, 3, 8, 12), 2)[group]
        changed.flatten(2)[:, :, places[0, 0, 0, 0]] ^= 128
        after = decoder.parameters_of(latents, changed)
        gaps = [(x - y).abs().amax().item() for x, y in zip(before, after, strict=True)]
        assert gaps[: group + 1] == [0.0] * (group + 1)
        assert all(gap > 1e-6 for gap in gaps[group + 1 :])


def test_the_sum_over_passes_is_what_decoding_pass_by_pass_says(decoder, latents, pictures):
    """Decoding, with the true pixels put in the place of draws, has the same probability."""
    truth, nats = iter(split_blocks(pictures)), []

    def pick(parameters):
        pixels = next(truth)
        nats.append(pixel_nats(parameters, pixels))
        return pixels

    assert torch.equal(decoder.emit(latents, pick), pictures)
    assert len(nats) == 4
    torch.testing.assert_close(torch.stack(nats).sum(0), decoder.nats(latents, pictures))


def test_the_colours_of_a_pixel_of_d_given_a_add_up_to_1(decoder, latents, pictures):
    """All greens and blues at one red leave red's own mixture, and all reds of that add up to 1."""
    values = torch.arange(256)
    parameters = decoder.parameters_of(latents, pictures)[1][:1, :, 1:2, 1:2]  # (1, 20, 1, 1)
    logits, means, log_scales = (parameters[0, place, 0, 0] for place in ([0, 1], [2, 5], [8, 11]))
    bins = bin_log_probability(scale_values(values, 256)[:, None], means, log_scales, 256)
    reds = torch.logsumexp(logits.log_softmax(0) + bins, dim=1).exp()  # (256,)
    assert reds.sum().item() == pytest.approx(1, abs=1e-4)
    for red in (0, 100, 255):
        colours = torch.cartesian_prod(torch.tensor([red]), values, values).to(torch.uint8)
        nats = pixel_nats(parameters.expand(len(colours), -1, -1, -1), colours[:, :, None, None])
        assert torch.exp(-nats).sum().item() == pytest.approx(reds[red].item(), rel=1e-3)


def test_means_and_couplings_move_with_the_prediction():
    """A pixel and its prediction moved alike, away from both ends: nothing else changes."""
    torch.manual_seed(3)
    parameters = torch.randn(1, 30, 1, 1)
    pixel = torch.tensor([120, 130, 100], dtype=torch.uint8).view(1, 3, 1, 1)
    shift = torch.tensor([20, -30, 10]).view(1, 3, 1, 1)
    centre = scale_values(pixel, 256) + 0.02
    before = pixel_nats(_around(parameters, centre), pixel)
    moved = _around(parameters, centre + shift * 2 / 255)
    after = pixel_nats(moved, (pixel + shift).to(torch.uint8))
    assert after.item() == pytest.approx(before.item(), abs=1e-3)


def test_at_the_start_each_pixel_is_predicted_from_its_neighbours():
    """On a ramp the mean of neighbours on all sides is the pixel itself."""
    torch.manual_seed(0)
    decoder = BlockwiseDecoder(AutoencoderConfig(width=8, blocks=1, mixtures=1), torch.eye(3))
    with torch.no_grad():
        for one_pass in decoder.passes:
            one_pass.output.weight.zero_()
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(10), indexing="ij")
    ramp = (8 * rows + 5 * columns + torch.tensor([0, 40, 90])[:, None, None]).to(torch.uint8)[None]
    latents = scale_values(split_blocks(ramp)[0], 256)
    found = [expected_pixels(x) for x in decoder.parameters_of(latents, ramp)]
    inner = (..., slice(1, 3), slice(1, 4))  # the image's border knows no neighbours outside
    for group, pixels in zip(split_blocks(ramp), found, strict=True):
        assert (group.int() - pixels.int())[inner].abs().max() <= 1
    assert torch.equal(found[0], split_blocks(ramp)[0])
    emitted = decoder.emit(latents, expected_pixels)
    assert (emitted.int() - ramp.int())[..., 2:6, 2:8].abs().max() <= 1


def test_drawn_images_have_the_shape_of_the_blocks(decoder, latents):
    drawn = decoder.emit(latents, sample_pixels)
    assert drawn.shape == (2, 3, 6, 8) and drawn.dtype == torch.uint8
