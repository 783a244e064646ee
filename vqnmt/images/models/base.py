"""The interface of image models (bound -log p(x), draw images), and averages of their weights."""

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vqnmt.images.models.config import ImageModelConfig
from vqnmt.layers import Losses


@dataclass(slots=True)
class Bound:
    """-log p(x) <= reconstruction + rate, each (B,) fp32 in nats an image."""

    reconstruction: Tensor
    """-log p(x | z); of a model without latents, all of -log p(x)."""
    rate: Tensor
    """-log p(z) of the codes, or KL(q(z | x) || p(z)) of Gaussian latents."""
    rate_uniform: Tensor | None = None
    """-log p(z) under the uniform prior; None where there are no codes."""


class ImageModel(nn.Module, ABC):
    """A model of images (B, 3, H, W) uint8.

    Args:
        config: Its size.
        image_size: H = W.
    """

    def __init__(self, config: ImageModelConfig, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size
        self.rate_weight = 1.0

    @abstractmethod
    def forward(self, images: Tensor) -> Losses:
        """Training losses; the total is in nats a dimension, the terms in bits a dimension."""

    @abstractmethod
    def bound(self, images: Tensor) -> Bound:
        """Bound -log p(x) from above as in evaluation: codes by argmax."""

    @abstractmethod
    def sample(self, count: int) -> Tensor:
        """Draw images (count, 3, H, W) uint8 by ancestral sampling."""

    def set_progress(self, fraction: float) -> None:
        """Set annealed settings; `fraction` of training done, 0 to 1."""
        warmup = self.config.rate_warmup
        self.rate_weight = min(fraction / warmup, 1.0) if warmup else 1.0

    @property
    def dimensions(self) -> int:
        """Dimensions of an image, 3 H W."""
        return 3 * self.image_size**2

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def discount(self, rate: Tensor) -> Tensor:
        """Change of the loss by a weight of the rate (B,) below 1, in nats a dimension."""
        return (self.rate_weight - 1) * rate.mean() / self.dimensions

    def losses(self, images: int, terms: dict[str, Tensor], extra: Tensor | float = 0.0) -> Losses:
        """Put a training loss together.

        Args:
            images: How many there are in the batch.
            terms: Parts of the bound by name, (B,) nats an image.
            extra: A scalar that is minimised in addition to the bound.
        """
        means = {name: value.mean() / self.dimensions for name, value in terms.items()}
        total = torch.stack(list(means.values())).sum()
        bits = {name: value.detach() / math.log(2) for name, value in means.items()}
        return Losses(total + extra, images, bits)


class CodeModel(ImageModel):
    """A model whose latents are codes (B, h, w, n) int64."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """The codes (B, h, w, n) of `images`, by argmax."""

    @abstractmethod
    def reconstruct(self, codes: Tensor) -> Tensor:
        """Decode `codes` to images (B, 3, H, W) uint8 of expected pixels."""

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """K: each of the n codes is in 0 .. K - 1."""

    @property
    def codebooks(self) -> int:
        """How many codebooks of K codes the n codes of a position take turns in."""
        return 1


def uniform_nats(codes: Tensor, codebook_size: int) -> Tensor:
    """-log p(z) of `codes` (B, ...) under the uniform prior over K codes, (B,)."""
    return torch.full(
        codes.shape[:1], codes[0].numel() * math.log(codebook_size), device=codes.device
    )


class AveragedWeights(nn.Module):
    """Trains `model` and keeps an exponential moving average of its weights.

    At the n-th step the average keeps a share of min(decay, (1 + n) / (10 + n)), so that early
    steps lose their influence soon. Buffers, such as a codebook's counts and vectors, are copied
    instead of averaged.

    Args:
        model: The model to train; must have the same weights on every process.
        decay: Share of the average that a step keeps, 0 to below 1; 0 follows at once.
    """

    steps: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.model, self.decay = model, decay
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Tensor) -> Losses:
        """Training losses of the model itself."""
        losses: Losses = self.model(batch)
        return losses

    def set_progress(self, fraction: float) -> None:
        """Pass on `fraction` of training done, 0 to 1."""
        found = getattr(self.model, "set_progress", None)
        if callable(found):
            found(fraction)

    @torch.no_grad()
    def after_optimizer_step(self) -> None:
        """Finish the model's step, then update the average."""
        found = getattr(self.model, "after_optimizer_step", None)
        if callable(found):
            found()
        self.steps += 1
        kept = min(self.decay, (1 + int(self.steps)) / (10 + int(self.steps)))
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.model.parameters()), 1 - kept
        )
        # Only saved buffers are copied; others, such as a table of positions, grow on their own.
        parameters = {name for name, _ in self.model.named_parameters()}
        mine = self.average.state_dict()
        for name, its in self.model.state_dict().items():
            if name not in parameters:
                mine[name].copy_(its)
