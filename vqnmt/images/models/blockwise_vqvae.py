"""A VQ-VAE of residual codes whose pixels come in a few parallel passes (`system=vqvae_best`).

Each position of a coarse grid has n codes, from coarse to fine, of a residual quantizer. A gated
PixelCNN over all codes is trained along with the model, and the passes of `blockwise` decode them:

    -log p(x) <= -log p(x | z) - log p(z),    z the nearest codes,

is the training loss. A nearest code has no gradient, so for the encoder alone the rate of each code
is relaxed: with r the residual that a stage quantizes, e_j its codes, d the vectors' dimension and
s^2 the mean of (r - e_nearest)^2,

    sum_j q_j (-log p(j | earlier codes)),    q_j ~ exp(-||r - e_j||^2 / 2 s^2),

the posterior of a mixture of Gaussians of that variance. A likelier code thereby attracts vectors
between two codes, as in entropy-constrained quantization (Chou et al. 1989).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqnmt.images.models.autoencoder import ImageEncoder, grid_side
from vqnmt.images.models.base import Bound, CodeModel, uniform_nats
from vqnmt.images.models.blockwise import GAIN, BlockwiseDecoder, colours
from vqnmt.images.models.config import ImageModelConfig
from vqnmt.images.models.logistics import expected_pixels, sample_pixels, scale_values
from vqnmt.images.models.priors import PixelCNNPrior
from vqnmt.layers import Losses
from vqnmt.quantizers import ResidualQuantizer


class BlockwiseVQVAE(CodeModel):
    """Encoder, residual quantizer, decoder of 3 `halvings` + 1 passes, and prior, trained at once.

    Args:
        config: The settings.
        image_size: H = W, a multiple of 2^halvings.
    """

    def __init__(self, config: ImageModelConfig, image_size: int) -> None:
        super().__init__(config, image_size)
        side, halvings = grid_side(config, image_size), config.autoencoder.halvings
        self.encoder = ImageEncoder(config.autoencoder, config.latent_dim)
        self.encoder.output.weight.data.mul_(0.1)
        # The latents start as each block's mean colour, which the first pass turns into pixels.
        start, block = colours(config.latent_dim), 2**halvings
        self.block = nn.Conv2d(3, config.latent_dim, block, stride=block, bias=False)
        self.block.weight.data.copy_((start / block**2)[:, :, None, None])
        inverse = torch.linalg.pinv(start) / GAIN
        self.decoder = BlockwiseDecoder(config.autoencoder, inverse, halvings)
        self.quantizer = ResidualQuantizer(config.latent_dim, config.quantizer)
        shape = (side, side, self.codebooks)
        self.prior = PixelCNNPrior(config.prior, self.codebook_size, shape)

    @property
    def codebook_size(self) -> int:
        """K of each stage."""
        return self.quantizer.quantizers[0].codebook_size

    @property
    def codebooks(self) -> int:
        """n, the number of stages."""
        return len(self.quantizer.quantizers)

    def vectors(self, images: Tensor) -> Tensor:
        """z_e: (B, h, w, d)."""
        z_e = self.encoder(images).float() + GAIN * self.block(scale_values(images, 256)).float()
        return z_e.permute(0, 2, 3, 1)

    def forward(self, images: Tensor) -> Losses:
        """Reconstruction, rate and the quantizer's losses."""
        vectors = self.vectors(images)
        output = self.quantizer(vectors)
        latents = output.quantized.permute(0, 3, 1, 2)
        costs = self.costs(output.stages)
        rate = chosen(costs, output.stages)
        terms = {"reconstruction": self.decoder.nats(latents, images), "rate": rate}
        relaxed = self.relaxed_rate(vectors, output.stages, costs.detach()).mean() / self.dimensions
        extra = self.rate_weight * (relaxed - relaxed.detach()) + output.loss
        losses = self.losses(len(images), terms, extra)
        losses.terms |= {name: value.detach() for name, value in output.losses.items()}
        losses.terms |= output.statistics
        return losses

    def costs(self, codes: Tensor) -> Tensor:
        """-log p(j | earlier codes) of all codes j at each place of `codes`: (B, K, h, w, n)."""
        logits = self.prior.logits(codes).float()  # (B, K, h, w n)
        return -F.log_softmax(logits, dim=1).unflatten(3, (-1, self.codebooks))

    def relaxed_rate(self, vectors: Tensor, codes: Tensor, costs: Tensor) -> Tensor:
        """The rate (B,) with a gradient in z_e (B, h, w, d) alone, see the module."""
        with torch.autocast(vectors.device.type, enabled=False):
            total, residual = vectors.new_zeros(len(vectors)), vectors.float()
            for stage, part in enumerate(self.quantizer.quantizers):
                every = torch.arange(part.codebook_size, device=vectors.device)
                table = part.codes_to_vectors(every).detach()  # (K, d)
                code = codes[..., stage]
                # ||r||^2 is the same for all codes
                distances = table.square().sum(1) - 2 * residual @ table.T  # (B, h, w, K)
                nearest = residual - table[code]
                variance = nearest.detach().square().mean().clamp(min=1e-6)
                posterior = (-distances / (2 * variance)).softmax(dim=-1)
                cost = costs[..., stage].permute(0, 2, 3, 1)  # (B, h, w, K)
                total = total + (posterior * cost).flatten(1).sum(dim=1)
                residual = nearest
            return total

    def encode(self, images: Tensor) -> Tensor:
        """The nearest codes (B, h, w, n) of each stage."""
        return torch.stack(self.quantizer.split(self.quantizer.nearest(self.vectors(images))), -1)

    def latents(self, codes: Tensor) -> Tensor:
        """What the decoder reads of `codes`: (B, d, h, w)."""
        combined = self.quantizer.combine(codes.unbind(-1))
        return self.quantizer.codes_to_vectors(combined).permute(0, 3, 1, 2)

    def reconstruct(self, codes: Tensor) -> Tensor:
        """Decode pass after pass, each taking its expected pixels: (B, 3, H, W) uint8."""
        return self.decoder.emit(self.latents(codes), expected_pixels)

    def bound(self, images: Tensor) -> Bound:
        """-log p(x | z) and -log p(z)."""
        codes = self.encode(images)
        return Bound(
            reconstruction=self.decoder.nats(self.latents(codes), images),
            rate=self.prior.nats(codes),
            rate_uniform=uniform_nats(codes, self.codebook_size),
        )

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Draw codes from the prior, then pixels, pass after pass."""
        codes = self.prior.sample(count, self.device)
        return self.decoder.emit(self.latents(codes), sample_pixels)

    def set_progress(self, fraction: float) -> None:
        """Set annealed settings; `fraction` of training done, 0 to 1."""
        super().set_progress(fraction)
        self.quantizer.set_progress(fraction)

    def after_optimizer_step(self) -> None:
        """Move the codebooks."""
        self.quantizer.step()


def chosen(costs: Tensor, codes: Tensor) -> Tensor:
    """Sum the costs (B, K, h, w, n) of `codes` (B, h, w, n): (B,)."""
    return costs.gather(1, codes[:, None]).flatten(1).sum(dim=1)
