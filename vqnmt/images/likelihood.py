"""Log perplexity of image models in bits per dimension.

    bits/dim = [-log p(x | z) - log p(z)] / (3 H W ln 2),

averaged over all images; z are the codes by argmax, or a draw from a Gaussian posterior, whose
rate is then the KL (Kingma and Welling 2014). It bounds -log2 p(x) from above, and equals it for a
model without latents.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vqnmt.images.models import ImageModel
from vqnmt.progress import Progress


@dataclass(slots=True)
class BitsPerDimension:
    """Bits per dimension of each of N images, all (N,) float64."""

    reconstruction: Tensor
    rate: Tensor
    rate_uniform: Tensor | None

    @property
    def total(self) -> Tensor:
        """Reconstruction and rate together, (N,)."""
        return self.reconstruction + self.rate

    def means(self) -> dict[str, float]:
        """The figures that records hold; those of the uniform prior only where there are codes."""
        reconstruction, rate = float(self.reconstruction.mean()), float(self.rate.mean())
        found = {
            "bits_per_dim": reconstruction + rate,
            "reconstruction_bits": reconstruction,
            "rate_bits": rate,
        }
        if self.rate_uniform is not None:
            uniform = float(self.rate_uniform.mean())
            found["rate_bits_uniform"] = uniform
            found["bits_per_dim_uniform"] = reconstruction + uniform
        return found


def paired_difference(mine: Tensor, others: Tensor) -> dict[str, float]:
    """Compare the bits per dimension of two models on the same images, both (N,).

    Returns:
        The mean of the differences, its standard error, and the two-sided p of the paired test,
        whose statistic is normal for as many images as a test set has. It is about these two
        models: what another seed would change, it does not know.
    """
    gaps = mine.double() - others.double()
    mean, error = float(gaps.mean()), float(gaps.std() / math.sqrt(len(gaps)))
    p = math.erfc(abs(mean) / error / math.sqrt(2)) if error > 0 else float(mean == 0)
    return {
        "bits_per_dim_difference": mean,
        "bits_per_dim_difference_error": error,
        "bits_per_dim_difference_p": p,
    }


@torch.no_grad()
def bits_per_dimension(
    model: ImageModel, batches: Iterable[Tensor], progress: Progress | None = None
) -> BitsPerDimension:
    """Measure `model` on batches of images (B, 3, H, W) uint8, without autocast."""
    found: list[list[Tensor]] = [[], [], []]
    for images in batches:
        bound = model.bound(images.to(model.device))
        for place, nats in zip(
            found, (bound.reconstruction, bound.rate, bound.rate_uniform), strict=True
        ):
            if nats is not None:
                place.append(nats.double().cpu())
        if progress is not None:
            progress.update(len(images))
    scale = 1 / (model.dimensions * math.log(2))
    reconstruction, rate, uniform = (torch.cat(x) * scale if x else None for x in found)
    assert reconstruction is not None and rate is not None
    return BitsPerDimension(reconstruction, rate, uniform)
