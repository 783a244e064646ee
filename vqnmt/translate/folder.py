"""Checks of a model folder before it is loaded: its files, and the keys of its config.json."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from vqnmt.checksums import AGAIN, check_files, refuse_large
from vqnmt.errors import VqnmtError
from vqnmt.settings import Constraint, Settings, between, check, from_mapping
from vqnmt.spans import check_patterns

EXPORTED = "vqnmt-export"
"""`model_type` of exports; of models that PyTorch runs it is `vqnmt`."""
EXPORTED_OUTPUTS = ("ctc", "cross_entropy")
"""The outputs of latent students that exported folders are read for."""
# Pieces of the largest vocabulary: the key of a trigram, see `vqnmt.decode.language_model`, fits
# into 63 bits.
MOST_PIECES = (1 << 21) - 1

Language = Annotated[
    str, Constraint("a language code", lambda code: 0 < len(code) <= 100 and code.isprintable())
]


@dataclasses.dataclass(kw_only=True)
class ModelConfig(Settings):
    """The keys that the config.json of every model folder has."""

    model_type: str
    format: int
    source_language: Language
    target_language: Language
    max_source_tokens: Annotated[int, between(1, 1_000_000)]
    span_patterns: list[str] = dataclasses.field(default_factory=list)
    """See `BatchTranslator`."""

    def __post_init__(self, group: str) -> None:
        """Check every field, and that the patterns are regular expressions."""
        check(self, group)
        check_patterns(self.span_patterns, "span_patterns")


ConfigT = TypeVar("ConfigT", bound=ModelConfig)


def read_values(folder: Path) -> dict[str, Any]:
    """Read the config.json of a model folder of any kind, as it stands.

    Raises:
        VqnmtError: There is none, or it is damaged or an image model's.
    """
    place = folder / "config.json"
    if not folder.is_dir():
        on_the_hub = re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(folder))
        further = f", or hf://{folder} for one of the Hub" if on_the_hub else ""
        raise VqnmtError(
            f"{folder}: no such model folder: give one that `vqnmt train` has written{further}"
        )
    if not place.is_file():
        if (folder / "student").is_dir():
            raise VqnmtError(
                f"{folder}: is the folder of a run, not of a model: give {folder / 'student'} or "
                f"{folder / 'teacher'}"
            )
        raise VqnmtError(f"{place}: missing, so the model folder is incomplete: {AGAIN}")
    refuse_large(folder, place.name)
    try:
        values = json.loads(place.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise VqnmtError(
            f"{place}: not the config of a vqnmt model ({type(error).__name__}): {AGAIN}"
        ) from error
    if not isinstance(values, dict):
        raise VqnmtError(f"{place}: not the config of a vqnmt model (no keys): {AGAIN}")
    if "image_size" in values:
        raise VqnmtError(f"{folder}: holds an image model: give the folder of a translation model")
    return values


def read_config(
    folder: Path, files: Sequence[str], kind: type[ConfigT], model_type: str, version: int
) -> ConfigT:
    """Read the config.json of a model folder, after a check of the folder's other files.

    Keys that `kind` has no field for are left alone: transformers writes some of its own.

    Args:
        folder: The model folder.
        files: Names of the files that this kind of folder must have.
        kind: Dataclass of the config.
        model_type: The `model_type` that config.json must name.
        version: The `format` that config.json must name.

    Raises:
        VqnmtError: A file is missing, too large or changed; or config.json is damaged, of another
            kind or version, or has a value of a wrong type or out of range.
    """
    place, values = folder / "config.json", read_values(folder)
    found = values.get("model_type"), values.get("format")
    if found != (model_type, version):
        raise VqnmtError(
            f"{place}: model_type and format are {found!r:.100}, this version reads "
            f"{(model_type, version)}: give another folder, or install the version that wrote it"
        )
    check_files(folder, files)
    names = {field.name for field in dataclasses.fields(kind)}
    try:
        return from_mapping(kind, {key: values[key] for key in values if key in names})
    except VqnmtError as error:
        raise VqnmtError(f"{place}: {error}: {AGAIN}") from error
