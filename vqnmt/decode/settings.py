"""Search settings that every model and every engine takes, and their bounds. No PyTorch."""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real

from vqnmt.errors import VqnmtError

MOST = 1000
"""The largest beam and the most candidates: each needs the memory of one sentence."""

MOST_THREADS = 1024
"""The most threads that a translation may be asked to run on."""

LEAST_TEMPERATURE = 1e-6
"""Below it only the likeliest symbol would be drawn, and the division by it can overflow."""


def check_width(key: str, value: object) -> None:
    """Check a beam or a number of candidates.

    Raises:
        VqnmtError: It is not a whole number from 1 to `MOST`.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not 1 <= value <= MOST:  # type: ignore[operator]
        raise VqnmtError(f"{key} is {value!r}; it must be a whole number from 1 to {MOST}")


def check_temperature(key: str, value: object) -> None:
    """Check a temperature.

    Raises:
        VqnmtError: It is below `LEAST_TEMPERATURE`, infinite or not a number.
    """
    if not (isinstance(value, Real) and LEAST_TEMPERATURE <= float(value) < math.inf):
        raise VqnmtError(
            f"{key} is {value!r}; it must be a number, {LEAST_TEMPERATURE} or more, and finite"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingSettings:
    """How the output of a CTC decoder is read with a language model."""

    beam: int = 4
    """Prefixes of the text kept at each position."""
    pieces: int = 8
    """Likeliest pieces of each position among which the reading chooses."""
    least_likely: float = 1 / 20
    """Pieces below this share of the probability of a position's likeliest are left out."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            VqnmtError: Names the setting, its value and the values allowed.
        """
        for key in ("beam", "pieces"):
            check_width(f"reading.{key}", getattr(self, key))
        if not (isinstance(self.least_likely, Real) and 0 <= float(self.least_likely) < 1):
            raise VqnmtError(
                f"reading.least_likely is {self.least_likely!r}; it must be 0 or more and below 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """How sequences are searched, and how many candidates each sentence gets."""

    beam: int = 1
    """Hypotheses kept for each sentence; 1 is greedy search. Raised to `candidates` if lower."""
    candidates: int = 1
    """Sequences wanted for each sentence."""
    temperature: float | None = None
    """Above 0: candidates are drawn from p ** (1 / temperature), and `beam` does not matter."""
    length_penalty: float = 1.0
    """Finished hypotheses are compared by log-probability / length ** this."""
    language_model: bool = True
    """Whether the decoder's output of a latent model is read with its trigram model, if it has one;
    otherwise the best path is read."""
    reading: ReadingSettings = field(default_factory=ReadingSettings)
    """How it is read with the trigram model."""

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the setting, its value and the values allowed.
        """
        for key in ("beam", "candidates"):
            check_width(key, getattr(self, key))
        if self.temperature is not None:
            check_temperature("temperature", self.temperature)
        penalty = self.length_penalty
        if not (isinstance(penalty, Real) and math.isfinite(penalty)):
            raise VqnmtError(f"length_penalty is {penalty!r}; it must be a finite number")

    @property
    def greedy(self) -> bool:
        """Whether one sequence is wanted, of the likeliest symbol at each step."""
        return self.beam == self.candidates == 1 and self.temperature is None
