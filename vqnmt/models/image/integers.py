"""A model of rounded latents, trained for rate and reconstruction at once: `best`.

The bound of any deterministic code, -log p(x | z) - log p(z), is itself the training loss. That
needs a rate with a gradient in z. So a code is an integer, as in learnt compression (Ballé et al.
2017; Theis et al. 2017): z = round(y), passed straight through, and p(z) is a discretised mixture
of logistics, smooth in z. The encoder learns to say only what pays: a bit of code that does not
save a bit of reconstruction is not written.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.layers.convolution2d import CausalConvolutions
from vqnmt.layers.logistics import (
    mixture_log_probability,
    pixel_nats,
    sample_pixels,
    sample_values,
    scale_values,
)
from vqnmt.models.image.autoencoder import ImageDecoder, ImageEncoder
from vqnmt.models.image.base import Bound, CodeModel
from vqnmt.models.image.config import ImageModelConfig, PriorConfig
from vqnmt.models.image.vqvae import grid_side
from vqnmt.models.losses import Losses

# Logistics in the prior of each integer, and hidden units a turn of its head.
MIXTURES = 3
HIDDEN = 24
# Spreads the latents of a fresh encoder over a few integers.
GAIN = 4.0


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
        # One small network for each turn c: it reads the body and the integers before c.
        self.context = nn.Conv2d(config.width, channels * HIDDEN, 1)
        self.earlier = nn.Conv2d(channels, channels * HIDDEN, 1, bias=False)
        turns = torch.arange(channels)
        mask = turns[None, :] < turns.repeat_interleave(HIDDEN)[:, None]  # (C H, C)
        self.register_buffer("mask", mask.float()[:, :, None, None], persistent=False)
        self.output = nn.Conv2d(channels * HIDDEN, channels * 3 * MIXTURES, 1, groups=channels)

    def head(self, context: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and log-scales, each (B, C, h, w, MIXTURES).

        Args:
            context: (B, C HIDDEN, h, w), of the body.
            values: (B, C, h, w), scaled; turn c reads those before c.
        """
        earlier = F.conv2d(values, self.earlier.weight * self.mask)
        raw = self.output(F.relu(context + earlier)).float()  # (B, 3 C M, h, w)
        raw = raw.unflatten(1, (self.channels, 3, MIXTURES))  # (B, C, 3, M, h, w)
        logits, means, log_scales = raw.movedim(3, -1).unbind(2)
        spread = torch.linspace(-0.2, 0.2, MIXTURES, device=raw.device)
        return logits, means + spread, log_scales - 2.0

    def nats(self, values: Tensor) -> Tensor:
        """-log p(z) of scaled values (B, C, h, w), (B,); smooth in them."""
        inputs = values * self._gain()
        logits, means, log_scales = self.head(self.context(self.body(inputs)), inputs)
        with torch.autocast(values.device.type, enabled=False):
            logs = mixture_log_probability(values, logits, means, log_scales, self.levels)
        return -logs.flatten(1).sum(dim=1)

    def _gain(self) -> float:
        """Brings neighbouring integers a few tenths apart."""
        return self.levels / 8

    @torch.no_grad()
    def sample(self, count: int, side: int, device: torch.device) -> Tensor:
        """Draw scaled values (count, C, side, side)."""
        values = torch.zeros(count, self.channels, side, side, device=device)
        for row in range(side):
            for column in range(side):
                body = self.body(values[:, :, : row + 1] * self._gain())
                context = self.context(body[:, :, row : row + 1, column : column + 1])
                for turn in range(self.channels):
                    here = values[:, :, row : row + 1, column : column + 1]
                    logits, means, log_scales = (
                        x[:, turn, 0, 0] for x in self.head(context, here * self._gain())
                    )
                    drawn = sample_values(logits, means, log_scales, self.levels)
                    values[:, turn, row, column] = scale_values(drawn, self.levels)
        return values


class IntegerVAE(CodeModel):
    """Encoder, rounding, parallel decoder, autoregressive prior, all trained by the bound."""

    def __init__(self, config: ImageModelConfig, image_size: int) -> None:
        super().__init__(config, image_size)
        self.side = grid_side(config, image_size)
        self.encoder = ImageEncoder(config.autoencoder, config.latent_dim)
        self.decoder = ImageDecoder(config.autoencoder, config.latent_dim)
        self.prior = IntegerPrior(config.prior, config.latent_dim, config.levels)

    @property
    def codebook_size(self) -> int:
        """L, the number of values of an integer."""
        return self.config.levels

    def forward(self, images: Tensor) -> Losses:
        """Reconstruction and rate."""
        values = self._values(images)
        rate = self.prior.nats(values)
        terms = {"reconstruction": pixel_nats(self._decode_values(values), images), "rate": rate}
        return self.losses(len(images), terms, self.discount(rate))

    def _values(self, images: Tensor) -> Tensor:
        """The rounded latents, scaled to [-1, 1]: (B, C, h, w) fp32, straight through."""
        half = (self.config.levels - 1) / 2
        y = (GAIN * self.encoder(images).float()).clamp(-half, half)
        return (y + (y.round() - y).detach()) / half

    def _decode_values(self, values: Tensor) -> Tensor:
        return self.decoder(values * ((self.config.levels - 1) / 2))

    def encode(self, images: Tensor) -> Tensor:
        """The integers (B, h, w, C) in 0 .. L - 1."""
        half = (self.config.levels - 1) / 2
        return (self._values(images) * half + half).round().long().permute(0, 2, 3, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Parameters (B, 10 M, H, W)."""
        return self._decode_values(self.scaled(codes))

    def scaled(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w, C) as the prior reads them: (B, C, h, w) in [-1, 1]."""
        return scale_values(codes.permute(0, 3, 1, 2), self.config.levels)

    def bound(self, images: Tensor) -> Bound:
        """-log p(x | z) and -log p(z)."""
        codes = self.encode(images)
        return Bound(
            reconstruction=pixel_nats(self.decode(codes), images),
            rate=self.prior.nats(self.scaled(codes)),
            rate_uniform=self.uniform_nats(codes),
        )

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Draw integers from the prior, then pixels."""
        values = self.prior.sample(count, self.side, self.device)
        return sample_pixels(self._decode_values(values))
