"""The Gaussian VAE (Kingma and Welling 2014): reparameterisation, its KL in closed form."""

import math

import torch
from torch import Tensor

from vqnmt.images.models.autoencoder import ImageDecoder, ImageEncoder, grid_side
from vqnmt.images.models.base import Bound, ImageModel
from vqnmt.images.models.config import ImageModelConfig
from vqnmt.images.models.logistics import pixel_nats, sample_pixels
from vqnmt.layers import Losses


class GaussianVAE(ImageModel):
    """z = mu + sigma * epsilon on a grid of latents, with the standard normal as prior.

    The reconstruction term is the likelihood of the discrete pixels, so that the bound
    compares with those of the other models; a squared error would not.
    """

    def __init__(self, config: ImageModelConfig, image_size: int) -> None:
        super().__init__(config, image_size)
        self.side = grid_side(config, image_size)
        self.encoder = ImageEncoder(config.autoencoder, 2 * config.latent_dim)
        self.decoder = ImageDecoder(config.autoencoder, config.latent_dim)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and ln sigma of q(z | x), each (B, C, h, w) fp32."""
        mean, log_scale = self.encoder(images).float().chunk(2, dim=1)
        return mean, log_scale.clamp(-7, 7)

    def forward(self, images: Tensor) -> Losses:
        """Reconstruction from one draw, and the KL."""
        bound = self.bound(images)
        terms = {"reconstruction": bound.reconstruction, "rate": bound.rate}
        return self.losses(len(images), terms, self.discount(bound.rate))

    def bound(self, images: Tensor) -> Bound:
        """-E_q log p(x | z), estimated by one draw, and KL(q || p)."""
        mean, log_scale = self.posterior(images)
        z = mean + log_scale.exp() * torch.randn_like(mean)
        return Bound(pixel_nats(self.decoder(z), images), kl_to_standard_normal(mean, log_scale))

    @torch.no_grad()
    def importance_nats(self, images: Tensor, samples: int) -> Tensor:
        """-log 1/k sum_i p(x | z_i) p(z_i) / q(z_i | x), (B,) (Burda et al. 2016).

        In expectation it lies between -log p(x) and the bound, and falls as k grows.
        """
        mean, log_scale = self.posterior(images)
        weights = []
        for _ in range(samples):
            noise = torch.randn_like(mean)
            z = mean + log_scale.exp() * noise
            # ln p(z) - ln q(z | x); the normalisers 1/2 ln 2 pi cancel
            ratio = (0.5 * (noise**2 - z**2) + log_scale).flatten(1).sum(dim=1)
            weights.append(ratio - pixel_nats(self.decoder(z), images))
        return math.log(samples) - torch.logsumexp(torch.stack(weights), dim=0)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Draw latents from the prior, then pixels."""
        z = torch.randn(count, self.config.latent_dim, self.side, self.side, device=self.device)
        return sample_pixels(self.decoder(z))


def kl_to_standard_normal(mean: Tensor, log_scale: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) = -1/2 sum (1 + ln sigma^2 - mu^2 - sigma^2), (B,).

    Kingma and Welling 2014, appendix B.
    """
    terms = 1 + 2 * log_scale - mean**2 - torch.exp(2 * log_scale)
    return -0.5 * terms.flatten(1).sum(dim=1)
