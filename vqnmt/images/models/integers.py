"""A model of rounded latents, trained for rate and reconstruction at once (`system=vae_integers`).

The bound of any deterministic code, -log p(x | z) - log p(z), is itself the training loss, which
needs a rate with a gradient in z. So a code is an integer, as in learnt compression (Ballé et al.
2017; Theis et al. 2017): z = round(y) with a straight-through gradient, and p(z) is a discretised
mixture of logistics, smooth in z. The encoder learns to spend a bit on the code only if it saves at
least one bit of reconstruction. The pixels come in four parallel passes (`blockwise`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.images.models.autoencoder import ImageEncoder, grid_side
from vqnmt.images.models.base import Bound, CodeModel, uniform_nats
from vqnmt.images.models.blockwise import DAMPING, GAIN, BlockwiseDecoder, colours
from vqnmt.images.models.config import ImageModelConfig, PriorConfig
from vqnmt.images.models.logistics import (
    expected_pixels,
    mixture_log_probability,
    sample_pixels,
    sample_values,
    scale_values,
)
from vqnmt.images.models.priors import CausalConvolutions
from vqnmt.layers import Losses

# Logistics in the prior of each integer, and hidden units of its head.
MIXTURES = 3
HIDDEN = 24


class IntegerPrior(nn.Module):
    """p(z) over grids of integers: positions in raster order, the C integers of each in turn.

    Args:
        config: Size of the gated convolutions.
        channels: C.
        levels: L, the number of values.
    """

    mask: Tensor

    def __init__(self, config: PriorConfig, channels: int, levels: int) -> None:
        super().__init__()
        self.channels, self.levels = channels, levels
        self.body = CausalConvolutions(channels, config.width, config.layers, config.dropout)
        # Each integer c of a position has a small network over the body and the integers before c.
        self.context = nn.Conv2d(config.width, channels * HIDDEN, 1)
        self.earlier = nn.Conv2d(channels, channels * HIDDEN, 1, bias=False)
        turns = torch.arange(channels)
        mask = turns[None, :] < turns.repeat_interleave(HIDDEN)[:, None]  # (C H, C)
        self.register_buffer("mask", mask.float()[:, :, None, None], persistent=False)
        self.output = nn.Conv2d(channels * HIDDEN, channels * 3 * MIXTURES, 1, groups=channels)
        # The logistics are centred on a linear prediction from the integers above and to the left.
        self.above = nn.Conv2d(channels, channels, (1, 3), bias=False)
        self.left = nn.Conv2d(channels, channels, 1, bias=False)
        for convolution, column in ((self.above, 1), (self.left, 0)):
            nn.init.zeros_(convolution.weight)
            convolution.weight.data[:, :, 0, column] = torch.eye(channels) / (2 * DAMPING)

    def predict(self, values: Tensor) -> Tensor:
        """A linear prediction of each integer from its neighbours above and left, scaled."""
        values = DAMPING * values
        above = self.above(F.pad(values, (1, 1, 1, 0))[:, :, :-1])
        return above + self.left(F.pad(values, (1, 0, 0, 0))[:, :, :, :-1])

    def head(
        self, context: Tensor, centre: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and log-scales, each (B, C, h, w, MIXTURES).

        Args:
            context: (B, C HIDDEN, h, w), of the body.
            centre: (B, C, h, w), the linear prediction.
            values: (B, C, h, w), scaled; turn c reads those before c.
        """
        earlier = F.conv2d(GAIN * values, self.earlier.weight * self.mask)
        raw = self.output(F.relu(context + earlier)).float()  # (B, 3 C M, h, w)
        raw = raw.unflatten(1, (self.channels, 3, MIXTURES))  # (B, C, 3, M, h, w)
        logits, means, log_scales = raw.movedim(3, -1).unbind(2)
        spread = torch.linspace(-1.0, 1.0, MIXTURES, device=raw.device)
        return logits, DAMPING * means + centre[..., None], log_scales + spread - 2.5

    def nats(self, values: Tensor) -> Tensor:
        """-log p(z) of scaled values (B, C, h, w), (B,); smooth in them."""
        context = self.context(self.body(GAIN * values))
        with torch.autocast(values.device.type, enabled=False):
            centre = self.predict(values)
        logits, means, log_scales = self.head(context, centre, values)
        with torch.autocast(values.device.type, enabled=False):
            logs = mixture_log_probability(values, logits, means, log_scales, self.levels)
        return -logs.flatten(1).sum(dim=1)

    @torch.no_grad()
    def sample(self, count: int, side: int, device: torch.device) -> Tensor:
        """Draw scaled values (count, C, side, side)."""
        values = torch.zeros(count, self.channels, side, side, device=device)
        for row in range(side):
            for column in range(side):
                seen, place = values[:, :, : row + 1], (..., slice(row, row + 1), [column])
                context = self.context(self.body(GAIN * seen)[place])
                centre = self.predict(seen)[place]
                for turn in range(self.channels):
                    logits, means, log_scales = (
                        x[:, turn, 0, 0] for x in self.head(context, centre, values[place])
                    )
                    drawn = sample_values(logits, means, log_scales, self.levels)
                    values[:, turn, row, column] = scale_values(drawn, self.levels)
        return values


