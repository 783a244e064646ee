"""The convolutional encoder of all models with latents, and the decoder of one parallel pass.

Images are (B, 3, H, W) uint8, grids of latents (B, C, h, w) with h = H / 2^halvings.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.images.models.config import AutoencoderConfig
from vqnmt.images.models.convolution2d import Double, Halve, ResidualBlock2d
from vqnmt.images.models.logistics import PARAMETERS, initial_parameters, scale_values


class ImageEncoder(nn.Module):
    """Strided convolutions, residual blocks and a 1x1 convolution to `outputs` channels."""

    def __init__(self, config: AutoencoderConfig, outputs: int) -> None:
        super().__init__()
        self.halvings = nn.ModuleList(
            [Halve(config.width if i else 3, config.width) for i in range(config.halvings)]
        )
        self.blocks = nn.Sequential(
            *[ResidualBlock2d(config.width, config.dropout) for _ in range(config.blocks)]
        )
        self.output = nn.Conv2d(config.width, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map `images` (B, 3, H, W) uint8 to (B, outputs, h, w)."""
        x = scale_values(images, 256)
        for index, halve in enumerate(self.halvings):
            x = halve(F.relu(x) if index else x)
        return self.output(F.relu(self.blocks(x)))


class ImageDecoder(nn.Module):
    """Residual blocks, doublings, and the parameters of the likelihood of all pixels at once."""

    def __init__(self, config: AutoencoderConfig, inputs: int) -> None:
        super().__init__()
        self.input = nn.Conv2d(inputs, config.width, 3, padding=1)
        self.blocks = nn.Sequential(
            *[ResidualBlock2d(config.width, config.dropout) for _ in range(config.blocks)]
        )
        last = config.halvings - 1
        self.doublings = nn.ModuleList(
            [
                Double(config.width, config.pixel_width if i == last else config.width)
                for i in range(config.halvings)
            ]
        )
        self.pixel_blocks = nn.Sequential(
            *[
                ResidualBlock2d(config.pixel_width, config.dropout)
                for _ in range(config.pixel_blocks)
            ]
        )
        self.output = nn.Conv2d(config.pixel_width, PARAMETERS * config.mixtures, 3, padding=1)
        nn.init.normal_(self.output.weight, std=0.01)
        self.output.bias.data.copy_(initial_parameters(config.mixtures))  # type: ignore

    def forward(self, latents: Tensor) -> Tensor:
        """Map `latents` (B, C, h, w) to (B, 10 M, H, W), see `layers.logistics.pixel_nats`."""
        x = self.blocks(self.input(latents))
        for doubling in self.doublings:
            x = doubling(F.relu(x))
        return self.output(F.relu(self.pixel_blocks(x)))
