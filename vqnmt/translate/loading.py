"""`load_translator`: a translator from a model folder for any engine. Exports need no PyTorch."""

from pathlib import Path

from vqnmt.decode.settings import Threads
from vqnmt.errors import VqnmtError, missing_extra
from vqnmt.files import as_path, shipped
from vqnmt.settings import checked
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.folder import EXPORTED, read_values

PRETRAINED = "pretrained/en-de"
"""The model that comes with vqnmt."""

HUB = "hf://"
"""Before the name of a repository on the Hub."""

# Weights of other frameworks, which repositories of transformers hold beside those for PyTorch.
_NOT_FOR_US = ["*.h5", "*.msgpack", "*.ot"]


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
    if folder is None:
        folder = shipped(PRETRAINED)
    elif isinstance(folder, str) and folder.startswith(HUB):
        folder = fetched(folder)
    folder = as_path(folder, "folder")
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
        translator = load_exported(folder, threads)
    else:
        try:
            from vqnmt.translate.pytorch import Translator
        except ModuleNotFoundError as error:
            raise missing_extra(error) or error from None

        translator = Translator.from_pretrained(folder, device, dtype=dtype or "fp32")
    translator.folder = folder
    return translator


def fetched(name: str) -> Path:
    """Fetch "hf://user/repo" from the Hub, unless its copy in the cache is current.

    Returns:
        The folder of the copy.

    Raises:
        VqnmtError: There is no such repository, the Hub is not reached and there is no copy, or
            huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from None
    try:
        return Path(snapshot_download(name.removeprefix(HUB), ignore_patterns=_NOT_FOR_US))
    except RepositoryNotFoundError as error:
        raise VqnmtError(
            f"{name}: the Hub has no such repository, or shows it only to some: check the name, or "
            "log in by `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise VqnmtError(
            f"{name}: {constants.ENDPOINT} is not reached, and this machine has no copy: check the "
            "network"
        ) from error
    except Exception as error:  # its errors, and those of its connections, share no other base
        first = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise VqnmtError(
            f"{name}: cannot be fetched from the Hub ({first}): check the name, and that this "
            "machine reaches the Hub"
        ) from error