class IntegerVAE(CodeModel):
    """Encoder, rounding, decoder of four passes, autoregressive prior, all trained by the bound."""

    def __init__(self, config: ImageModelConfig, image_size: int) -> None:
        super().__init__(config, image_size)
        self.side = grid_side(config, image_size)
        self.encoder = ImageEncoder(config.autoencoder, config.latent_dim)
        self.encoder.output.weight.data.mul_(0.1)
        # At the start the latents are a coarse image, which the first pass turns into pixels.
        start = colours(config.latent_dim)
        self.block = nn.Conv2d(3, config.latent_dim, 2, stride=2, bias=False)
        nn.init.zeros_(self.block.weight)
        self.block.weight.data[:, :, 0, 0] = start
        self.decoder = BlockwiseDecoder(config.autoencoder, torch.linalg.pinv(start) / GAIN)
        self.prior = IntegerPrior(config.prior, config.latent_dim, config.levels)

    @property
    def codebook_size(self) -> int:
        """L, the number of values of an integer."""
        return self.config.levels

    def forward(self, images: Tensor) -> Losses:
        """Reconstruction and rate."""
        values = self._values(images)
        rate = self.prior.nats(values)
        reconstruction = self.decoder.nats(GAIN * values, images)
        terms = {"reconstruction": reconstruction, "rate": rate}
        return self.losses(len(images), terms, self.discount(rate))

    def _values(self, images: Tensor) -> Tensor:
        """The rounded latents, scaled to [-1, 1]: (B, C, h, w) fp32, straight through."""
        half = (self.config.levels - 1) / 2
        y = GAIN * self.encoder(images).float() + half * self.block(scale_values(images, 256))
        y = y.clamp(-half, half)
        return (y + (y.round() - y).detach()) / half

    def encode(self, images: Tensor) -> Tensor:
        """The integers (B, h, w, C) in 0 .. L - 1."""
        half = (self.config.levels - 1) / 2
        return (self._values(images) * half + half).round().long().permute(0, 2, 3, 1)

    def reconstruct(self, codes: Tensor) -> Tensor:
        """Decode pass after pass, each taking its expected pixels: (B, 3, H, W) uint8."""
        return self.decoder.emit(GAIN * self.scaled(codes), expected_pixels)

    def scaled(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w, C) as the prior reads them: (B, C, h, w) in [-1, 1]."""
        return scale_values(codes.permute(0, 3, 1, 2), self.config.levels)

    def nats(self, codes: Tensor, images: Tensor) -> Tensor:
        """-log p(x | z) of images (B, 3, H, W) uint8 given `codes`, (B,)."""
        return self.decoder.nats(GAIN * self.scaled(codes), images)

    def bound(self, images: Tensor) -> Bound:
        """-log p(x | z) and -log p(z)."""
        codes = self.encode(images)
        return Bound(
            reconstruction=self.nats(codes, images),
            rate=self.prior.nats(self.scaled(codes)),
            rate_uniform=uniform_nats(codes, self.codebook_size),
        )

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Draw integers from the prior, then pixels in four passes."""
        values = self.prior.sample(count, self.side, self.device)
        return self.decoder.emit(GAIN * values, sample_pixels)
