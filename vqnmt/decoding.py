"""How translations are looked for: settings that every model and every engine takes."""

import math
from dataclasses import dataclass
from numbers import Integral, Real

from vqnmt.errors import VqnmtError

MOST_HYPOTHESES = 1000
"""Of a beam, and candidates of a sentence: more fill the memory and find nothing better."""


def check_hypotheses(key: str, value: object) -> None:
    """Refuse a beam or a number of candidates that is out of range.

    Args:
        key: What to name in the error.
        value: A whole number, or what was given instead.

    Raises:
        VqnmtError: Names the key, its value and the values allowed.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not 1 <= value <= MOST_HYPOTHESES:  # type: ignore[operator]
        raise VqnmtError(
            f"{key} is {value!r}; it must be a whole number from 1 to {MOST_HYPOTHESES}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """How sequences are looked for, and how many are wanted of each sentence."""

    beam: int = 1
    """Hypotheses kept a sentence; 1 is greedy search. Raised to `candidates` where it is less."""
    candidates: int = 1
    """Sequences wanted of each sentence."""
    temperature: float | None = None
    """Above 0: candidates are drawn from p ** (1 / temperature), and `beam` does not matter."""
    length_penalty: float = 1.0
    """Finished hypotheses are compared by log-probability / length ** this."""
    language_model: bool = True
    """Whether a latent model that has a trigram model reads what its decoder says with its help;
    else, and where there is none, the best path is read."""

    def __post_init__(self) -> None:
        """Check every value that the types leave open.

        Raises:
            VqnmtError: Names the setting, its value and the values allowed.
        """
        for key in ("beam", "candidates"):
            check_hypotheses(key, getattr(self, key))
        warmth, penalty = self.temperature, self.length_penalty
        if warmth is not None and not (isinstance(warmth, Real) and 0 < warmth < math.inf):
            raise VqnmtError(f"temperature is {warmth!r}; it must be a number above 0")
        if not (isinstance(penalty, Real) and math.isfinite(penalty)):
            raise VqnmtError(f"length_penalty is {penalty!r}; it must be a finite number")

    @property
    def greedy(self) -> bool:
        """Whether one sequence is wanted, of the likeliest symbol at each step."""
        return self.beam == self.candidates == 1 and self.temperature is None
