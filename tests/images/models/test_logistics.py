"""Discretised logistics against NumPy, by enumeration, and against draws."""

import numpy as np
import pytest
import torch

from vqnmt.images.models.logistics import (
    bin_log_probability,
    expected_pixels,
    initial_parameters,
    mixture_log_probability,
    pixel_nats,
    sample_pixels,
    sample_values,
    scale_values,
)


def sigma(x):
    return 0.5 * (1 + np.tanh(x / 2))


def bins(mean, log_scale, levels=256):
    """P(0) .. P(levels - 1) as differences of the distribution function, in float64."""
    x = np.arange(levels) * 2 / (levels - 1) - 1
    edges = (x[:-1] + 1 / (levels - 1) - mean) / np.exp(log_scale)
    return np.diff(np.concatenate([[0.0], sigma(edges), [1.0]]))


@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.31, 0.0, 0.777, 1.0, 2.5])
@pytest.mark.parametrize("log_scale", [-7.5, -5.0, -2.0, 0.5, 3.0])
def test_the_probabilities_of_256_values_add_up_to_1(mean, log_scale):
    values = scale_values(torch.arange(256), 256)
    logs = bin_log_probability(values, torch.tensor(mean), torch.tensor(log_scale), 256)
    assert logs.isfinite().all()
    assert logs.double().exp().sum().item() == pytest.approx(1, abs=2e-5)
    expected = bins(mean, log_scale)
    seen = expected > 1e-12  # below that the differences of float64 are rounding
    np.testing.assert_allclose(logs.double().exp().numpy()[seen], expected[seen], rtol=2e-3)


def test_scales_below_the_lowest_still_add_up_to_1():
    values = scale_values(torch.arange(31), 31)
    logs = bin_log_probability(values, torch.tensor(0.1), torch.tensor(-50.0), 31)
    assert logs.double().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_mixture_adds_up_to_1_and_its_gradient_is_finite():
    torch.manual_seed(0)
    values = scale_values(torch.arange(256), 256).requires_grad_()
    logits, means = torch.randn(4), torch.randn(4)
    scales = (torch.randn(4) * 4).requires_grad_()
    logs = mixture_log_probability(values, logits, means, scales, 256)
    assert logs.exp().sum().item() == pytest.approx(1, abs=1e-5)
    logs.sum().backward()
    assert values.grad.isfinite().all() and scales.grad.isfinite().all()


def pixel_probability(parameters, pixel):
    """P(red, green, blue) of one pixel from its (10 M,) parameters, in NumPy."""
    mixtures = len(parameters) // 10
    logits = parameters[:mixtures]
    means, scales, couplings = parameters[mixtures:].reshape(3, mixtures, 3)
    red, green, _ = (value * 2 / 255 - 1 for value in pixel)
    weights = np.exp(logits) / np.exp(logits).sum()
    total = 0.0
    for m in range(mixtures):
        a, b, c = np.tanh(couplings[m])
        centres = (means[m, 0], means[m, 1] + a * red, means[m, 2] + b * red + c * green)
        parts = [bins(centres[i], scales[m, i])[pixel[i]] for i in range(3)]
        total += weights[m] * np.prod(parts)
    return total


def test_nats_of_an_image_are_the_sum_over_its_pixels():
    torch.manual_seed(1)
    parameters = torch.randn(2, 30, 2, 3)
    parameters[:, 12:21] -= 1.5
    images = torch.randint(0, 256, (2, 3, 2, 3), dtype=torch.uint8)
    images[0, :, 0, 0] = torch.tensor([0, 255, 0])
    found = pixel_nats(parameters, images)
    for b in range(2):
        expected = -sum(
            np.log(
                pixel_probability(
                    parameters[b, :, i, j].double().numpy(), images[b, :, i, j].tolist()
                )
            )
            for i in range(2)
            for j in range(3)
        )
        assert found[b].item() == pytest.approx(expected, rel=1e-4)


def test_a_pixels_blue_adds_up_to_the_probability_of_red_and_green():
    torch.manual_seed(2)
    parameters = torch.randn(1, 20, 1, 1).expand(256, -1, -1, -1)
    images = torch.tensor([40, 200, 0], dtype=torch.uint8).view(1, 3, 1, 1).repeat(256, 1, 1, 1)
    images[:, 2, 0, 0] = torch.arange(256, dtype=torch.uint8)
    found = torch.exp(-pixel_nats(parameters, images)).sum().item()
    values = parameters[0, :, 0, 0].double().numpy()
    means, scales, couplings = values[2:].reshape(3, 2, 3)
    weights = np.exp(values[:2]) / np.exp(values[:2]).sum()
    red = 40 * 2 / 255 - 1
    expected = sum(
        weights[m]
        * bins(means[m, 0], scales[m, 0])[40]
        * bins(means[m, 1] + np.tanh(couplings[m, 0]) * red, scales[m, 1])[200]
        for m in range(2)
    )
    assert found == pytest.approx(expected, rel=1e-3)


def test_sampled_values_have_their_probabilities():
    torch.manual_seed(3)
    logits, means, scales = (
        torch.tensor([0.0, 1.0]),
        torch.tensor([-0.6, 0.5]),
        torch.tensor([-2.0, -1]),
    )
    drawn = sample_values(*(x.expand(40_000, 2) for x in (logits, means, scales)), 9)
    found = drawn.bincount(minlength=9) / 40_000
    values = scale_values(torch.arange(9), 9)
    expected = mixture_log_probability(values, logits, means, scales, 9).exp()
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_sampled_pixels_follow_the_coupling():
    torch.manual_seed(4)
    parameters = torch.zeros(1, 10, 100, 100)
    parameters[:, 4:7] = -5.0  # narrow
    parameters[:, 4] = -1.0  # but for red
    parameters[:, 7] = 20.0  # green moves with red, one to one
    drawn = sample_pixels(parameters).long()
    red, green, blue = drawn[0].flatten(1)
    assert red.float().std() > 30
    assert (red - green)[(red > 9) & (red < 246)].abs().float().mean() < 3
    assert (blue - 127.5).abs().float().mean() < 3


def test_expected_pixels_are_the_weighted_means_of_the_components():
    parameters = torch.zeros(1, 20, 1, 1)
    parameters[0, 1] = np.log(3)  # the second component has weight 3/4
    parameters[0, 5:8] = torch.tensor([-2.0, 0.0, 1.0])[:, None, None]  # red is cut off at -1
    assert expected_pixels(parameters).flatten().tolist() == [32, 128, 223]
    parameters[0, 17] = 20.0  # its green moves with red
    assert expected_pixels(parameters).flatten().tolist() == [32, 32, 223]


def test_narrow_pixels_are_drawn_where_they_are_expected():
    torch.manual_seed(5)
    parameters = torch.randn(1, 10, 4, 4) * 0.3
    parameters[:, 4:7] = -9.0
    drawn, expected = sample_pixels(parameters), expected_pixels(parameters)
    assert (drawn.int() - expected.int()).abs().max() <= 2


def test_at_the_start_grey_costs_less_than_colour():
    parameters = initial_parameters(3).view(1, 30, 1, 1)
    grey = torch.full((1, 3, 1, 1), 128, dtype=torch.uint8)
    colour = torch.tensor([255, 0, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert pixel_nats(parameters, grey) < 3 * 8 * np.log(2) < pixel_nats(parameters, colour)
