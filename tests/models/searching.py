"""Translations of models as the tests ask for them."""

from typing import Any

from torch import Tensor, nn

from vqnmt.decode.search import SearchSettings
from vqnmt.translate.generation import find_translations


def generate(model: nn.Module, source: Tensor, beam: int = 1) -> list[Any]:
    """Return the best translation of each row of `source` (B, S)."""
    return [found[0] for found in find_translations(model, source, SearchSettings(beam=beam))]
