"""The translation models: pure modules that know nothing of files, devices or processes."""

from vqnmt.layers import Losses
from vqnmt.models.autoregressive import AutoregressiveConfig, AutoregressiveTransformer
from vqnmt.models.fertility import FertilityConfig, FertilityTransformer
from vqnmt.models.latent import LatentConfig, LatentTransformer

__all__ = [
    "AutoregressiveConfig",
    "AutoregressiveTransformer",
    "FertilityConfig",
    "FertilityTransformer",
    "LatentConfig",
    "LatentTransformer",
    "Losses",
]
