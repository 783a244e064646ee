"""How translations are looked for: settings that every model and every engine takes."""

import math
from dataclasses import dataclass

from vqnmt.errors import VqnmtError


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
            if getattr(self, key) < 1:
                raise VqnmtError(f"{key} is {getattr(self, key)}; it must be 1 or more")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise VqnmtError(f"temperature is {self.temperature}; it must be above 0")

    @property
    def greedy(self) -> bool:
        """Whether one sequence is wanted, of the likeliest symbol at each step."""
        return self.beam == self.candidates == 1 and self.temperature is None
