"""What a model folder must be before anything of it is used: whole, unchanged and of known types.

`SHA256SUMS` stands in every folder that this version writes, in the form that `sha256sum -c`
reads. It lists the files of the model and no other: README.md and what else is put beside them may
change. A folder without it, of an earlier version, is read as it is.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_write_text
from vqnmt.settings import from_mapping

EXPORTED = "vqnmt-export"
"""`model_type` of exports; of models that PyTorch runs it is `vqnmt`."""
CHECKSUMS = "SHA256SUMS"
AGAIN = "copy the folder again or save the model anew"

# Bytes of the files that are read as a whole, at most.
_MOST_BYTES = {CHECKSUMS: 1 << 20, "config.json": 1 << 24, "spm.model": 1 << 28}
# Of a vocabulary: the key of three pieces fits into 63 bits, see `vqnmt.language_model`.
MOST_PIECES = (1 << 21) - 1
_MOST_TOKENS = 1_000_000


@dataclasses.dataclass(kw_only=True)
class ModelConfig:
    """What every config.json of ours says; validates itself."""

    model_type: str
    format: int
    source_language: str
    target_language: str
    max_source_tokens: int

    def __post_init__(self) -> None:
        """Check the values."""
        check_range(self, "max_source_tokens", 1, _MOST_TOKENS)
        for key in ("source_language", "target_language"):
            value = getattr(self, key)
            if not (0 < len(value) <= 100 and value.isprintable()):
                raise VqnmtError(f"{key} is {value!r:.40}; it must be a language code")


ConfigT = TypeVar("ConfigT", bound=ModelConfig)


def check_range(config: object, key: str, least: float, most: float) -> None:
    """Refuse a number of `config` that is not from `least` to `most`, not a number included."""
    value = getattr(config, key)
    if not least <= value <= most or not math.isfinite(value):
        raise VqnmtError(f"{key} is {value}; it must be from {least} to {most}")


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Write `SHA256SUMS` of the files `names`, paths within `folder` with forward slashes.

    Raises:
        VqnmtError: The disk is full or the folder cannot be written.
    """
    lines = [f"{_checksum(folder / name)}  {name}\n" for name in sorted(names)]
    atomic_write_text(folder / CHECKSUMS, "".join(lines))


def read_values(folder: Path) -> dict[str, Any]:
    """Read the config.json of a model folder of any kind, as it stands.

    Raises:
        VqnmtError: There is none, or it is damaged or an image model's.
    """
    place = folder / "config.json"
    if not folder.is_dir():
        raise VqnmtError(f"{folder}: no such model folder; give one that train_nmt.py has written")
    if not place.is_file():
        if (folder / "student").is_dir():
            raise VqnmtError(
                f"{folder}: is the folder of a run, not of a model: give {folder / 'student'} or "
                f"{folder / 'teacher'}"
            )
        raise VqnmtError(f"{place}: missing, so the model folder is incomplete: {AGAIN}")
    _refuse_large(folder, place.name)
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
    """Read the config.json of a model folder, after a look at all else that must be there.

    Keys that `kind` has no field for are left alone: transformers writes some of its own.

    Args:
        folder: Given by the user.
        files: What this kind of folder must have.
        kind: Of the config.
        model_type: That config.json must name.
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


def check_files(folder: Path, files: Sequence[str]) -> None:
    """Refuse a folder of which a file is missing, too large or changed.

    Args:
        folder: Of a model.
        files: What it must have, beside what its `SHA256SUMS` lists.

    Raises:
        VqnmtError: Names the file.
    """
    for name in _MOST_BYTES:
        _refuse_large(folder, name)
    listed = _read_checksums(folder)
    for name in (*files, *listed):
        if not (folder / name).is_file():
            raise VqnmtError(
                f"{folder / name}: missing, so the model folder is incomplete: {AGAIN}"
            )
    for name, checksum in listed.items():
        if _checksum(folder / name) != checksum:
            raise VqnmtError(
                f"{folder / name}: is not the file that was saved, by its checksum in {CHECKSUMS}: "
                f"copy the folder again, or remove {CHECKSUMS} if the change is meant"
            )


def _refuse_large(folder: Path, name: str) -> None:
    path, most = folder / name, _MOST_BYTES[name]
    if path.is_file() and (size := path.stat().st_size) > most:
        raise VqnmtError(f"{path}: has {size:,} bytes, but {most:,} at most are read: {AGAIN}")


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_checksums(folder: Path) -> dict[str, str]:
    """Return the listed files with their checksums; none where there is no list."""
    place = folder / CHECKSUMS
    if not place.is_file():
        return {}
    lines = place.read_bytes().splitlines()
    found = {}
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *]([ -~]+)", line.decode(errors="replace"))
        path = PurePosixPath(match[2]) if match else PurePosixPath("/")
        if match is None or path.is_absolute() or ".." in path.parts:
            raise VqnmtError(
                f"{place}, line {number}: is no checksum of a file in this folder: {AGAIN}"
            )
        found[match[2]] = match[1]
    return found
