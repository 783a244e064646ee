"""Exporting a saved model to a folder that translates without PyTorch."""

import contextlib
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from vqnmt.checksums import CHECKSUMS, write_checksums
from vqnmt.decode.language_model import LANGUAGE_MODEL
from vqnmt.errors import VqnmtError
from vqnmt.files import as_path, atomic_path, atomic_write_text
from vqnmt.models import AutoregressiveTransformer, LatentTransformer
from vqnmt.translate.code_index import CODE_INDEX
from vqnmt.translate.exported import FORMAT, PRECISIONS, PREVIOUS
from vqnmt.translate.folder import EXPORTED, EXPORTED_OUTPUTS, located
from vqnmt.translate.pytorch import Translator

# Prefix of the folders that a killed export leaves.
_TEMPORARY = ".export."


def export(model: Path | str, folder: Path | str, precision: str = "fp32") -> None:
    """Export a model folder: a latent Transformer to ONNX, an autoregressive one to CTranslate2.

    Args:
        model: Model folder that `vqnmt train` has written, or "hf://user/repo" for a copy of it on
            the Hub.
        folder: New or empty, or an earlier export, which is replaced when all is ready; other files
            beside it stay.
        precision: `fp32`, or `int8` for smaller and faster weights.

    Raises:
        VqnmtError: The model cannot be loaded or is of another kind, what the export needs is not
            installed, or the folder holds something else or cannot be written.
    """
    folder = as_path(folder, "folder")
    if precision not in PRECISIONS:
        raise VqnmtError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
    try:
        if folder.exists() and not (_is_export(folder) or _is_empty(folder)):
            raise VqnmtError(f"{folder}: holds something other than an export: choose a new folder")
        model = located(model, "model")
        translator = Translator.from_pretrained(model, device="cpu")
        folder.mkdir(parents=True, exist_ok=True)
        _export(translator, model, folder, precision)
    except OSError as error:
        raise VqnmtError(
            f"{folder}: cannot hold an export ({error.strerror}): choose another folder"
        ) from error


def _export(translator: Translator, model: Path, folder: Path, precision: str) -> None:
    """Write the export beside what `folder` holds, and put it in its place when all is ready."""
    for path in folder.glob(f"{_TEMPORARY}*"):  # of an export that was killed
        shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_TEMPORARY) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        values = _write_engine(translator, new, model, precision == "int8")
        values = {
            "model_type": EXPORTED,
            "format": FORMAT,
            "precision": precision,
            "source_language": translator.source_language,
            "target_language": translator.target_language,
            "max_source_tokens": translator.max_source_tokens,
            "span_patterns": translator.span_patterns,
            **values,
        }
        translator.vocabulary.save(new / "spm.model")
        atomic_write_text(new / "config.json", json.dumps(values, indent=2) + "\n")
        write_checksums(new, _files(new))
        if (model / CODE_INDEX).exists():
            shutil.copyfile(model / CODE_INDEX, new / CODE_INDEX)
        if (model / "README.md").exists():
            _write_card(model / "README.md", new, precision)
        _replace(new, folder, Path(temporary))


def _replace(new: Path, folder: Path, temporary: Path) -> None:
    """Move the files of `new` into `folder`; an earlier export there can be loaded at any moment.

    While files are moved, loading takes the copy of the earlier export in `PREVIOUS`. Files that
    belong to no export stay.
    """
    previous = folder / PREVIOUS
    if _is_export(folder) and not previous.exists():
        old = temporary / "old"
        for name in _files(folder, CHECKSUMS):
            (old / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, old / name)
        os.rename(old, previous)
    # The config comes first: the next export recognises this folder by it.
    order = sorted(_files(new), key=lambda name: (name != "config.json", name))
    for name in set(_files(folder)) - set(order):
        (folder / name).unlink()
    (folder / CODE_INDEX).unlink(missing_ok=True)
    for name in [*order, CHECKSUMS, "README.md", CODE_INDEX]:
        if (new / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(new / name, folder / name)
    with contextlib.suppress(OSError):  # of the other engine, or there is none, or it is in use
        (folder / "ctranslate2").rmdir()
    if previous.exists():
        os.rename(previous, temporary / "previous")


def _files(folder: Path, *further: str) -> list[str]:
    """List the files of an export that `folder` has, and those of `further` that it has."""
    names = "config.json", "model.onnx", "spm.model", LANGUAGE_MODEL, *further
    engine = "ctranslate2/config.json", "ctranslate2/model.bin", "ctranslate2/*_vocabulary.*"
    found = [path for name in (*names, *engine) for path in sorted(folder.glob(name))]
    return [path.relative_to(folder).as_posix() for path in found]


def _write_engine(translator: Translator, folder: Path, model: Path, int8: bool) -> dict[str, Any]:
    """Write the engine's files; return the keys of config.json that describe the model."""
    module = translator.model
    if type(module) not in (LatentTransformer, AutoregressiveTransformer):
        raise VqnmtError(
            f"{model}: only our latent and autoregressive models can be exported: translate with "
            "PyTorch"
        )
    if isinstance(module, LatentTransformer):
        if module.config.output not in EXPORTED_OUTPUTS:
            raise VqnmtError(
                f"{model}: its output {module.config.output} is a plug-in's, and exported folders "
                f"read {' and '.join(EXPORTED_OUTPUTS)} alone: translate with PyTorch"
            )
        _need("onnx")
        from vqnmt.exporting.latent_graph import latent_graph

        proto = latent_graph(module, translator.max_source_tokens, int8)
        with atomic_path(folder / "model.onnx") as path:
            path.write_bytes(proto.SerializeToString())
        if translator.language_model is not None:
            translator.language_model.save(folder / LANGUAGE_MODEL)
        config = module.config
        return {
            "compression": config.compression,
            "positions_per_code": 2**config.compression * config.upsampling,
            "output": config.output,
            "joint_end": config.joint_end,
            "blank_penalty": float(module.blank_penalty),
            "repeatable": module.repeatable.nonzero()[:, 0].tolist(),
        }
    _need("ctranslate2")
    from vqnmt.exporting.ctranslate import convert

    convert(translator, folder / "ctranslate2", int8)
    return {}


def _write_card(card: Path, folder: Path, precision: str) -> None:
    """Write the model's card into the export, with a description of the export."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    engine = "CTranslate2" if (folder / "ctranslate2").is_dir() else "ONNX Runtime"
    text = card.read_text(encoding="utf-8").rstrip()
    atomic_write_text(
        folder / "README.md",
        f"{text}\n\n## This export\n\nFor {engine} on a CPU, without PyTorch; {precision}, "
        f"{size / 1e6:.1f} MB. The scores under Quality are those of the model that it was "
        "exported from, in fp32.\n",
    )


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise VqnmtError(f"the export needs {package}: pip install 'vqnmt[export]'")


def _is_empty(folder: Path) -> bool:
    return all(path.name.startswith(_TEMPORARY) for path in folder.iterdir())


def _is_export(folder: Path) -> bool:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return bool(values["model_type"] == EXPORTED)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
