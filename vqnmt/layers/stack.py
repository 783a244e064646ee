"""A stack of equal modules, of a size that a config sets."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from vqnmt.errors import VqnmtError

# A config that asks for more is wrong, and building millions would take hours and all memory.
_MOST = 1000

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def stack(build: Callable[[], ModuleT], count: int, name: str) -> nn.ModuleList:
    """Build `count` modules.

    Args:
        build: Makes one.
        count: 0 to 1000.
        name: What they are called in the error, in the plural.

    Raises:
        VqnmtError: Names the count and what it may be.
    """
    if not 0 <= count <= _MOST:
        raise VqnmtError(f"a model cannot have {count} {name}: choose 0 to {_MOST}")
    return nn.ModuleList([build() for _ in range(count)])
