"""Image models: VQ-VAE, Gaussian VAE, rounded latents, and a Transformer on pixels."""

from vqnmt.models.image.averaging import AveragedWeights
from vqnmt.models.image.base import Bound, CodeModel, ImageModel
from vqnmt.models.image.build import build_image_model
from vqnmt.models.image.config import AutoencoderConfig, ImageModelConfig, PriorConfig
from vqnmt.models.image.integers import IntegerVAE
from vqnmt.models.image.pixels import ImageTransformer
from vqnmt.models.image.pretrained import MODEL_FILES, load_image_model, save_image_model
from vqnmt.models.image.vae import GaussianVAE
from vqnmt.models.image.vqvae import VQVAE

__all__ = [
    "MODEL_FILES",
    "VQVAE",
    "AutoencoderConfig",
    "AveragedWeights",
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
