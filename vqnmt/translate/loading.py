"""`load_translator`: a translator from a model folder for any engine. Exports need no PyTorch."""

from pathlib import Path

from vqnmt.decode.settings import Threads
from vqnmt.errors import VqnmtError, missing_extra
from vqnmt.files import shipped
from vqnmt.settings import checked
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.folder import EXPORTED, located, read_values

PRETRAINED = "pretrained/en-de"
"""The model that comes with vqnmt."""


def load_translator(
    folder: Path | str | None = None,
    device: str | None = None,
    threads: int | None = None,
    *,
    dtype: str | None = None,
) -> BatchTranslator:
    """Load a model folder of any kind: one for PyTorch, or an exported one.

    Args:
        folder: What `vqnmt train` or `vqnmt export` has written, or "hf://user/repo" for a copy of
            it on the Hub; None takes the model that comes with vqnmt, English to German.
        device: Where PyTorch runs; None takes a GPU where there is one.
        threads: Threads of one translation by an exported model; None takes one for each core.
        dtype: What PyTorch computes in: `fp32`, `bf16` or `fp16`; None takes `fp32`.

    Raises:
        VqnmtError: A file is missing or damaged, the folder is of another version, the engine is
            not installed, or an option is not for this folder or this machine.
    """
    folder = shipped(PRETRAINED) if folder is None else located(folder)
    checked(Threads | None, threads, "threads")
    if read_values(folder).get("model_type") == EXPORTED:
        from vqnmt.translate.exported import load_exported

        if device not in (None, "cpu"):
            raise VqnmtError(
                f"device is {device}, but {folder} is exported for a CPU: leave it out, or give "
                "the model folder that it was exported from"
            )
        if dtype is not None:
            raise VqnmtError(
                f"dtype is for models that PyTorch runs, but {folder} is exported: leave it out, "
                "or give the model folder that it was exported from"
            )
        translator = load_exported(folder, threads)
    else:
        try:
            from vqnmt.translate.pytorch import Translator
        except ModuleNotFoundError as error:
            raise missing_extra(error) or error from None

        translator = Translator.from_pretrained(folder, device, dtype=dtype or "fp32")
    translator.folder = folder
    return translator
