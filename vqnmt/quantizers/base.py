"""The interface of every quantizer: z_e in, straight-through vectors, codes and losses out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.quantizers.statistics import CodebookStatistics, UsageCounter


@dataclass(slots=True)
class QuantizerOutput:
    """Result of a quantizer's forward pass over `z_e` of shape `(..., d)`."""

    quantized: Tensor
    """`(..., d)` in the dtype of `z_e`; 0 where masked. Its gradient passes straight through to
    `z_e`, except for quantizers whose value has a gradient of its own."""

    codes: Tensor
    """`(...)` int64, the nearest (or most likely) code; 0 where masked."""

    samples: Tensor
    """`(..., m)` int64, the codes whose averaged one-hots are the latent predictor's label: the
    drawn codes in training; `codes[..., None]` for hard quantizers and in evaluation."""

    losses: dict[str, Tensor]
    """Loss terms by name: fp32 scalars, already weighted, for the caller to sum."""

    statistics: dict[str, Tensor]
    """Detached scalars of this batch: `quantisation_error`, `posterior_entropy` in nats."""


@dataclass(slots=True)
class Assignment:
    """Codes, vectors and losses of the N unmasked vectors, all in fp32."""

    quantized: Tensor  # (N, d); its gradient is dropped where the quantizer is straight-through
    codes: Tensor  # (N,)
    samples: Tensor  # (N, m)
    losses: dict[str, Tensor]
    statistics: dict[str, Tensor]


class StraightThrough(torch.autograd.Function):
    """sg(z_q - z_e) + z_e without its rounding: z_q forward, z_e backward.

    The straight-through estimator of van den Oord et al. 2017.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, quantized: Tensor) -> Tensor:
        """Return `quantized`, both `(N, d)`."""
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient to `vectors` unchanged."""
        return gradient, None


def in_backward() -> bool:
    """Whether this forward recomputes an activation checkpoint inside a backward pass.

    Both variants of `torch.utils.checkpoint` recompute while the autograd engine runs. The first
    forward pass has counted the vectors already, so the recomputation must not.
    """
    return torch._C._current_graph_task_id() != -1


