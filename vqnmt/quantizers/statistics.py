"""How a codebook is used over many batches, and the sums over all processes."""

from dataclasses import dataclass

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if _several() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if _several() else 0


def all_reduce(tensors: list[Tensor]) -> list[Tensor]:
    """Sum each tensor over all processes in one collective; a single process gets its own."""
    if world_size() == 1:
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@dataclass(slots=True)
class CodebookStatistics:
    """Usage of a codebook since the last reset, over all processes."""

    used_codes: int
    """Number of codes that were the nearest code of at least one position."""

    perplexity: float
    """exp of the entropy of the usage histogram, 1 to K; 0 if no position was seen."""

    usage: Tensor
    """`(K,)` int64 on the CPU: number of positions whose nearest code is j."""

    posterior_entropy: float
    """Mean entropy of the posterior over codes, in nats; 0 for hard quantizers."""

    quantisation_error: float
    """Mean over positions and dimensions of (z_e - e_nearest)^2."""

    positions: int
    """Number of unmasked positions."""


class UsageCounter:
    """Sums of the statistics since the last reset.

    They are not buffers of the module: DistributedDataParallel would overwrite every rank's own
    sums with those of rank 0.
    """

    def __init__(self, codebook_size: int) -> None:
        self.codebook_size = codebook_size
        self._usage: Tensor | None = None  # (K,) float
        self._sums: Tensor | None = None  # (2,): of the entropies and of the errors

    def add(self, codes: Tensor, entropy: Tensor, error: Tensor) -> None:
        """Count one batch.

        Args:
            codes: `(N,)` nearest codes.
            entropy: Scalar, mean over the N positions in nats.
            error: Scalar, mean over the N positions (and dimensions).
        """
        if self._usage is None or self._sums is None:
            # fp64 keeps counts exact over any epoch; Apple's backend has no fp64.
            dtype = torch.float32 if codes.device.type == "mps" else torch.float64
            self._usage = torch.zeros(self.codebook_size, dtype=dtype, device=codes.device)
            self._sums = torch.zeros(2, dtype=dtype, device=codes.device)
        ones = torch.ones((), dtype=self._usage.dtype, device=codes.device).expand(codes.shape)
        self._usage.index_add_(0, codes, ones)
        self._sums += torch.stack([entropy, error]).to(self._sums.dtype) * codes.shape[0]

    def reset(self) -> None:
        """Forget everything."""
        self._usage = self._sums = None

    def state(self) -> dict[str, Tensor]:
        """Return this process's sums, for a checkpoint."""
        if self._usage is None or self._sums is None:
            return {}
        return {"usage": self._usage, "sums": self._sums}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from the sums of `state`."""
        self._usage, self._sums = state.get("usage"), state.get("sums")

    def summarise(self, device: torch.device) -> CodebookStatistics:
        """Sum over all processes and summarise; every process must call it.

        Args:
            device: Device of the zeros of a process that saw no batch.
        """
        if self._usage is None or self._sums is None:
            dtype = torch.float32 if device.type == "mps" else torch.float64
            payload = torch.zeros(self.codebook_size + 2, dtype=dtype, device=device)
        else:
            payload = torch.cat([self._usage, self._sums])
        (payload,) = all_reduce([payload])
        payload = payload.cpu().double()
        usage, (entropy, error) = payload[:-2], payload[-2:].tolist()
        positions = int(usage.sum())
        return CodebookStatistics(
            used_codes=int((usage > 0).sum()),
            perplexity=perplexity(usage),
            usage=usage.long(),
            posterior_entropy=entropy / max(positions, 1),
            quantisation_error=error / max(positions, 1),
            positions=positions,
        )


def perplexity(usage: Tensor) -> float:
    """exp(-sum_j p_j ln p_j) of a histogram of usage `(K,)`; 0 if it is empty."""
    total = usage.sum()
    if total == 0:
        return 0.0
    probabilities = usage.double() / total
    return float(torch.special.entr(probabilities).sum().exp())
