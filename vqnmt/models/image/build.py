"""From the settings to the image model."""

from vqnmt.models.image.base import ImageModel
from vqnmt.models.image.config import ImageModelConfig
from vqnmt.models.image.integers import IntegerVAE
from vqnmt.models.image.pixels import ImageTransformer
from vqnmt.models.image.vae import GaussianVAE
from vqnmt.models.image.vqvae import VQVAE


def build_image_model(config: ImageModelConfig, image_size: int) -> ImageModel:
    """Build the model that `config.kind` names, for images of `image_size` squared.

    Raises:
        VqnmtError: The size does not fit the settings.
    """
    kinds: dict[str, type[ImageModel]] = {
        "vqvae": VQVAE,
        "vae": GaussianVAE,
        "integers": IntegerVAE,
        "pixels": ImageTransformer,
    }
    return kinds[config.kind](config, image_size)
