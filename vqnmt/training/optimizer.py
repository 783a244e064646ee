"""The steps of a training: optimiser, learning rate, and which steps are left out.

The optimiser is AdamW, or Muon for linear layers and 2-d convolutions and AdamW for all else.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vqnmt.training.config import TrainingConfig

# Odd quintic polynomials a s + b s^3 + c s^5, each optimal for the range that the one before
# leaves (Amsel et al. 2025): three map [0.01, 1] to [0.73, 1.27]; the single polynomial of
# Jordan et al. 2024 needs five iterations. Smaller singular values grow 78 times.
POLYNOMIALS = (
    (8.09332, -23.61999, 17.44561),
    (3.63674, -2.72207, 0.53657),
    (2.66158, -1.97740, 0.45265),
)
# A matrix is first divided by its Frobenius norm times this factor, so that rounding errors do not
# take a singular value above 1, where the first polynomial is steep.
MARGIN = 1.02
# In a matrix of norm 1, smaller entries are set to 0. The momentum of a dead unit halves every 14
# steps, and products that underflow take a CPU a hundred times as long.
NEGLIGIBLE = 1e-9
MOMENTUM = 0.95
# Root mean square of an update's entries, which makes learning rates of AdamW fit (Liu et al.
# 2025).
UPDATE_SIZE = 0.2

# The decay of the moving average of gradient norms, and the steps before it is used.
DECAY = 0.99
WARM = 20


class Muon(torch.optim.AdamW):
    """Moves matrices along their orthogonalised momentum (Jordan et al. 2024), the rest by AdamW.

    In groups with `orthogonal` set, a matrix of shape (m, n) moves by
    lr * 0.2 sqrt(max(m, n)) * U V^T, where U S V^T is its Nesterov momentum: all directions are
    learnt at the same pace. The kernel (C', C, h, w) of a convolution counts as the matrix
    (C', C h w). `torch.optim.Muon` does the same one matrix at a time and always in bf16, which
    is several times slower on a CPU without matrix units for bf16.

    Args:
        groups: Parameter groups, each with the key `orthogonal`.
        dtype: Of the orthogonalisation.
        settings: What AdamW takes.
    """

    def __init__(self, groups: list[dict[str, Any]], dtype: torch.dtype, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore
        """Take one step; gradients of orthogonalised matrices are consumed."""
        for group in self.param_groups:
            if group["orthogonal"]:
                self._step_matrices(group)
        return super().step(closure)  # passes over parameters without gradient

    def _step_matrices(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                shape = p.shape[0], p.shape[1:].numel()
                alike[min(shape), max(shape)].append(p)
        for (_, longer), matrices in alike.items():
            updates = [_lying(self._momentum(p).flatten(1)) for p in matrices]
            stack = orthogonalise(torch.stack(updates).to(self.dtype))  # (matrices, short, long)
            size = group["lr"] * UPDATE_SIZE * math.sqrt(longer)
            for p, update in zip(matrices, stack.to(matrices[0].dtype), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_((update if _lies(p) else update.T).reshape(p.shape), alpha=size)
                p.grad = None

    def _momentum(self, p: Tensor) -> Tensor:
        """Move the momentum of `p` and return Nesterov's look ahead."""
        state, gradient = self.state[p], p.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
            state["step"] = torch.zeros(())  # AdamW expects it of every state that it loads
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["momentum"], MOMENTUM)


def _lies(p: Tensor) -> bool:
    """Whether `p`, as a matrix, has no more rows than columns."""
    return p.shape[0] <= p.shape[1:].numel()


def _lying(matrix: Tensor) -> Tensor:
    """A view of `matrix` that lies."""
    return matrix if _lies(matrix) else matrix.T


def orthogonalise(stack: Tensor) -> Tensor:
    """Bring all singular values of each matrix near 1 using only matrix products.

    Args:
        stack: (matrices, m, n) with m <= n.
    """
    x = stack / (MARGIN * stack.flatten(1).norm(dim=1)).clamp(min=1e-7)[:, None, None]
    x = functional.hardshrink(x, NEGLIGIBLE)
    rows, columns = x.shape[1:]
    if x.dtype == torch.float32 and columns > rows:
        return _orthogonaliser(x @ x.mT) @ x
    for a, b, c in POLYNOMIALS:
        gram = x @ x.mT  # (matrices, m, m)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _orthogonaliser(gram: Tensor) -> Tensor:
    """Return the matrices Q (matrices, m, m) that bring X to Q X, given X X^T.

    A polynomial a s + b s^3 + c s^5 takes X to P X with P = a + b G + c G^2, and G = X X^T to
    P G P; all commute. So only two products are as long as X, instead of six; but rounding
    errors of P G P, which are of the size of the largest values, need fp32.
    """
    whole = factor = _factor(gram, *POLYNOMIALS[0])
    for polynomial in POLYNOMIALS[1:]:
        gram = factor @ gram @ factor
        factor = _factor(gram, *polynomial)
        whole = factor @ whole
    return whole


def _factor(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """Return a + b G + c G^2 of each matrix."""
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor


def make_optimizer(model: nn.Module, config: TrainingConfig, bf16: bool) -> torch.optim.Optimizer:
    """Build the optimiser that `config.optimizer` names, with weight decay on matrices only.

    Args:
        model: With `muon`, the steps of its linear layers and 2-d convolutions are orthogonalised.
        config: Learning rate, weight decay and moving averages.
        bf16: Whether Muon computes in bf16.
    """
    layers = (nn.Linear, nn.Conv2d)
    hidden = {id(m.weight) for m in model.modules() if isinstance(m, layers)}
    groups: dict[tuple[bool, float], list[Tensor]] = defaultdict(list)
    for p in model.parameters():
        if p.requires_grad:
            orthogonal = config.optimizer == "muon" and id(p) in hidden
            groups[orthogonal, config.weight_decay if p.dim() > 1 else 0.0].append(p)
    return Muon(
        [
            {"params": parameters, "orthogonal": orthogonal, "weight_decay": weight_decay}
            for (orthogonal, weight_decay), parameters in groups.items()
        ],
        torch.bfloat16 if bf16 else torch.float32,
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        eps=1e-9,
        fused=True,
    )


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Return the learning rate of optimiser step `step`, counted from 0."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * math.sqrt(max(config.warmup, 1) / (step + 1))
    remaining = (config.steps - step) / max(config.steps - config.warmup, 1)
    return config.learning_rate * 0.5 * (1 - math.cos(math.pi * remaining))


class SkipRule:
    """Decides by the norm of the gradient whether an optimiser step is taken.

    All processes see the same norm, so all decide alike. A step is left out if the norm is not
    finite, or exceeds `skip_factor` times the average norm of the steps taken: clipping would
    shorten such a gradient, but its direction is noise.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.skipped = self.in_a_row = self._taken = 0
        self._average = 0.0

    def accepts(self, norm: float) -> bool:
        """Return whether the step with this gradient norm is taken, and count it."""
        limit = self.config.skip_factor * self._average if self._taken >= WARM else math.inf
        if not norm < limit:  # NaN is below nothing
            self.skipped += 1
            self.in_a_row += 1
            return False
        self.in_a_row = 0
        self._taken += 1
        weight = max(1 - DECAY, 1 / self._taken)
        self._average += weight * (norm - self._average)
        return True

    @property
    def exhausted(self) -> bool:
        """Whether `skip_limit` consecutive steps were left out."""
        return self.in_a_row >= self.config.skip_limit

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "taken": self._taken,
            "average": self._average,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
        self._taken, self._average = state["taken"], state["average"]
