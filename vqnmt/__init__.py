"""Discrete-latent machine translation: few autoregressive steps, all target tokens at once.

    translator = vqnmt.load_translator()  # the model that ships, English to German, or a folder
    print(translator("Turn on the light"))
    best = translator.n_best(["Open the door"], num_return_sequences=4)[0]
    student = vqnmt.train("corpus=files", "corpus.train.tsv=my.tsv", run="runs/mine")
    vqnmt.export(student, "exported")  # translates without PyTorch

`vqnmt.quantizers` has the bottlenecks as modules of PyTorch. The command is `vqnmt`, or
`python -m vqnmt`.
"""

import contextlib
import importlib
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqnmt.commands.train import train
    from vqnmt.errors import VqnmtError
    from vqnmt.exporting.folder import export
    from vqnmt.translate.loading import load_translator
    from vqnmt.translate.pretrained import (
        VqnmtConfig,
        VqnmtForConditionalGeneration,
        VqnmtTokenizer,
    )
    from vqnmt.translate.pytorch import Translator
    from vqnmt.translate.translation import Translation

# Packages that vqnmt uses report to their makers: ONNX Runtime looks up a host and leaves a device
# id in the user's cache. They read these variables when they are imported, which comes after this.
for _name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_name, "1")

__version__ = "0.1.0"

__all__ = [
    "Translation",
    "Translator",
    "VqnmtConfig",
    "VqnmtError",
    "VqnmtForConditionalGeneration",
    "VqnmtTokenizer",
    "export",
    "load_translator",
    "train",
]

# Where each name comes from.
_PLACES = {
    "Translation": "vqnmt.translate.translation",
    "Translator": "vqnmt.translate.pytorch",
    "VqnmtConfig": "vqnmt.translate.pretrained",
    "VqnmtError": "vqnmt.errors",
    "VqnmtForConditionalGeneration": "vqnmt.translate.pretrained",
    "VqnmtTokenizer": "vqnmt.translate.pretrained",
    "export": "vqnmt.exporting.folder",
    "load_translator": "vqnmt.translate.loading",
    "train": "vqnmt.commands.train",
}
_LIGHT = {"Translation", "VqnmtError", "load_translator"}  # these need no extra

if not TYPE_CHECKING:  # for mypy, a name that is not imported above is a fault

    def __getattr__(name: str) -> Any:
        """Import a name when it is first asked for: `import vqnmt` alone stays fast."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(_PLACES[name]), name)
        except ModuleNotFoundError as error:
            errors = importlib.import_module("vqnmt.errors")
            raise errors.missing_extra(error) or error from None


def __dir__() -> list[str]:
    """List what can be had: `help` asks for all of it, and the light runtime lacks some."""
    names = __all__ if importlib.util.find_spec("torch") else _LIGHT
    parts = (name.removeprefix("vqnmt.") for name in sys.modules if name.startswith("vqnmt."))
    return sorted({*names, "__version__", *(part for part in parts if "." not in part)})


class _Registration(importlib.abc.MetaPathFinder):
    """Registers our classes with transformers as soon as that is imported.

    To import it for that alone takes seconds, and the light runtime does not have it.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "transformers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    with contextlib.suppress(ImportError):  # without PyTorch
        importlib.import_module("vqnmt.translate.pretrained")


if "transformers" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _Registration())
