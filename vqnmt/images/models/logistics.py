"""Discretised mixtures of logistics over integers 0 .. L - 1 (Salimans et al. 2017, PixelCNN++).

A logistic density is integrated over the bin around each value; the first and the last bin take
the tails, so that the L probabilities add up to 1. Values are scaled to [-1, 1]; the bins have the
half width h = 1 / (L - 1) there. With a = (x + h - m) / s and b = (x - h - m) / s a bin has

    P(x) = sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - exp(b - a)),

whose logarithm is exact at any distance from the mean; in the first and last bin the factors of
the missing edge are left out. Everything is computed in fp32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# exp(-8) of the range [-1, 1] is a twelfth of a grey value's bin.
LOWEST_LOG_SCALE = -8.0
# Parameters of a component of a pixel: a weight, three means, three scales, three couplings.
PARAMETERS = 10


def scale_values(values: Tensor, levels: int) -> Tensor:
    """Map integers 0 .. `levels` - 1 to [-1, 1], fp32."""
    return values.float() * (2 / (levels - 1)) - 1


def bin_log_probability(x: Tensor, means: Tensor, log_scales: Tensor, levels: int) -> Tensor:
    """Log-probability in nats of the bin around `x` under logistics, shapes broadcast.

    Args:
        x: Scaled values. The formula is smooth between the bins' centres, with a gradient in x.
        means: m.
        log_scales: ln s, cut off below at `LOWEST_LOG_SCALE`.
        levels: L.
    """
    half = 1 / (levels - 1)
    log_scales = log_scales.clamp(min=LOWEST_LOG_SCALE)
    inverse = torch.exp(-log_scales)
    centred = x - means
    upper = F.logsigmoid(inverse * (centred + half))  # ln sigma(a)
    lower = F.logsigmoid(inverse * (half - centred))  # ln sigma(-b)
    between = torch.log(-torch.expm1(-2 * half * inverse))  # ln (1 - exp(b - a))
    first, last = x < half - 1, x > 1 - half
    upper = torch.where(last, 0.0, upper)
    lower = torch.where(first, 0.0, lower)
    return upper + lower + torch.where(first | last, 0.0, between)


def mixture_log_probability(
    x: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor, levels: int
) -> Tensor:
    """Log-probability in nats of scaled values `x` (...) under M logistics (..., M)."""
    bins = bin_log_probability(x[..., None], means, log_scales, levels)  # (..., M)
    return torch.logsumexp(logits.log_softmax(-1) + bins, dim=-1)


def pixel_nats(parameters: Tensor, images: Tensor) -> Tensor:
    """-log p(x) of images, in nats an image.

    The three channels of a pixel share one component; within it green's mean moves with red and
    blue's with red and green, so that a pixel's channels depend on each other in one parallel
    step. The pixels are independent given `parameters`.

    Args:
        parameters: (B, 10 M, H, W).
        images: (B, 3, H, W) uint8.

    Returns:
        (B,) fp32.
    """
    with torch.autocast(parameters.device.type, enabled=False):
        logits, means, log_scales, couplings = _split(parameters)
        x = scale_values(images, 256)[:, None]  # (B, 1, 3, H, W)
        means = _couple(means, couplings, x)  # (B, M, 3, H, W)
        bins = bin_log_probability(x, means, log_scales, 256).sum(dim=2)  # (B, M, H, W)
        nats = -torch.logsumexp(logits.log_softmax(1) + bins, dim=1)  # (B, H, W)
        return nats.flatten(1).sum(dim=1)


def sample_pixels(parameters: Tensor) -> Tensor:
    """Draw images (B, 3, H, W) uint8 from `parameters` (B, 10 M, H, W)."""
    with torch.autocast(parameters.device.type, enabled=False):
        logits, means, log_scales, couplings = _split(parameters)
        means, log_scales, couplings = _choose(_gumbel(logits), means, log_scales, couplings)
        u = torch.rand_like(means).clamp(1e-5, 1 - 1e-5)  # (B, 3, H, W)
        noise = torch.exp(log_scales.clamp(min=LOWEST_LOG_SCALE)) * torch.logit(u)
        return _decode_channels(means, couplings, noise)


def expected_pixels(parameters: Tensor) -> Tensor:
    """The weighted mean of the components' means, which are clamped to the range of pixels.

    Args:
        parameters: (B, 10 M, H, W).

    Returns:
        Images (B, 3, H, W) uint8.
    """
    logits, means, _, couplings = _split(parameters)
    to_green, red_to_blue, green_to_blue = couplings.tanh().unbind(2)  # (B, M, H, W)
    red, green, blue = means.unbind(2)
    red = red.clamp(-1, 1)
    green = (green + to_green * red).clamp(-1, 1)
    blue = (blue + red_to_blue * red + green_to_blue * green).clamp(-1, 1)
    weighted = logits.softmax(1)[:, :, None] * torch.stack([red, green, blue], dim=2)
    return _to_integers(weighted.sum(dim=1), 256).to(torch.uint8)


def sample_values(logits: Tensor, means: Tensor, log_scales: Tensor, levels: int) -> Tensor:
    """Draw integers (...) from M logistics (..., M)."""
    index = _gumbel(logits.float()).argmax(-1, keepdim=True)
    means, log_scales = (x.float().gather(-1, index)[..., 0] for x in (means, log_scales))
    u = torch.rand_like(means).clamp(1e-5, 1 - 1e-5)
    x = means + torch.exp(log_scales.clamp(min=LOWEST_LOG_SCALE)) * torch.logit(u)
    return _to_integers(x, levels)


def _split(parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, 10 M, H, W) to logits (B, M, H, W) and three of (B, M, 3, H, W)."""
    batch, channels, height, width = parameters.shape
    mixtures = channels // PARAMETERS
    parameters = parameters.float()
    logits = parameters[:, :mixtures]
    rest = parameters[:, mixtures:].reshape(batch, 3, mixtures, 3, height, width)
    means, log_scales, couplings = rest.unbind(1)
    return logits, means, log_scales, couplings


