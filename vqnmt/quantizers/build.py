"""From the settings to the quantizer."""

from vqnmt.quantizers.base import Quantizer
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.ema import EMAQuantizer, HardEMQuantizer
from vqnmt.quantizers.gradient import GradientQuantizer
from vqnmt.quantizers.soft_em import SoftEMQuantizer
from vqnmt.quantizers.vector_quantizer import VectorQuantizer


def build_quantizer(config: QuantizerConfig, dim: int) -> Quantizer:
    """Build the quantizer that `config.name` names.

    Args:
        config: The settings.
        dim: d, the size of the encoder's vectors.
    """
    classes: dict[str, type[VectorQuantizer]] = {
        "gradient": GradientQuantizer,
        "ema": EMAQuantizer,
        "hard_em": HardEMQuantizer,
        "soft_em": SoftEMQuantizer,
    }
    return classes[config.name](config, dim)
