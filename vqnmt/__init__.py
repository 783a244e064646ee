"""Discrete-latent machine translation: few autoregressive steps, all target tokens at once."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqnmt.translate.loading import load_translator
    from vqnmt.translate.pytorch import Translator

# Packages that vqnmt uses report to their makers: ONNX Runtime looks up a host and leaves a device
# id in the user's cache. They read these variables when they are imported, which comes after this.
for _name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "1")

__version__ = "0.1.0"

__all__ = ["Translator", "load_translator"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: `import vqnmt` alone stays fast."""
    if name == "load_translator":  # needs no PyTorch for an exported model
        from vqnmt.translate.loading import load_translator

        return load_translator
    if name == "Translator":
        from vqnmt.translate.pytorch import Translator

        return Translator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