def _couple(means: Tensor, couplings: Tensor, x: Tensor) -> Tensor:
    """Move green's and blue's means (B, M, 3, H, W) by the channels before them in `x`."""
    to_green, red_to_blue, green_to_blue = couplings.tanh().unbind(2)
    red, green, _ = x.unbind(2)
    means_red, means_green, means_blue = means.unbind(2)
    means_green = means_green + to_green * red
    means_blue = means_blue + red_to_blue * red + green_to_blue * green
    return torch.stack([means_red, means_green, means_blue], dim=2)


def _choose(logits: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Select from `values` (B, M, 3, H, W) the component of highest logit (B, M, H, W)."""
    index = logits.argmax(dim=1)[:, None, None].expand(-1, 1, 3, -1, -1)
    return tuple(value.gather(1, index)[:, 0] for value in values)


def _decode_channels(means: Tensor, couplings: Tensor, noise: Tensor) -> Tensor:
    """Red, then green, then blue, each (B, H, W), as integers 0 .. 255."""
    to_green, red_to_blue, green_to_blue = couplings.tanh().unbind(1)
    red = _rounded(means[:, 0] + noise[:, 0])
    green = _rounded(means[:, 1] + noise[:, 1] + to_green * red)
    blue = _rounded(means[:, 2] + noise[:, 2] + red_to_blue * red + green_to_blue * green)
    return _to_integers(torch.stack([red, green, blue], dim=1), 256).to(torch.uint8)


def _rounded(x: Tensor) -> Tensor:
    return scale_values(_to_integers(x, 256), 256)


def _to_integers(x: Tensor, levels: int) -> Tensor:
    return ((x + 1) * ((levels - 1) / 2)).round().clamp(0, levels - 1).long()


def _gumbel(logits: Tensor) -> Tensor:
    """Noisy logits, whose maximum is at each component with its probability."""
    return logits - torch.log(-torch.log(torch.rand_like(logits).clamp(1e-9, 1 - 1e-7)))


def initial_parameters(mixtures: int) -> Tensor:
    """A bias (10 M,) to start from: red spread over the range, green near red, blue near green."""
    means = torch.zeros(mixtures, 3)
    means[:, 0] = torch.linspace(-0.7, 0.7, mixtures) if mixtures > 1 else 0.0
    log_scales = torch.tensor([-1.5, -2.5, -2.5]).expand(mixtures, 3)
    couplings = torch.tensor([1.5, 0.0, 1.5]).expand(mixtures, 3)  # before the tanh
    groups = [group.flatten() for group in (means, log_scales, couplings)]
    return torch.cat([torch.zeros(mixtures), *groups])
