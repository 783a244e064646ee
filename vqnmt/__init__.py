"""Discrete-latent machine translation: few autoregressive steps, all target tokens at once."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqnmt.translator import Translator

__version__ = "0.1.0"

__all__ = ["Translator"]


def __getattr__(name: str) -> Any:
    """Import `Translator` when it is first asked for: `import vqnmt` alone stays fast."""
    if name == "Translator":
        from vqnmt.translator import Translator

        return Translator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