@contextmanager
def lasting_tensors() -> Iterator[None]:
    """Leave inference mode while entered, so that new tensors can be changed and trained later.

    Inference mode becomes `torch.no_grad`; other modes stay as they are.
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


class Quantizer(nn.Module, ABC):
    """A discrete bottleneck over the last dimension of `z_e`.

    Weights and state stay in fp32 whatever dtype the module, or one that holds it, is cast to.

    `forward` never moves the codebook: in training it accumulates what the codebook step needs,
    and `step()`, called once after each step of the optimiser, moves it. Gradient accumulation,
    activation checkpointing and several processes therefore change nothing.

    Args:
        codebook_size: K, the number of codes.
        dim: d, the size of the vectors.
    """

    straight_through = True
    """Whether z_e gets the gradient of `quantized` unchanged, instead of a gradient through it."""

    stochastic = False
    """Whether `quantized` in training comes from drawn codes instead of the nearest one."""

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise VqnmtError(f"The quantizer's vectors have dimension {dim}: it must be 1 or more.")
        self.codebook_size = codebook_size
        self.dim = dim
        # Training and evaluation have separate counters: a validation pass in the middle of an
        # epoch does not change the statistics of the epoch.
        self._counters = {mode: UsageCounter(codebook_size) for mode in (True, False)}

    def forward(self, z_e: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """Quantize, always in fp32.

        NaN in, NaN out: if one of the real vectors is not finite, or its square overflows, all of
        `quantized` is NaN, and the batch is neither counted nor accumulated. So the loss is NaN,
        and the training loop leaves the step out in every process.

        Args:
            z_e: `(..., d)` output of the encoder, of any floating dtype.
            mask: `(...)` bool, True at real positions; None = all are real. Masked positions
                are dropped before anything is computed.

        Raises:
            VqnmtError: The shapes do not fit; or a vector is not finite in evaluation mode without
                gradients, where no loss would tell.
        """
        self._check_shapes(z_e, mask)
        with lasting_tensors():
            # A tensor of inference mode can take part in no gradient; its clone can.
            return self._quantize(z_e.clone() if z_e.is_inference() else z_e, mask)

    def _quantize(self, z_e: Tensor, mask: Tensor | None) -> QuantizerOutput:
        """Quantize checked inputs; see `forward`."""
        with torch.autocast(device_type=z_e.device.type, enabled=False):
            rows = z_e.reshape(-1, self.dim)  # (all positions, d)
            kept = None if mask is None else mask.flatten().nonzero().squeeze(1)  # (N,)
            if kept is not None:
                rows = rows[kept]  # (N, d)
            # The norm takes one pass and no temporary.
            finite = bool(torch.linalg.vector_norm(rows.detach().float()).isfinite())
            if not finite:
                if not (self.training or torch.is_grad_enabled()):
                    raise VqnmtError(
                        "The quantizer got NaN or infinite vectors: the model is damaged, or was "
                        "trained with too high a learning rate."
                    )
                rows, kept = rows[:0], torch.zeros(0, dtype=torch.int64, device=rows.device)
            assignment = self._assign(rows.float())
        quantized = assignment.quantized.to(z_e.dtype)
        if self.straight_through:
            quantized = StraightThrough.apply(rows, quantized)
        if not in_backward():
            self._counters[self.training].add(
                assignment.codes,
                assignment.statistics["posterior_entropy"],
                assignment.statistics["quantisation_error"],
            )
        shape = z_e.shape[:-1]
        quantized = _restore(quantized, shape, kept)
        return QuantizerOutput(
            quantized=quantized if finite else quantized + torch.nan,
            codes=_restore(assignment.codes, shape, kept),
            samples=_restore(assignment.samples, shape, kept),
            losses=assignment.losses,
            statistics=assignment.statistics,
        )

    def nearest(self, z_e: Tensor) -> Tensor:
        """The nearest codes `(...)` int64 of `z_e` `(..., d)`."""
        self._check_shapes(z_e, None)
        with torch.no_grad(), torch.autocast(device_type=z_e.device.type, enabled=False):
            return self._nearest(z_e.reshape(-1, self.dim).float()).view(z_e.shape[:-1])

    @abstractmethod
    def codes_to_vectors(self, codes: Tensor) -> Tensor:
        """The vectors `(..., d)` of codes `(...)` int64."""

    @abstractmethod
    def _assign(self, vectors: Tensor) -> Assignment:
        """Quantize `(N, d)` finite fp32 vectors, N possibly 0, and accumulate in training."""

    @abstractmethod
    def _nearest(self, vectors: Tensor) -> Tensor:
        """The nearest codes `(N,)` of `(N, d)` fp32 vectors."""

    def step(self) -> None:
        """Move the codebook by what was accumulated; call after each step of the optimiser.

        Every process must call it. By default there is no codebook to move.
        """

    def clear(self) -> None:
        """Discard what was accumulated since the last step."""

    @property
    def initialised(self) -> bool:
        """Whether the k-means start of the codebook is over; True if there is none."""
        return True

    def set_progress(self, fraction: float) -> None:
        """Set annealed settings, if there are any; `fraction` of training done, 0 to 1."""

    def epoch_statistics(self) -> CodebookStatistics:
        """Statistics of the current mode (training or evaluation) since the last reset.

        They cover all processes; every process must call this method.
        """
        return self._counters[self.training].summarise(self._device())

    def reset_statistics(self) -> None:
        """Reset the statistics of the current mode (training or evaluation)."""
        self._counters[self.training].reset()

    def running_state(self) -> dict[str, Tensor]:
        """Return the training statistics so far, for a checkpoint in the middle of an epoch."""
        return self._counters[True].state()

    def load_running_state(self, state: dict[str, Tensor]) -> None:
        """Go on from the statistics that `running_state` returned."""
        with lasting_tensors():
            self._counters[True].load({key: value.clone() for key, value in state.items()})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Quantizer":
        """Apply `to`, `half`, `cuda` and the like without their change of dtype."""

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            # From the tensor itself: `result` may have been rounded.
            return result if result.dtype == dtype else tensor.to(result.device, dtype)

        with lasting_tensors():
            super()._apply(moved, recurse)
        return self

    def _device(self) -> torch.device:
        """The device of the quantizer's tensors."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")

    def _accumulates(self) -> bool:
        """Whether this forward pass adds to the next codebook step."""
        return self.training and not in_backward()

    def _check_shapes(self, z_e: Tensor, mask: Tensor | None) -> None:
        if z_e.ndim < 1 or z_e.shape[-1] != self.dim:
            raise VqnmtError(
                f"The quantizer got z_e of shape {tuple(z_e.shape)}: "
                f"its last dimension must be {self.dim}."
            )
        if mask is not None and (mask.shape != z_e.shape[:-1] or mask.dtype != torch.bool):
            raise VqnmtError(
                f"The quantizer got a mask of shape {tuple(mask.shape)} and {mask.dtype}: "
                f"it must have shape {tuple(z_e.shape[:-1])} and torch.bool."
            )


def _restore(rows: Tensor, shape: torch.Size, kept: Tensor | None) -> Tensor:
    """Put rows `(N, *)` back at the flat positions `kept` `(N,)` of `(*shape, *)`, 0 elsewhere."""
    if kept is not None:
        rows = rows.new_zeros((shape.numel(), *rows.shape[1:])).index_put((kept,), rows)
    return rows.view(*shape, *rows.shape[1:]) if shape else rows.squeeze(0)
