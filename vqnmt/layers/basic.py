"""What all layers and models use: dropout, stacks of modules, and the losses of a forward pass."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from vqnmt.errors import VqnmtError

_WORD = 8  # bytes of an int64

# A config that asks for more modules is wrong; building millions would take hours and all memory.
_MOST = 1000

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Dropout(nn.Dropout):
    """`nn.Dropout`, which on a CPU draws one random byte for each entry instead of a double.

    On a CPU an entry is dropped if its byte is below 256 p, rounded to an integer: p = 0.1 becomes
    26/256. The other entries are divided by the probability of being kept, which keeps the mean.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop entries of `input` in training; returns a tensor of its shape."""
        below = round(256 * self.p)
        if not self.training or input.device.type != "cpu" or not 0 < below < 256:
            return super().forward(input)
        count = input.numel()
        words = torch.empty(math.ceil(count / _WORD), dtype=torch.int64)
        words.random_(-(2**63), None)  # all 64 bits
        kept = words.view(torch.uint8)[:count].view(input.shape) >= below
        return input * kept.to(input.dtype).mul_(256 / (256 - below))


def stack(build: Callable[[], ModuleT], count: int, name: str) -> nn.ModuleList:
    """Build `count` modules.

    Args:
        build: Builds one module.
        count: 0 to 1000.
        name: Plural noun for the modules in the error.

    Raises:
        VqnmtError: `count` is out of range.
    """
    if not 0 <= count <= _MOST:
        raise VqnmtError(f"a model cannot have {count} {name}: choose 0 to {_MOST}")
    return nn.ModuleList([build() for _ in range(count)])


@dataclass(slots=True)
class Losses:
    """The loss to minimise and its parts by name.

    Attributes:
        total: Scalar to differentiate: a mean over target tokens plus the other weighted terms.
        tokens: Target tokens in the batch, the weight of this batch in an average.
        terms: Detached scalars to log, under the names that the logs carry.
        parts: Terms of `total`, with their gradient, that are means over something other than
            target tokens, such as codes.
        counts: For these terms, and for others to log, the number of things that each is a mean
            over.
    """

    total: Tensor
    tokens: int
    terms: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
