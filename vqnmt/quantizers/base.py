"""The interface of every quantizer: z_e in, straight-through vectors, codes and losses out."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from vqnmt.errors import VqnmtError
from vqnmt.quantizers.config import QuantizerConfig, check_keys
from vqnmt.quantizers.statistics import CodebookStatistics, UsageCounter

# Forward passes in training without a codebook step, after which a warning says so.
_FORGOTTEN = 100


@dataclass(slots=True)
class QuantizerOutput:
    """Result of a quantizer's forward pass over `z_e` of shape `(..., d)`.

    It unpacks as `quantized, indices, loss`: `codes` are the indices, and the loss is the sum of
    `losses`.
    """

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

    stages: Tensor
    """`(..., n)` int64, the code of each part (`product`) or stage (`residual`); n = 1 for other
    quantizers."""

    @property
    def loss(self) -> Tensor:
        """The sum of all loss terms, a scalar; 0 if there is none."""
        zero = torch.zeros((), device=self.quantized.device)
        return sum(self.losses.values(), zero)

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.quantized, self.codes, self.loss))


@dataclass(slots=True)
class Assignment:
    """Codes, vectors and losses of the N unmasked vectors, all in fp32."""

    quantized: Tensor
    """`(N, d)`; its gradient is dropped where the quantizer is straight-through."""

    codes: Tensor
    """`(N,)` int64."""

    losses: dict[str, Tensor] = field(default_factory=dict)
    """Weighted loss terms by name, scalars."""

    samples: Tensor | None = None
    """`(N, m)` int64, the codes drawn; None: `codes`."""

    error: Tensor | None = None
    """Detached scalar, the mean of (z_e - e_nearest)^2; None: that of `quantized`."""

    entropy: Tensor | None = None
    """Detached scalar, the mean entropy of the posterior in nats; None: 0."""


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


class Rotation(torch.autograd.Function):
    """The rotation trick (Fifty et al. 2024): z_q forward; backward as if it were a map of z_e.

    The map is z_q = lambda R z_e, where lambda = ||z_q|| / ||z_e|| and R is the rotation of z_e
    onto z_q in the plane of both. They count as constants, so the gradient to z_e is
    lambda R^T g: it keeps its angle to the code vector. With the unit vectors e of z_e and q of
    z_q, and r = (e + q) / ||e + q||,

        R = I - 2 r r^T + 2 q e^T.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, quantized: Tensor) -> Tensor:
        """Return `quantized`, both `(N, d)`."""
        ctx.save_for_backward(vectors, quantized)
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return lambda R^T g `(N, d)`."""
        vectors, quantized, g = (x.float() for x in (*ctx.saved_tensors, gradient))
        e, q = functional.normalize(vectors, dim=1), functional.normalize(quantized, dim=1)
        r = functional.normalize(e + q, dim=1)
        turned = g - 2 * r * (r * g).sum(1, keepdim=True) + 2 * e * (q * g).sum(1, keepdim=True)
        norms = [torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (quantized, vectors)]
        scale = norms[0] / norms[1].clamp(min=1e-6)
        return (scale * turned).to(gradient.dtype), None


def linear(layer: nn.Linear, vectors: Tensor) -> Tensor:
    """Apply `layer` to fp32 `vectors` in fp32, whatever the dtype that its weights are kept in."""
    bias = None if layer.bias is None else layer.bias.float()
    return functional.linear(vectors, layer.weight.float(), bias)


def mean_square_error(vectors: Tensor, quantized: Tensor) -> Tensor:
    """Mean of (z_e - z_q)^2 over `(N, d)`; 0, and still part of the graph, if N is 0."""
    if vectors.shape[0] == 0:
        return vectors.sum()
    return functional.mse_loss(vectors, quantized)


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
        dim: d, the size of the vectors.
        config: The settings; None: the defaults, and those of `settings`.
        auto_step: Whether each forward pass in training first calls `step`, if there has been
            another one since the last: for trainings without gradient accumulation, whose every
            forward pass is followed by an optimiser step. The last batch then moves nothing.
        channel_last: Whether d is the last dimension of z_e and `quantized`; else it is the
            second, as in images (B, d, H, W). `codes_to_vectors` always puts it last.
        settings: Fields of the quantizer's config, instead of `config`.

    Raises:
        VqnmtError: A setting is unknown or out of range, or does not fit d.
    """

    config_class: ClassVar[type[QuantizerConfig]]
    """The settings of this quantizer; `register_quantizer` sets it."""

    straight_through = True
    """Whether z_e gets the gradient of `quantized` by `estimator`, instead of one through it."""

    estimator: type[torch.autograd.Function] = StraightThrough
    """What gives z_e the gradient of `quantized`."""

    stochastic = False
    """Whether `quantized` in training comes from drawn codes instead of the nearest one."""

    def __init__(
        self,
        dim: int,
        config: QuantizerConfig | None = None,
        *,
        auto_step: bool = False,
        channel_last: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__()
        if dim < 1:
            raise VqnmtError(f"The quantizer's vectors have dimension {dim}: it must be 1 or more.")
        if config is None:
            check_keys(self.config_class, settings)
            config = self.config_class(**settings)
        elif settings:
            raise VqnmtError(f"give the quantizer a config or {', '.join(settings)}, but not both.")
        self.config: Any = config
        self.dim, self.auto_step, self.channel_last = dim, auto_step, channel_last
        self._forwards = 0  # in training, since the last step
        self._warns = True  # unless it is a part of another, which does
        self._count_codes(config.codebook_size)

    def extra_repr(self) -> str:
        """What `print` says of it beside its class."""
        return f"dim={self.dim}, codebook_size={self.codebook_size}"

    def _count_codes(self, codebook_size: int) -> None:
        """Set K, and start the statistics."""
        self.codebook_size = codebook_size
        # Training and evaluation have separate counters: a validation pass in the middle of an
        # epoch does not change the statistics of the epoch.
        self._counters = {mode: UsageCounter(codebook_size) for mode in (True, False)}

    def forward(self, z_e: Tensor, mask: Tensor | None = None) -> QuantizerOutput:
        """Quantize, always in fp32.

        NaN in, NaN out: if one of the real vectors is not finite, or its square overflows, all of
        `quantized` is NaN, and the batch is neither counted nor accumulated. So the loss is NaN,
        and the training loop leaves the step out in every process.

        Args:
            z_e: `(..., d)` output of the encoder, of any floating dtype; `(B, d, ...)` without
                `channel_last`.
            mask: `(...)` bool, True at real positions; None = all are real. Masked positions
                are dropped before anything is computed.

        Raises:
            VqnmtError: The shapes do not fit; or a vector is not finite in evaluation mode without
                gradients, where no loss would tell.
        """
        z_e = self._checked(z_e, mask)
        if self._accumulates():
            self._before_training()
        with lasting_tensors():
            # A tensor of inference mode can take part in no gradient; its clone can.
            output = self._quantize(z_e.clone() if z_e.is_inference() else z_e, mask)
        if not self.channel_last:
            output.quantized = output.quantized.movedim(-1, 1)
        return output

    def _before_training(self) -> None:
        """Move the codebook if that is asked for, and warn of one that nobody moves."""
        if self.auto_step and self._forwards:
            self.step()
        self._forwards += 1
        if self._forwards == _FORGOTTEN and self._warns and self._needs_steps():
            warnings.warn(
                f"{type(self).__name__} has had {_FORGOTTEN} forward passes in training without a "
                "step(), which starts its codebook from the data, moves it and restarts unused "
                "codes: call step() after each step of the optimiser, or build it with "
                "auto_step=True",
                stacklevel=5,  # the caller, past this method, forward and two of nn.Module
            )

    def _needs_steps(self) -> bool:
        """Whether `step` does anything."""
        return type(self)._step is not Quantizer._step

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
            vectors = rows.float()
            assignment = self._pass(vectors)
            error, entropy = assignment.error, assignment.entropy
            if error is None:
                error = mean_square_error(vectors.detach(), assignment.quantized.detach())
            if entropy is None:
                entropy = torch.zeros_like(error)
        quantized = assignment.quantized.to(z_e.dtype)
        if self.straight_through:
            quantized = self.estimator.apply(rows, quantized)
        if not in_backward():
            self._counters[self.training].add(assignment.codes, entropy, error)
        samples = assignment.codes[:, None] if assignment.samples is None else assignment.samples
        shape = z_e.shape[:-1]
        quantized = _restore(quantized, shape, kept)
        codes = _restore(assignment.codes, shape, kept)
        return QuantizerOutput(
            quantized=quantized if finite else quantized + torch.nan,
            codes=codes,
            samples=_restore(samples, shape, kept),
            losses=assignment.losses,
            statistics={"quantisation_error": error, "posterior_entropy": entropy},
            stages=self._stages(codes),
        )

    def _pass(self, vectors: Tensor) -> Assignment:
        """Quantize `(N, d)` vectors, through projections if there are any."""
        return self._assign(vectors)

    def _stages(self, codes: Tensor) -> Tensor:
        """The codes `(..., n)` of all stages from the combined codes `(...)`."""
        return codes[..., None]

    def nearest(self, z_e: Tensor) -> Tensor:
        """The nearest codes `(...)` int64 of `z_e` `(..., d)`, see `forward`."""
        z_e = self._checked(z_e, None)
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

        Every process must call it.
        """
        self._forwards = 0
        self._step()

    def clear(self) -> None:
        """Discard what was accumulated since the last step."""
        self._forwards = 0
        self._clear()

    def _step(self) -> None:
        """Move the codebook. By default there is none."""

    def _clear(self) -> None:
        """Discard what was accumulated. By default there is nothing."""

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

    def _checked(self, z_e: Tensor, mask: Tensor | None) -> Tensor:
        """Check the shapes, and return z_e as `(..., d)`."""
        place, name = (-1, "last") if self.channel_last else (1, "second")
        if z_e.ndim < (1 if self.channel_last else 2) or z_e.shape[place] != self.dim:
            raise VqnmtError(
                f"The quantizer got z_e of shape {tuple(z_e.shape)}: "
                f"its {name} dimension must be {self.dim}."
            )
        z_e = z_e.movedim(place, -1)
        if mask is not None and (mask.shape != z_e.shape[:-1] or mask.dtype != torch.bool):
            raise VqnmtError(
                f"The quantizer got a mask of shape {tuple(mask.shape)} and {mask.dtype}: "
                f"it must have shape {tuple(z_e.shape[:-1])} and torch.bool."
            )
        return z_e


def _restore(rows: Tensor, shape: torch.Size, kept: Tensor | None) -> Tensor:
    """Put rows `(N, *)` back at the flat positions `kept` `(N,)` of `(*shape, *)`, 0 elsewhere."""
    if kept is not None:
        rows = rows.new_zeros((shape.numel(), *rows.shape[1:])).index_put((kept,), rows)
    return rows.view(*shape, *rows.shape[1:]) if shape else rows.squeeze(0)
