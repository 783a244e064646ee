"""FSQ, LFQ and SimVQ of vector-quantize-pytorch (an optional extra) as quantizers."""

import importlib
import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.quantizers.base import Assignment
from vqnmt.quantizers.config import QuantizerConfig
from vqnmt.quantizers.learnt import LearntQuantizer
from vqnmt.quantizers.registry import register_quantizer


@dataclass(kw_only=True)
class FSQConfig(QuantizerConfig):
    """Settings of `FSQQuantizer`."""

    levels: list[int] = field(default_factory=lambda: [8, 8, 4])
    """How many values each number can take; 5 or more each are advised (`fsq`)."""

    can_be_part: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = len(self.levels) >= 1 and all(type(n) is int and n >= 3 for n in self.levels)
        self.require("levels", whole, "a list of integers of 3 or more")
        product = math.prod(self.levels)
        remedy = f"{product}, the product of quantizer.levels={self.levels}"
        self.require("codebook_size", self.codebook_size == product, remedy)


@dataclass(kw_only=True)
class SimVQConfig(QuantizerConfig):
    """Settings of `SimVQQuantizer`."""

    beta: float = 0.25
    """Weight of the commitment loss."""

    can_be_part: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("beta")


@dataclass(kw_only=True)
class LFQConfig(SimVQConfig):
    """Settings of `LFQQuantizer`."""

    entropy_weight: float = 0.1
    """Weight of the entropy loss (`lfq`)."""

    powers_of_two: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("entropy_weight")


class ExternalQuantizer(LearntQuantizer):
    """A quantizer of vector-quantize-pytorch, which only the optimiser trains.

    Args:
        dim: d, the size of the encoder's vectors.
        config: See `Quantizer`.
        options: See `Quantizer`.

    Raises:
        VqnmtError: The package is not installed.
    """

    inner: Any  # a module whose methods are not known to the type checker

    def __init__(self, dim: int, config: QuantizerConfig | None = None, **options: Any) -> None:
        super().__init__(dim, config, **options)
        try:
            package = importlib.import_module("vector_quantize_pytorch")
        except ImportError:
            raise VqnmtError(
                f"quantizer.name is {self.config.name!r}, which needs the package "
                "vector-quantize-pytorch: pip install 'vqnmt[quantizers]'."
            ) from None
        # The package reads values of its tensors while it builds, so they cannot be meta tensors.
        with torch.device("cpu"):
            self.inner = self._build(package, self.config, dim)
        # Its constants are saved with the weights, so that loading does not recompute them.
        for name, buffer in list(self.inner.named_buffers(recurse=False)):
            self.inner.register_buffer(name, buffer)

    @abstractmethod
    def _build(self, package: Any, config: Any, dim: int) -> nn.Module:
        """The package's module for vectors `(1, N, d)`."""

    def _losses(self, loss: Tensor) -> dict[str, Tensor]:
        """Name the loss that the package returns after the value and the codes."""
        raise NotImplementedError

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """The vectors `(..., d)` of codes `(...)` int64."""
        rows = _never_empty(codes.reshape(-1))
        vectors: Tensor = self.inner.indices_to_codes(rows[None])[0]  # (N, d)
        return vectors[: codes.numel()].view(*codes.shape, self.dim)

    def _assign(self, vectors: Tensor) -> Assignment:
        quantized, codes, *losses = self.inner(_never_empty(vectors)[None])  # (1, N, d), (1, N)
        count = vectors.shape[0]
        quantized, codes = quantized[0, :count], codes[0, :count].long()
        return Assignment(
            quantized=quantized,
            codes=codes,
            losses=self._losses(losses[0] * min(count, 1)) if losses else {},
        )

    def _nearest(self, vectors: Tensor) -> Tensor:
        training = self.inner.training
        self.inner.eval()  # the codes are the same; no losses are computed
        try:
            codes: Tensor = self.inner(_never_empty(vectors)[None])[1]
        finally:
            self.inner.train(training)
        return codes[0, : vectors.shape[0]].long()


@register_quantizer("fsq", config=FSQConfig)
class FSQQuantizer(ExternalQuantizer):
    """Finite scalar quantization (Mentzer et al. 2023).

    z_e is projected to as many numbers as there are `levels`; number i is squashed by tanh and
    rounded to one of L_i values, with straight-through gradient, and the numbers are projected
    back. K is the product of the levels. There is no loss.
    """

    def _build(self, package: Any, config: Any, dim: int) -> nn.Module:
        module: nn.Module = package.FSQ(levels=list(config.levels), dim=dim)
        return module


@register_quantizer("lfq", config=LFQConfig)
class LFQQuantizer(ExternalQuantizer):
    """Lookup-free quantization (Yu et al. 2023).

    z_e is projected to log2 K numbers, whose signs are the bits of the code, and +-1 is projected
    back. Loss terms: `entropy`, which is `entropy_weight` (E[H(q)] - H(E[q])) and beta times the
    commitment loss before the projection back. The mean E[q] is taken in each process and
    micro-batch by itself.
    """

    def _build(self, package: Any, config: Any, dim: int) -> nn.Module:
        module: nn.Module = package.LFQ(
            dim=dim,
            codebook_size=config.codebook_size,
            entropy_loss_weight=config.entropy_weight,
            commitment_loss_weight=config.beta,
        )
        return module

    def _losses(self, loss: Tensor) -> dict[str, Tensor]:
        return {"entropy": loss}


@register_quantizer("sim_vq", config=SimVQConfig)
class SimVQQuantizer(ExternalQuantizer):
    """SimVQ (Zhu et al. 2024): a learnt linear map of a fixed random codebook.

    e_j = W c_j with all c_j from N(0, 1/d): the gradient of one code moves all. Loss term
    `codebook`: ||sg[z_e] - e||^2 + beta ||z_e - sg[e]||^2. The gradient to z_e goes by the
    package's default, the rotation trick (Fifty et al. 2024).
    """

    def _build(self, package: Any, config: Any, dim: int) -> nn.Module:
        module: nn.Module = package.SimVQ(
            dim=dim,
            codebook_size=config.codebook_size,
            input_to_quantize_commit_loss_weight=config.beta,
        )
        return module

    def _losses(self, loss: Tensor) -> dict[str, Tensor]:
        return {"codebook": loss}


def _never_empty(rows: Tensor) -> Tensor:
    """`rows` `(N, *)`, or one row of zeros: the package takes means over the rows."""
    return rows if rows.shape[0] else torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])
