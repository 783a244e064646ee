"""Image models of tiny dimensions."""

from collections.abc import Callable

import pytest
import torch

from tests.quantizers.fitting import fitting_config
from vqnmt.images.models import (
    AutoencoderConfig,
    ImageModel,
    ImageModelConfig,
    PriorConfig,
    build_image_model,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def make_model() -> Callable[..., ImageModel]:
    """Return a function that builds a model of 4x4 images with 2x2 latents."""

    def make(
        kind: str,
        size: int = 4,
        *,
        quantizer: str = "ema",
        codebook_size: int = 2,
        prior: str = "pixelcnn",
        joint: bool = False,
        **further: object,
    ) -> ImageModel:
        torch.manual_seed(0)
        config = ImageModelConfig(
            kind=kind,
            autoencoder=AutoencoderConfig(width=8, blocks=1, pixel_width=8, mixtures=2),
            quantizer=fitting_config(
                name=quantizer, codebook_size=codebook_size, decay=0.9, initialisation="normal"
            ),
            prior=PriorConfig(name=prior, width=8, layers=2, heads=2, joint=joint, dropout=0.0),
            **{"latent_dim": 4, "codes": 1, **further},  # type: ignore[arg-type]
        )
        return build_image_model(config, size)

    return make


@pytest.fixture
def images() -> torch.Tensor:
    """Three smooth images (3, 3, 4, 4) uint8."""
    return smooth_images(3, corners=2, side=4)


def smooth_images(count: int, corners: int, side: int) -> torch.Tensor:
    """Draw images (count, 3, side, side) uint8 that lie smoothly between corners x corners ones."""
    torch.manual_seed(5)
    drawn = torch.rand(count, 3, corners, corners)
    size = (side, side)
    smooth = torch.nn.functional.interpolate(drawn, size, mode="bilinear", align_corners=True)
    return (255 * smooth).round().to(torch.uint8)
