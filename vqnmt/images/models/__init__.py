"""Image models: VQ-VAEs, Gaussian VAE, rounded latents, and a Transformer on pixels."""

from vqnmt.images.models.base import AveragedWeights, Bound, CodeModel, ImageModel
from vqnmt.images.models.blockwise_vqvae import BlockwiseVQVAE
from vqnmt.images.models.config import AutoencoderConfig, ImageModelConfig, PriorConfig
from vqnmt.images.models.integers import IntegerVAE
from vqnmt.images.models.pixels import ImageTransformer
from vqnmt.images.models.pretrained import (
    MODEL_FILES,
    build_image_model,
    load_image_model,
    save_image_model,
)
from vqnmt.images.models.vae import GaussianVAE
from vqnmt.images.models.vqvae import VQVAE

__all__ = [
    "MODEL_FILES",
    "VQVAE",
    "AutoencoderConfig",
    "AveragedWeights",
    "BlockwiseVQVAE",
    "Bound",
    "CodeModel",
    "GaussianVAE",
    "ImageModel",
    "ImageModelConfig",
    "ImageTransformer",
    "IntegerVAE",
    "PriorConfig",
    "build_image_model",
    "load_image_model",
    "save_image_model",
]
