"""Exporting a saved model to a folder that translates without PyTorch."""

import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from vqnmt.errors import VqnmtError
from vqnmt.export.runtime import FORMAT, MODEL_TYPE
from vqnmt.files import atomic_write_text
from vqnmt.language_model import LANGUAGE_MODEL
from vqnmt.models import AutoregressiveTransformer, LatentTransformer
from vqnmt.translator import Translator

PRECISIONS = ("fp32", "int8")


def export_model(model: Path | str, folder: Path | str, precision: str) -> None:
    """Export a model folder: a latent Transformer to ONNX, an autoregressive one to CTranslate2.

    Args:
        model: Model folder that train_nmt.py has written.
        folder: New or empty, or an earlier export, which is replaced when all is ready.
        precision: One of `PRECISIONS`.

    Raises:
        VqnmtError: The model cannot be loaded or is of another kind, what the export needs is not
            installed, or the folder holds something else or cannot be written.
    """
    model, folder = Path(model), Path(folder)
    if precision not in PRECISIONS:
        raise VqnmtError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if folder.exists() and any(folder.iterdir()) and not _is_export(folder):
        raise VqnmtError(f"{folder}: holds something other than an export: choose a new folder")
    translator = Translator.from_pretrained(model, device="cpu")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        new = Path(temporary) / folder.name
        new.mkdir()
        values = _write_engine(translator, new, model, precision == "int8")
        values = {
            "model_type": MODEL_TYPE,
            "format": FORMAT,
            "precision": precision,
            "source_language": translator.source_language,
            "target_language": translator.target_language,
            "max_source_tokens": translator.max_source_tokens,
            **values,
        }
        translator.vocabulary.save(new / "spm.model")
        atomic_write_text(new / "config.json", json.dumps(values, indent=2) + "\n")
        if (model / "README.md").exists():
            _write_card(model / "README.md", new, precision)
        if folder.exists():
            os.rename(folder, Path(temporary) / "old")
        os.rename(new, folder)


def _write_engine(translator: Translator, folder: Path, model: Path, int8: bool) -> dict[str, Any]:
    """Write what the engine reads; returns what the runtime must know of the model."""
    module = translator.model
    if isinstance(module, LatentTransformer):
        _need("onnx")
        from vqnmt.export.latent_graph import latent_graph

        proto = latent_graph(module, translator.max_source_tokens, int8)
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        if translator.language_model is not None:
            translator.language_model.save(folder / LANGUAGE_MODEL)
        config = module.config
        return {
            "compression": config.compression,
            "positions_per_code": 2**config.compression * config.upsampling,
            "output": config.output,
            "blank_penalty": float(module.blank_penalty),
            "repeatable": module.repeatable.nonzero()[:, 0].tolist(),
        }
    if isinstance(module, AutoregressiveTransformer):
        _need("ctranslate2")
        from vqnmt.export.ctranslate import convert

        convert(translator, folder / "ctranslate2", int8)
        return {}
    raise VqnmtError(f"{model}: only latent and autoregressive models can be exported")


def _write_card(card: Path, folder: Path, precision: str) -> None:
    """Write the model's card into the export, and say there what the export is."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    engine = "CTranslate2" if (folder / "ctranslate2").is_dir() else "ONNX Runtime"
    text = card.read_text(encoding="utf-8").rstrip()
    atomic_write_text(
        folder / "README.md",
        f"{text}\n\n## This export\n\nFor {engine} on a CPU, without PyTorch; {precision}, "
        f"{size / 1e6:.1f} MB. The scores above are those of the model that it was exported from, "
        "in fp32.\n",
    )


def _need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise VqnmtError(f"the export needs {package}: pip install 'vqnmt[export]'")


def _is_export(folder: Path) -> bool:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return bool(values["model_type"] == MODEL_TYPE)
    except (OSError, ValueError, KeyError, TypeError):
        return False
