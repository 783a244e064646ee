"""Search settings that every model and every engine takes, and their bounds. No PyTorch."""

import sys
from dataclasses import dataclass, field
from typing import Annotated

from vqnmt.settings import Fraction, at_least, between, check

MOST = 1000
"""The largest beam and the most candidates: each needs the memory of one sentence."""

MOST_THREADS = 1024
Threads = Annotated[int, between(1, MOST_THREADS)]
"""Threads that a translation runs on."""

Width = Annotated[int, between(1, MOST)]
"""Of a beam, or a number of candidates."""

Temperature = Annotated[float, at_least(1e-6)]
"""Below it only the likeliest symbol would be drawn, and the division by it can overflow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingSettings:
    """How the output of a CTC decoder is read with a language model."""

    beam: Width = 4
    """Prefixes of the text kept at each position."""
    pieces: Width = 8
    """Likeliest pieces of each position among which the reading chooses."""
    least_likely: Fraction = 1 / 20
    """Pieces below this share of the probability of a position's likeliest are left out."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            VqnmtError: Names the setting, its value and the values allowed.
        """
        check(self, "reading")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """How sequences are searched, and how many candidates each sentence gets."""

    beam: Width = 1
    """Hypotheses kept for each sentence; 1 is greedy search. Raised to `candidates` if lower."""
    candidates: Width = 1
    """Sequences wanted for each sentence."""
    temperature: Temperature | None = None
    """Above 0: candidates are drawn from p ** (1 / temperature), and `beam` does not matter."""
    length_penalty: Annotated[float, at_least(-sys.float_info.max)] = 1.0
    """Finished hypotheses are compared by log-probability / length ** this."""
    language_model: bool = True
    """Whether the decoder's output of a latent model is read with its trigram model, if it has one;
    otherwise the best path is read."""
    reading: ReadingSettings = field(default_factory=ReadingSettings)
    """How it is read with the trigram model."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            VqnmtError: Names the setting, its value and the values allowed.
        """
        check(self)

    @property
    def greedy(self) -> bool:
        """Whether one sequence is wanted, of the likeliest symbol at each step."""
        return self.beam == self.candidates == 1 and self.temperature is None
