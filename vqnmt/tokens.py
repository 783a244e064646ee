"""The ids of the special pieces, and the limit on the length of a translation. No PyTorch."""

from typing import Any

PAD, BOS, EOS, UNK = 0, 1, 2, 3
"""Padding, begin, end and the unknown piece: the same ids in every vocabulary."""


def length_limit(source_tokens: Any) -> Any:
    """Return the most tokens that a translation of `source_tokens` tokens may have.

    Args:
        source_tokens: A number, or an array or tensor of numbers, which gives one of its kind.
    """
    return 2 * source_tokens + 10
