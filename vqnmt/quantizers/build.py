"""Building a quantizer from its settings."""

import dataclasses
from collections.abc import Callable

from vqnmt.errors import VqnmtError
from vqnmt.quantizers.base import Quantizer, lasting_tensors
from vqnmt.quantizers.composite import ProductQuantizer, ResidualQuantizer
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.external import FSQQuantizer, LFQQuantizer, SimVQQuantizer
from vqnmt.quantizers.learnt import GumbelSoftmaxQuantizer, SemanticHashingQuantizer
from vqnmt.quantizers.vector_quantizers import (
    EMAQuantizer,
    GradientQuantizer,
    HardEMQuantizer,
    SoftEMQuantizer,
)


def build_quantizer(config: QuantizerConfig, dim: int) -> Quantizer:
    """Build the quantizer that `config.name` names.

    Args:
        config: The settings.
        dim: d, the size of the encoder's vectors.

    Raises:
        VqnmtError: d does not fit the settings, or a package is missing.
    """
    builders: dict[str, Callable[[QuantizerConfig, int], Quantizer]] = {
        "gradient": GradientQuantizer,
        "ema": EMAQuantizer,
        "hard_em": HardEMQuantizer,
        "soft_em": SoftEMQuantizer,
        "gumbel_softmax": GumbelSoftmaxQuantizer,
        "semhash": SemanticHashingQuantizer,
        "product": _product,
        "residual": _residual,
        "fsq": FSQQuantizer,
        "lfq": LFQQuantizer,
        "sim_vq": SimVQQuantizer,
    }
    with lasting_tensors():
        # Weights are fp32 under any default dtype.
        return builders[config.name](config, dim).float()


def _product(config: QuantizerConfig, dim: int) -> ProductQuantizer:
    if dim % config.parts:
        raise VqnmtError(
            f"quantizer.parts is {config.parts}: it must divide {dim}, the vectors' dimension."
        )
    return ProductQuantizer(_parts(config, dim // config.parts), config.projection)


def _residual(config: QuantizerConfig, dim: int) -> ResidualQuantizer:
    return ResidualQuantizer(_parts(config, dim))


def _parts(config: QuantizerConfig, dim: int) -> list[Quantizer]:
    one = dataclasses.replace(config, name=config.part, codebook_size=config.part_size)
    return [build_quantizer(one, dim) for _ in range(config.parts)]
