"""Discrete bottlenecks: encoder vectors in, code vectors and codes out, trained straight through.

- `gradient`: nearest neighbour, codebook loss and commitment loss (van den Oord et al. 2017);
- `ema`: the codebook is a moving average of the vectors assigned to it;
- `hard_em`: the codebook is the mean of the vectors assigned to it in the last batch;
- `soft_em`: m codes drawn from the posterior at each position (Roy et al. 2018);
- `gumbel_softmax`: a relaxed draw of one code (Jang et al. 2017);
- `semhash`: the bits of a noisy saturating sigmoid (Kaiser et al. 2018);
- `product`: several of these side by side, each for a part of the vector;
- `residual`: several of these in turn, each for what the earlier ones left;
- `fsq`, `lfq`, `sim_vq`: those of vector-quantize-pytorch, an optional extra.

Each is built in one line, `EMAQuantizer(dim=64, codebook_size=512)`, or by its name from settings;
`register_quantizer` makes one from outside known.

The package needs only torch and `vqnmt.errors`.
"""

from vqnmt.quantizers.base import Assignment, Quantizer, QuantizerOutput
from vqnmt.quantizers.codebook import Update
from vqnmt.quantizers.composite import (
    ProductConfig,
    ProductQuantizer,
    ResidualConfig,
    ResidualQuantizer,
)
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.external import (
    FSQConfig,
    FSQQuantizer,
    LFQConfig,
    LFQQuantizer,
    SimVQConfig,
    SimVQQuantizer,
)
from vqnmt.quantizers.learnt import (
    GumbelSoftmaxConfig,
    GumbelSoftmaxQuantizer,
    SemanticHashingConfig,
    SemanticHashingQuantizer,
)
from vqnmt.quantizers.registry import build_quantizer, register_quantizer
from vqnmt.quantizers.statistics import CodebookStatistics
from vqnmt.quantizers.vector_quantizers import (
    EMAConfig,
    EMAQuantizer,
    GradientConfig,
    GradientQuantizer,
    HardEMConfig,
    HardEMQuantizer,
    SoftEMConfig,
    SoftEMQuantizer,
    VectorQuantizer,
)

__all__ = [
    "Assignment",
    "CodebookStatistics",
    "EMAConfig",
    "EMAQuantizer",
    "FSQConfig",
    "FSQQuantizer",
    "GradientConfig",
    "GradientQuantizer",
    "GumbelSoftmaxConfig",
    "GumbelSoftmaxQuantizer",
    "HardEMConfig",
    "HardEMQuantizer",
    "LFQConfig",
    "LFQQuantizer",
    "ProductConfig",
    "ProductQuantizer",
    "Quantizer",
    "QuantizerConfig",
    "QuantizerOutput",
    "ResidualConfig",
    "ResidualQuantizer",
    "SemanticHashingConfig",
    "SemanticHashingQuantizer",
    "SimVQConfig",
    "SimVQQuantizer",
    "SoftEMConfig",
    "SoftEMQuantizer",
    "Update",
    "VectorQuantizer",
    "build_quantizer",
    "register_quantizer",
]
