"""The convolutional encoder of all models with latents, and the decoder of one parallel pass.

Images are (B, 3, H, W) uint8, feature maps (B, C, H, W), grids of latents (B, C, h, w) with
h = H / 2^halvings.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.images.models.config import AutoencoderConfig, ImageModelConfig
from vqnmt.images.models.logistics import PARAMETERS, initial_parameters, scale_values
from vqnmt.layers import Dropout


class ResidualBlock2d(nn.Module):
    """x + f(x), where f is ReLU, 3x3 convolution, ReLU, dropout, 1x1 convolution.

    The last convolution starts at 0, so that a deep stack starts as the identity and needs no
    normalisation.
    """

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.Conv2d(dim, dim, 3, padding=1)
        self.outer = nn.Conv2d(dim, dim, 1)
        self.dropout = Dropout(dropout)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.outer(self.dropout(F.relu(self.inner(F.relu(x)))))


class Halve(nn.Module):
    """A 4x4 convolution of stride 2: (B, C, H, W) to (B, C', H / 2, W / 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Halve both sides."""
        return self.convolution(x)


class Double(nn.Module):
    """A transposed convolution whose width equals its stride: one product and a shuffle."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, 4 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', 2 H, 2 W)."""
        return F.pixel_shuffle(self.convolution(x), 2)


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
        """Map `latents` (B, C, h, w) to (B, 10 M, H, W), see `logistics.pixel_nats`."""
        x = self.blocks(self.input(latents))
        for doubling in self.doublings:
            x = doubling(F.relu(x))
        return self.output(F.relu(self.pixel_blocks(x)))


def grid_side(config: ImageModelConfig, image_size: int) -> int:
    """The side of the grid of latents.

    Raises:
        VqnmtError: The images' side is no multiple of 2^halvings.
    """
    factor = 2**config.autoencoder.halvings
    if image_size % factor:
        raise VqnmtError(
            f"data.size is {image_size}; it must be a multiple of {factor}, because "
            f"model.autoencoder.halvings is {config.autoencoder.halvings}"
        )
    return image_size // factor
