"""The quantizers made of several others: side by side (product) or one after another (residual)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vqnmt.quantizers.base import Assignment, Quantizer
from vqnmt.quantizers.learnt import linear
from vqnmt.quantizers.vector_quantizers import mean_square_error


class CompositeQuantizer(Quantizer):
    """Several quantizers used as one.

    A code is a number with one digit of base K_i for each part, the first digit being the lowest:
    z = z_1 + K_1 (z_2 + K_2 (z_3 + ...)). `parts[i].epoch_statistics()` has the statistics of one
    part.

    Args:
        parts: One or more.
        dim: d, the size of the vectors.
    """

    def __init__(self, parts: Sequence[Quantizer], dim: int) -> None:
        super().__init__(math.prod(part.codebook_size for part in parts), dim)
        self.parts = nn.ModuleList(parts)
        self.stochastic = any(part.stochastic for part in parts)

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

    def step(self) -> None:
        """Move the codebooks of all parts."""
        for part in self.quantizers:
            part.step()

    def clear(self) -> None:
        """Forget what was accumulated since the last step."""
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
        parts: One or more; d is the sum of their dimensions.
        projection: `none` (slices), `random` (fixed) or `learnt` (by gradient).
    """

    # Each part applies its own straight-through, or none, on the near side of the projection.
    straight_through = False

    def __init__(self, parts: Sequence[Quantizer], projection: str = "none") -> None:
        super().__init__(parts, sum(part.dim for part in parts))
        self.sizes = [part.dim for part in parts]
        self.projection: nn.Linear | None = None
        if projection != "none":
            # Kaiser et al. draw the matrices apart (Glorot); as one rotation they lose nothing.
            self.projection = nn.Linear(self.dim, self.dim, bias=False)
            nn.init.orthogonal_(self.projection.weight)
            self.projection.requires_grad_(projection == "learnt")

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
        losses: dict[str, Tensor] = {}
        error = vectors.new_zeros(())
        for output, share in zip(outputs, shares, strict=True):
            for name, value in output.losses.items():
                losses[name] = losses.get(name, 0.0) + share * value
            error = error + share * output.statistics["quantisation_error"]
        entropies = [output.statistics["posterior_entropy"] for output in outputs]
        return Assignment(
            quantized=torch.cat([output.quantized for output in outputs], dim=1),
            codes=self.combine([output.codes for output in outputs]),
            samples=self.combine([output.samples for output in outputs]),
            losses=losses,
            statistics={
                "quantisation_error": error,
                "posterior_entropy": torch.stack(entropies).sum(),
            },
        )

    def _nearest(self, vectors: Tensor) -> Tensor:
        pieces = zip(self.quantizers, self._slices(vectors), strict=True)
        return self.combine([part.nearest(piece) for part, piece in pieces])


class ResidualQuantizer(CompositeQuantizer):
    """n stages, from coarse to fine (Zeghidour et al. 2021, algorithm 1).

        r_1 = z_e,    r_{i+1} = r_i - sg(Q_i(r_i)),    z_q = sum_i Q_i(r_i).

    The loss terms of the stages add up, and so do the entropies of their posteriors. The
    residual of a stage that draws its codes is that of its value, but `codes` are those of
    evaluation, where each stage takes its nearest code. Stages start from k-means one after
    another: the residuals of an unfinished codebook differ from those of the finished one.

    Args:
        parts: The stages, all of the same dimension and kind.
    """

    def __init__(self, parts: Sequence[Quantizer]) -> None:
        super().__init__(parts, parts[0].dim)
        self.straight_through = parts[0].straight_through

    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """sum_i e_{z_i}^i: the vectors `(..., d)` of codes `(...)` int64."""
        digits = zip(self.quantizers, self.split(codes), strict=True)
        return torch.stack([part.codes_to_vectors(digit) for part, digit in digits]).sum(dim=0)

    def _assign(self, vectors: Tensor) -> Assignment:
        left = vectors  # (N, d)
        quantized = torch.zeros_like(vectors)
        outputs = []
        losses: dict[str, Tensor] = {}
        for part in self.quantizers:
            output = part(left)
            left = left - output.quantized.detach()
            quantized = quantized + output.quantized
            for name, value in output.losses.items():
                losses[name] = losses[name] + value if name in losses else value
            outputs.append(output)
        codes = self.combine([output.codes for output in outputs])
        with torch.no_grad():
            if self.training and self.stochastic:
                codes = self._nearest(vectors)
            error = mean_square_error(vectors, self.codes_to_vectors(codes).float())
        entropies = [output.statistics["posterior_entropy"] for output in outputs]
        return Assignment(
            quantized=quantized,
            codes=codes,
            samples=self.combine([output.samples for output in outputs]),
            losses=losses,
            statistics={
                "quantisation_error": error,
                "posterior_entropy": torch.stack(entropies).sum(),
            },
        )

    def _nearest(self, vectors: Tensor) -> Tensor:
        codes = []
        for part in self.quantizers:
            codes.append(part.nearest(vectors))
            vectors = vectors - part.codes_to_vectors(codes[-1]).float()
        return self.combine(codes)

    def step(self) -> None:
        """Move the codebooks of all stages; those after an unfinished start wait for it."""
        stages = self.quantizers
        for index, stage in enumerate(stages):
            if not stage.initialised:
                for later in stages[index + 1 :]:
                    later.clear()
            stage.step()
