from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.quantizers.fitting import fitting_config
from vqnmt.layers import TransformerConfig
from vqnmt.models import (
    AutoregressiveConfig,
    AutoregressiveTransformer,
    LatentConfig,
    LatentTransformer,
)

VOCABULARY = 12


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def size() -> TransformerConfig:
    return TransformerConfig(dim=16, feedforward=24, heads=2, dropout=0.0)


@pytest.fixture
def make_autoregressive(size) -> Callable[..., AutoregressiveTransformer]:
    """Build a tiny model: `make_autoregressive(encoder_layers=1)`."""

    def make(vocabulary_size: int = VOCABULARY, **settings) -> AutoregressiveTransformer:
        defaults = {"transformer": size}
        layers = {"encoder_layers": 1, "decoder_layers": 2}
        return AutoregressiveTransformer(
            AutoregressiveConfig(**(defaults | layers | settings)), vocabulary_size
        )

    return make


@pytest.fixture
def make_latent(size) -> Callable[..., LatentTransformer]:
    """Build a tiny model: `make_latent(compression=2, quantizer={"name": "ema"})`."""

    def make(quantizer: dict | None = None, **settings) -> LatentTransformer:
        bottleneck = {"codebook_size": 8, "initialisation": "normal", "restart_threshold": 0.0}
        defaults = {
            "transformer": size,
            "quantizer": fitting_config(**(bottleneck | (quantizer or {}))),
            "encoder_layers": 1,
            "decoder_layers": 1,
            "compression": 1,
            "continuous_start": 0.0,
            "code_noise": 0.0,
            "residual_convolutions": 3,
        }
        if settings.get("output") == "cross_entropy":
            defaults["upsampling"] = 1
        return LatentTransformer(LatentConfig(**(defaults | settings)), VOCABULARY)

    return make


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor]:
    """Four sentence pairs of different lengths, (4, 6) and (4, 7)."""
    sources, targets = (5, 2, 6, 1), (4, 7, 1, 3)
    source = torch.randint(4, VOCABULARY, (4, 6)) * (torch.arange(6) < torch.tensor([sources]).T)
    target = torch.randint(4, VOCABULARY, (4, 7)) * (torch.arange(7) < torch.tensor([targets]).T)
    return source, target
