"""The exceptions that a user of vqnmt is meant to read."""


class VqnmtError(Exception):
    """A fault in what the user gave: one sentence with the place, the value found and the remedy.

    Scripts print it without a stack trace and exit with `status`; library callers may catch it.
    """

    status = 2


class Stopped(VqnmtError):
    """A signal has stopped the work, which is saved: the same command goes on with it.

    The status is the one that a shell gives a command ended by this signal.
    """

    def __init__(self, text: str, signal: int) -> None:
        super().__init__(text)
        self.status = 128 + signal


EXTRAS = {
    "train": (
        *("accelerate", "huggingface_hub", "hydra", "matplotlib", "omegaconf", "PIL", "polib"),
        *("sacrebleu", "safetensors", "tensorboard", "torch", "transformers"),
    ),
    "export": ("ctranslate2", "onnx"),
    "localization": ("fluent", "moz"),
    "quantizers": ("vector_quantize_pytorch",),
    "serve": ("prometheus_client", "py3langid", "starlette", "uvicorn"),
}
"""The packages that each extra of the installation adds, by the names that are imported."""


def missing_extra(error: ImportError) -> VqnmtError | None:
    """Say which extra brings the package that cannot be imported; None if none does."""
    package = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return VqnmtError(f"this needs {package}: pip install 'vqnmt[{extra}]'")
    return None
