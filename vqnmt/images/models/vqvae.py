"""The VQ-VAE on images (van den Oord et al. 2017): any quantizer, a prior over its codes."""

import torch
from torch import Tensor

from vqnmt.images.models.autoencoder import ImageDecoder, ImageEncoder, grid_side
from vqnmt.images.models.base import Bound, CodeModel, uniform_nats
from vqnmt.images.models.config import ImageModelConfig
from vqnmt.images.models.logistics import expected_pixels, pixel_nats, sample_pixels
from vqnmt.images.models.priors import build_prior
from vqnmt.layers import Losses
from vqnmt.quantizers import build_quantizer


class VQVAE(CodeModel):
    """Encoder, quantizer, parallel decoder and prior.

    Each position of the grid has n vectors of dimension d, quantized with one codebook. The bound
    is that of van den Oord et al. 2017 with a learnt prior:

        -log p(x) <= -log p(x | z*) - log p(z*),   z* = argmin_j ||z_e(x) - e_j||.

    Args:
        config: The settings; `prior.joint` trains the prior along with the model.
        image_size: H = W, a multiple of 2^halvings.
    """

    def __init__(self, config: ImageModelConfig, image_size: int) -> None:
        super().__init__(config, image_size)
        side = grid_side(config, image_size)
        channels = config.codes * config.latent_dim
        self.encoder = ImageEncoder(config.autoencoder, channels)
        self.norm = torch.nn.LayerNorm(config.latent_dim)
        self.quantizer = build_quantizer(config.quantizer, config.latent_dim)
        self.decoder = ImageDecoder(config.autoencoder, channels)
        self.prior = build_prior(config.prior, self.codebook_size, (side, side, config.codes))
        self.prior.requires_grad_(config.prior.joint)

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.quantizer.codebook_size

    def forward(self, images: Tensor) -> Losses:
        """Reconstruction, the quantizer's losses and, if it is joint, the prior's."""
        output = self.quantizer(self.vectors(images))
        parameters = self._decode_vectors(output.quantized)
        terms = {"reconstruction": pixel_nats(parameters, images)}
        if self.config.prior.joint:
            terms["rate"] = self.prior.nats(output.codes)
        extra = sum(output.losses.values(), torch.zeros((), device=images.device))
        losses = self.losses(len(images), terms, extra)
        losses.terms |= {name: value.detach() for name, value in output.losses.items()}
        losses.terms |= output.statistics
        return losses

    def vectors(self, images: Tensor) -> Tensor:
        """z_e: (B, h, w, n, d)."""
        z_e = self.encoder(images).permute(0, 2, 3, 1)  # (B, h, w, n d)
        return self.norm(z_e.unflatten(-1, (self.config.codes, self.config.latent_dim)))

    def _decode_vectors(self, vectors: Tensor) -> Tensor:
        return self.decoder(vectors.flatten(3).permute(0, 3, 1, 2))

    def encode(self, images: Tensor) -> Tensor:
        """The nearest codes (B, h, w, n)."""
        return self.quantizer.nearest(self.vectors(images))

    def decode(self, codes: Tensor) -> Tensor:
        """Parameters (B, 10 M, H, W) of the likelihood of all pixels given `codes`."""
        return self._decode_vectors(self.quantizer.codes_to_vectors(codes))

    def reconstruct(self, codes: Tensor) -> Tensor:
        """Take the expected pixels (B, 3, H, W) uint8 given `codes`."""
        return expected_pixels(self.decode(codes))

    def bound(self, images: Tensor) -> Bound:
        """-log p(x | z*) and -log p(z*)."""
        codes = self.encode(images)
        return Bound(
            reconstruction=pixel_nats(self.decode(codes), images),
            rate=self.prior.nats(codes),
            rate_uniform=uniform_nats(codes, self.codebook_size),
        )

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Draw codes from the prior, then pixels."""
        return sample_pixels(self.decode(self.prior.sample(count, self.device)))

    def set_progress(self, fraction: float) -> None:
        """Set the quantizer's annealed settings; `fraction` of training done, 0 to 1."""
        self.quantizer.set_progress(fraction)

    def after_optimizer_step(self) -> None:
        """Move the codebook."""
        self.quantizer.step()
