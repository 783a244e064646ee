"""What every model's training forward returns."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(slots=True)
class Losses:
    """The loss to minimise and its parts by name.

    Attributes:
        total: Scalar to differentiate: a mean over target tokens plus the other weighted terms.
        tokens: Target tokens in the batch, the weight of this batch in an average.
        terms: Detached scalars to log, under the names that the logs carry.
        parts: Terms of `total`, with their gradient, that are means over something else than
            target tokens.
        counts: What those terms, and other ones to log, are means over: how many.
    """

    total: Tensor
    tokens: int
    terms: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
