"""The translation models: pure modules that know nothing of files, devices or processes."""

from vqnmt.models.autoregressive import AutoregressiveConfig, AutoregressiveTransformer
from vqnmt.models.latent import LatentConfig, LatentTransformer
from vqnmt.models.losses import Losses

__all__ = [
    "AutoregressiveConfig",
    "AutoregressiveTransformer",
    "LatentConfig",
    "LatentTransformer",
    "Losses",
]
