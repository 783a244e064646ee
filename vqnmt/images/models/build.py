"""From the settings to the image model."""

from vqnmt.errors import VqnmtError
from vqnmt.images.models.base import ImageModel
from vqnmt.images.models.config import ImageModelConfig
from vqnmt.images.models.integers import IntegerVAE
from vqnmt.images.models.pixels import ImageTransformer
from vqnmt.images.models.vae import GaussianVAE
from vqnmt.images.models.vqvae import VQVAE

# Pixels of a side, also where a model folder's config.json asks for more.
_LARGEST = 4096


def build_image_model(config: ImageModelConfig, image_size: int) -> ImageModel:
    """Build the model that `config.kind` names, for images of `image_size` squared.

    Raises:
        VqnmtError: The size does not fit the settings.
    """
    if not 2 <= image_size <= _LARGEST:
        raise VqnmtError(f"image_size is {image_size}; it must lie between 2 and {_LARGEST}")
    kinds: dict[str, type[ImageModel]] = {
        "vqvae": VQVAE,
        "vae": GaussianVAE,
        "integers": IntegerVAE,
        "pixels": ImageTransformer,
    }
    return kinds[config.kind](config, image_size)
