"""Dropout with cheaper random numbers on a CPU."""

import math

import torch
from torch import Tensor, nn

_WORD = 8  # bytes of an int64


class Dropout(nn.Dropout):
    """`nn.Dropout`, which on a CPU draws one random byte a value instead of a double.

    There an entry is dropped if its byte is below 256 p, rounded to an integer: p = 0.1 becomes
    26/256. The other entries are divided by their probability to stay, which keeps the mean.
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
