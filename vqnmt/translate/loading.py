"""`load_translator`: a translator from a model folder for any engine. Exports need no PyTorch."""

from pathlib import Path

from vqnmt.decode.settings import Threads
from vqnmt.errors import VqnmtError
from vqnmt.settings import checked
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.folder import EXPORTED, read_values


def load_translator(
    folder: Path | str,
    device: str | None = None,
    threads: int | None = None,
    *,
    dtype: str | None = None,
) -> BatchTranslator:
    """Load a model folder of any kind: one for PyTorch, or an exported one.

    Args:
        folder: What scripts/train_nmt.py or scripts/export.py has written.
        device: Where PyTorch runs; None takes a GPU where there is one.
        threads: Threads of one translation by an exported model; None takes one for each core.
        dtype: What PyTorch computes in, one of `DTYPES`; None takes `fp32`.

    Raises:
        VqnmtError: A file is missing or damaged, the folder is of another version, the engine is
            not installed, or an option is not for this folder or this machine.
    """
    folder = Path(folder)
    checked(Threads | None, threads, "threads")
    if read_values(folder).get("model_type") == EXPORTED:
        from vqnmt.translate.exported import load_exported

        if device not in (None, "cpu"):
            raise VqnmtError(f"device is {device}, but {folder} is exported for a CPU")
        if dtype is not None:
            raise VqnmtError(
                f"dtype is for models that PyTorch runs, but {folder} is exported: leave it out, "
                "or give the model folder that it was exported from"
            )
        return load_exported(folder, threads)
    from vqnmt.translate.pytorch import Translator

    return Translator.from_pretrained(folder, device, dtype=dtype or "fp32")
