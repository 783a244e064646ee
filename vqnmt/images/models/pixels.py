"""An autoregressive Transformer on pixels (after Parmar et al. 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.images.models.base import Bound, ImageModel
from vqnmt.images.models.config import ImageModelConfig
from vqnmt.images.models.logistics import (
    PARAMETERS,
    initial_parameters,
    pixel_nats,
    sample_pixels,
    scale_values,
)
from vqnmt.layers import Decoder, DecoderState, Losses, TransformerConfig


class ImageTransformer(ImageModel):
    """Models pixels in raster order, and the three channels of a pixel by the coupled likelihood.

    A position reads its causal neighbourhood by a convolution, then all earlier positions by
    attention over the whole image (the paper's is local; 1,024 positions are few enough).
    """

    def __init__(self, config: ImageModelConfig, image_size: int) -> None:
        super().__init__(config, image_size)
        prior = config.prior
        size = TransformerConfig(
            dim=prior.width,
            feedforward=4 * prior.width,
            heads=prior.heads,
            dropout=prior.dropout,
        )
        self.above = nn.Conv2d(3, prior.width, (3, 7))
        self.left = nn.Conv2d(3, prior.width, (1, 3))
        self.places = nn.ParameterList(
            [nn.Parameter(torch.randn(image_size, prior.width) * 0.1) for _ in range(2)]
        )
        self.memory = nn.Parameter(torch.randn(prior.width))
        self.decoder = Decoder(size, prior.layers)
        self.output = nn.Linear(prior.width, PARAMETERS * config.autoencoder.mixtures)
        nn.init.normal_(self.output.weight, std=0.01)
        self.output.bias.data.copy_(initial_parameters(config.autoencoder.mixtures))

    def embed(self, images: Tensor) -> Tensor:
        """Embed causal neighbourhood and place of pixels (B, 3, H, W) uint8 to (B, H W, width)."""
        row, column = self.places
        return self._before(images).flatten(2).mT + (row[:, None] + column).flatten(0, 1)

    def _before(self, images: Tensor) -> Tensor:
        """The causal neighbourhood of each pixel: (B, 3, H, W) uint8 to (B, width, H, W)."""
        x = scale_values(images, 256)
        above = self.above(F.pad(x, (3, 3, 3, 0))[:, :, :-1])
        return above + self.left(F.pad(x, (3, 0, 0, 0))[:, :, :, :-1])

    def _start(self, count: int) -> DecoderState:
        memory = self.memory.expand(count, 1, -1)
        return self.decoder.start(memory, memory.new_ones(count, 1, dtype=torch.bool))

    def parameters_of(self, images: Tensor) -> Tensor:
        """Parameters (B, 10 M, H, W), those of a pixel from the pixels before it."""
        state = self._start(len(images))
        hidden = self.decoder(self.embed(images), state, mask=None, causal=True)
        return self.output(hidden).mT.unflatten(2, images.shape[2:])

    def bound(self, images: Tensor) -> Bound:
        """-log p(x), exact."""
        nats = pixel_nats(self.parameters_of(images), images)
        return Bound(reconstruction=nats, rate=torch.zeros_like(nats))

    def forward(self, images: Tensor) -> Losses:
        """-log p(x)."""
        return self.losses(len(images), {"reconstruction": self.bound(images).reconstruction})

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Draw pixel by pixel with the decoder's cache."""
        size = self.image_size
        images = torch.zeros(count, 3, size, size, dtype=torch.uint8, device=self.device)
        state = self._start(count)
        for row in range(size):
            for column in range(size):
                # The neighbourhood reaches three rows up; earlier pixels are in the cache.
                before = self._before(images[:, :, max(row - 3, 0) : row + 1])[:, :, -1, column]
                embedded = before + self.places[0][row] + self.places[1][column]
                found = self.output(self.decoder.step(embedded, state))
                pixel = sample_pixels(found[:, :, None, None])  # (count, 3, 1, 1)
                images[:, :, row, column] = pixel[:, :, 0, 0]
        return images
