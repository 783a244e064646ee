"""The quantizers made of several others: side by side (product) or one after another (residual)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.quantizers.base import (
    Assignment,
    Quantizer,
    QuantizerOutput,
    linear,
    mean_square_error,
)
from vqnmt.quantizers.config import CONFIGS, QuantizerConfig, check_power_of_two
from vqnmt.quantizers.learnt import GumbelSoftmaxConfig, SemanticHashingConfig
from vqnmt.quantizers.registry import build_quantizer, register_quantizer
from vqnmt.quantizers.vector_quantizers import SoftEMConfig


@dataclass(kw_only=True)
class ResidualConfig(SoftEMConfig, GumbelSoftmaxConfig, SemanticHashingConfig):
    """Settings of `ResidualQuantizer`, and of its parts: each reads those that it has."""

    part: str = "ema"
    """The quantizer of each part, by the same settings: `gradient`, `ema`, `hard_em`, `soft_em`,
    `gumbel_softmax` or `semhash` (`product`, `residual`)."""

    parts: int = 2
    """n, the number of parts (`product`) or stages (`residual`)."""

    powers_of_two: ClassVar[bool] = False
    can_be_part: ClassVar[bool] = False

    @property
    def part_size(self) -> int:
        """K^(1/parts), the number of codes of each part, to the nearest integer."""
        return round(self.codebook_size ** (1 / self.parts))

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = tuple(name for name, kind in CONFIGS.items() if kind.can_be_part)
        self.require_choice("part", parts)
        self.require_between("parts", 1, 64)
        size, power = self.part_size, self.parts
        near = f"{size**power} or {(size + 1) ** power}"
        remedy = f"an integer to the power of quantizer.parts={power}, such as {near}"
        self.require("codebook_size", size**power == self.codebook_size, remedy)
        if CONFIGS[self.part].powers_of_two:
            check_power_of_two(self.part, size, power)


@dataclass(kw_only=True)
class ProductConfig(ResidualConfig):
    """Settings of `ProductQuantizer`, and of its parts."""

    projection: str = "none"
    """What the parts quantize: slices of the vector (`none`) or of a projection of it, which is
    fixed (`random`) or trained (`learnt`) (`product`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("projection", ("none", "random", "learnt"))


class CompositeQuantizer(Quantizer):
    """Several quantizers used as one.

    A code is a number with one digit of base K_i for each part, the first digit being the lowest:
    z = z_1 + K_1 (z_2 + K_2 (z_3 + ...)). `parts[i].epoch_statistics()` has the statistics of one
    part.

    Args:
        dim: d, the size of the vectors.
        config: See `Quantizer`.
        made_of: The parts, instead of `parts` equal ones by the settings.
        options: See `Quantizer`.
    """

    def __init__(
        self,
        dim: int,
        config: QuantizerConfig | None = None,
        *,
        made_of: Sequence[Quantizer] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dim, config, **options)
        if made_of is None:
            settings = self.config
            part = settings.as_named(settings.part, codebook_size=settings.part_size)
            size = self._part_dim(dim, settings.parts)
            made_of = [build_quantizer(part, size) for _ in range(settings.parts)]
        self._count_codes(math.prod(part.codebook_size for part in made_of))
        self.parts = nn.ModuleList(made_of)
        for part in made_of:
            part._warns = False
        self.stochastic = any(part.stochastic for part in made_of)

    def _part_dim(self, dim: int, parts: int) -> int:
        """The size of the vectors of each part."""
        return dim

    def _joined(
        self,
        outputs: Sequence[QuantizerOutput],
        quantized: Tensor,
        codes: Tensor,
        error: Tensor,
        shares: Sequence[float],
    ) -> Assignment:
        """Put the outputs of the parts together.

        Args:
            outputs: Of the parts, in order.
            quantized: The value of the whole, `(N, d)`.
            codes: Combined codes `(N,)`.
            error: Quantisation error of the whole, a detached scalar.
            shares: The weight of each part in the sums of loss terms of the same name.
        """
        losses: dict[str, Tensor] = {}
        for output, share in zip(outputs, shares, strict=True):
            for name, value in output.losses.items():
                losses[name] = losses.get(name, 0.0) + share * value
        entropies = [output.statistics["posterior_entropy"] for output in outputs]
        return Assignment(
            quantized=quantized,
            codes=codes,
            losses=losses,
            samples=self.combine([output.samples for output in outputs]),
            error=error,
            entropy=torch.stack(entropies).sum(),
        )

    def _stages(self, codes: Tensor) -> Tensor:
        return torch.stack(self.split(codes), dim=-1)

    def combine(self, codes: Sequence[Tensor]) -> Tensor:
        """One code from a code of each part, all int64 of shapes that broadcast."""
        combined = torch.zeros_like(codes[0])
        for part, digit in zip(reversed(self.quantizers), reversed(codes), strict=True):
            combined = combined * part.codebook_size + digit
        return combined

    def split(self, codes: Tensor) -> list[Tensor]:
        """A code of each part `(...)` from codes `(...)`: the inverse of `combine`."""
        digits = []
        for part in self.quantizers:
            digits.append(codes % part.codebook_size)
            codes = codes // part.codebook_size
        return digits

    @property
    def quantizers(self) -> list[Quantizer]:
        """The parts, typed."""
        return [part for part in self.parts if isinstance(part, Quantizer)]

    def _step(self) -> None:
        for part in self.quantizers:
            part.step()

    def _needs_steps(self) -> bool:
        return any(part._needs_steps() for part in self.quantizers)

    def _clear(self) -> None:
        for part in self.quantizers:
            part.clear()

    @property
    def initialised(self) -> bool:
        """Whether all parts are past their start."""
        return all(part.initialised for part in self.quantizers)

    def set_progress(self, fraction: float) -> None:
        """Tell the annealed settings of the parts how far training is, from 0 to 1."""
        for part in self.quantizers:
            part.set_progress(fraction)

    def reset_statistics(self) -> None:
        """Forget the statistics of this mode, those of the parts too."""
        super().reset_statistics()
        for part in self.quantizers:
            part.reset_statistics()

    def running_state(self) -> dict[str, Tensor]:
        """Return the training statistics so far, those of the parts too, for a checkpoint."""
        state = super().running_state()
        for index, part in enumerate(self.quantizers):
            for key, value in part.running_state().items():
                state[f"{index}.{key}"] = value
        return state

    def load_running_state(self, state: dict[str, Tensor]) -> None:
        """Go on from the statistics that `running_state` returned."""
        super().load_running_state(state)
        for index, part in enumerate(self.quantizers):
            prefix = f"{index}."
            part.load_running_state(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )


@register_quantizer("product", config=ProductConfig)
class ProductQuantizer(CompositeQuantizer):
    """n quantizers, each for its own part of z_e (Kaiser et al. 2018).

    Sliced: part i quantizes the i-th slice of z_e. Projected: it quantizes pi_i z_e, where the n
    projections make up one d x d matrix, orthogonal at the start, and the value stays in the
    projected space:

        z_i = argmin_j ||e_j^i - pi_i z_e||_2,    z_q = [e_{z_1}^1; ...; e_{z_n}^n].

    Loss terms are means over all d dimensions. The statistics are those of the whole: the error
    is a mean over all dimensions, in the projected space if there is one, and the entropies of
    the parts add up.

    Args:
        dim: d; the parts' dimensions add up to it.
        config: See `Quantizer`.
        options: See `CompositeQuantizer`.
    """

    # Each part applies its own straight-through, or none, on the near side of the projection.
    straight_through = False

    def __init__(self, dim: int, config: QuantizerConfig | None = None, **options: Any) -> None:
        super().__init__(dim, config, **options)
        self.sizes = [part.dim for part in self.quantizers]
        self.projection: nn.Linear | None = None
        if self.config.projection != "none":
            # Kaiser et al. draw the matrices apart (Glorot); as one rotation they lose nothing.
            self.projection = nn.Linear(self.dim, self.dim, bias=False)
            nn.init.orthogonal_(self.projection.weight)
            self.projection.requires_grad_(self.config.projection == "learnt")

    def _part_dim(self, dim: int, parts: int) -> int:
        if dim % parts:
            raise VqnmtError(
                f"quantizer.parts is {parts}: it must divide {dim}, the vectors' dimension."
            )
        return dim // parts

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """The vectors `(..., d)` of codes `(...)` int64, in the projected space if there is one."""
        digits = zip(self.quantizers, self.split(codes), strict=True)
        return torch.cat([part.codes_to_vectors(digit) for part, digit in digits], dim=-1)

    def _slices(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """What each part quantizes: `(N, d_i)` of `(N, d)`."""
        if self.projection is not None:
            vectors = linear(self.projection, vectors)
        return vectors.split(self.sizes, dim=1)

    def _assign(self, vectors: Tensor) -> Assignment:
        pieces = zip(self.quantizers, self._slices(vectors), strict=True)
        outputs = [part(piece) for part, piece in pieces]
        shares = [size / self.dim for size in self.sizes]
        error = vectors.new_zeros(())
        for output, share in zip(outputs, shares, strict=True):
            error = error + share * output.statistics["quantisation_error"]
        quantized = torch.cat([output.quantized for output in outputs], dim=1)
        codes = self.combine([output.codes for output in outputs])
        return self._joined(outputs, quantized, codes, error, shares)

    def _nearest(self, vectors: Tensor) -> Tensor:
        pieces = zip(self.quantizers, self._slices(vectors), strict=True)
        return self.combine([part.nearest(piece) for part, piece in pieces])


@register_quantizer("residual", config=ResidualConfig)
class ResidualQuantizer(CompositeQuantizer):
    """n stages, from coarse to fine (Zeghidour et al. 2021, algorithm 1).

        r_1 = z_e,    r_{i+1} = r_i - sg(Q_i(r_i)),    z_q = sum_i Q_i(r_i).

    The loss terms of the stages add up, and so do the entropies of their posteriors. The
    residual of a stage that draws its codes is that of its value, but `codes` are those of
    evaluation, where each stage takes its nearest code. Stages start from k-means one after
    another: the residuals of an unfinished codebook differ from those of the finished one.

    Args:
        dim: d, the dimension of every stage.
        config: See `Quantizer`.
        options: See `CompositeQuantizer`.
    """

    def __init__(self, dim: int, config: QuantizerConfig | None = None, **options: Any) -> None:
        super().__init__(dim, config, **options)
        first = self.quantizers[0]
        self.straight_through, self.estimator = first.straight_through, first.estimator

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """sum_i e_{z_i}^i: the vectors `(..., d)` of codes `(...)` int64."""
        digits = zip(self.quantizers, self.split(codes), strict=True)
        return torch.stack([part.codes_to_vectors(digit) for part, digit in digits]).sum(dim=0)

    def _assign(self, vectors: Tensor) -> Assignment:
        left = vectors  # (N, d)
        quantized = torch.zeros_like(vectors)
        outputs = []
        for part in self.quantizers:
            output = part(left)
            left = left - output.quantized.detach()
            quantized = quantized + output.quantized
            outputs.append(output)
        codes = self.combine([output.codes for output in outputs])
        with torch.no_grad():
            if self.training and self.stochastic:
                codes = self._nearest(vectors)
            error = mean_square_error(vectors, self.codes_to_vectors(codes).float())
        return self._joined(outputs, quantized, codes, error, [1.0] * len(outputs))

    def _nearest(self, vectors: Tensor) -> Tensor:
        codes = []
        for part in self.quantizers:
            codes.append(part.nearest(vectors))
            vectors = vectors - part.codes_to_vectors(codes[-1]).float()
        return self.combine(codes)

    def _step(self) -> None:
        """Move the codebooks of all stages; those after an unfinished start wait for it."""
        stages = self.quantizers
        for index, stage in enumerate(stages):
            if not stage.initialised:
                for later in stages[index + 1 :]:
                    later.clear()
            stage.step()
