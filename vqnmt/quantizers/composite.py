"""What the quantizers made of several others have in common."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.quantizers.base import Quantizer


class CompositeQuantizer(Quantizer):
    """Several quantizers behind the interface of one; everything passes through to them.

    The code is a number with one digit for each part, of base K_i, the first digit the lowest:
    z = z_1 + K_1 (z_2 + K_2 (z_3 + ...)). The statistics of a part alone are in
    `parts[i].epoch_statistics()`.

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

    def check_finite(self, vectors: Tensor, remember: bool) -> Tensor:
        """Refuse NaN and infinity anywhere on behalf of all parts; see the base class.

        Either all parts learn of a fault or none: otherwise only some would move.
        """
        # The norm checks all of `vectors` at once; the parts need not read them again.
        norm = torch.linalg.vector_norm(vectors.detach())
        return torch.stack([part.check_finite(norm, remember) for part in self.quantizers]).all()

    def step(self) -> None:
        """Move the codebooks of all parts.

        Raises:
            VqnmtError: A vector was not finite; all codebooks are left as they were.
        """
        try:
            self._step_parts()
        except VqnmtError:
            self.clear()  # of the parts whose turn did not come
            raise

    def _step_parts(self) -> None:
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

    def freeze(self) -> None:
        """Stop the codebooks of all parts for good."""
        super().freeze()
        for part in self.quantizers:
            part.freeze()
        self.requires_grad_(False)

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
