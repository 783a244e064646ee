"""The collectives of the quantizers, which also work in a single process."""

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if _several() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if _several() else 0


def all_reduce(tensors: list[Tensor]) -> list[Tensor]:
    """Sum each tensor over all processes in one collective; as it is for one process."""
    if world_size() == 1:
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
