"""Discrete-latent machine translation: few autoregressive steps, all target tokens at once."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqnmt.commands.train import train
    from vqnmt.errors import VqnmtError
    from vqnmt.export.folder import export_model
    from vqnmt.translate.base import Translation
    from vqnmt.translate.loading import load_translator
    from vqnmt.translate.pytorch import Translator

# Packages that vqnmt uses report to their makers: ONNX Runtime looks up a host and leaves a device
# id in the user's cache. They read these variables when they are imported, which comes after this.
for _name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "1")

__version__ = "0.1.0"

__all__ = [
    "Translation",
    "Translator",
    "VqnmtError",
    "export_model",
    "load_translator",
    "train",
]

# Where each name comes from. All but `train`, `export_model` and `Translator` need no PyTorch.
_PLACES = {
    "Translation": "vqnmt.translate.base",
    "Translator": "vqnmt.translate.pytorch",
    "VqnmtError": "vqnmt.errors",
    "export_model": "vqnmt.export.folder",
    "load_translator": "vqnmt.translate.loading",
    "train": "vqnmt.commands.train",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: `import vqnmt` alone stays fast."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
