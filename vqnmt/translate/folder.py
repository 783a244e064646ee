"""A model folder before it is loaded: where it is, its files, and the keys of its config.json."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from vqnmt.checksums import AGAIN, check_files, refuse_large
from vqnmt.errors import VqnmtError, missing_extra
from vqnmt.files import as_path
from vqnmt.settings import Constraint, Settings, between, check, from_mapping
from vqnmt.spans import check_patterns

EXPORTED = "vqnmt-export"
"""`model_type` of exports; of models that PyTorch runs it is `vqnmt`."""
EXPORTED_OUTPUTS = ("ctc", "cross_entropy")
"""The outputs of latent students that exported folders are read for."""
# Pieces of the largest vocabulary: the key of a trigram, see `vqnmt.decode.language_model`, fits
# into 63 bits.
MOST_PIECES = (1 << 21) - 1

HUB = "hf://"
"""Before the name of a repository on the Hub."""

# Weights of other frameworks, which repositories of transformers hold beside those for PyTorch.
_NOT_FOR_US = ["*.h5", "*.msgpack", "*.ot"]

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


def located(folder: Path | str, name: str = "folder") -> Path:
    """Return the place of a model folder; "hf://user/repo" is fetched from the Hub first.

    What is fetched stays in the cache of huggingface_hub, and is fetched anew if it has changed.

    Raises:
        VqnmtError: `folder`, called `name`, is no path; there is no such repository; the Hub is not
            reached and there is no copy; or huggingface_hub is not installed.
    """
    path = as_path(folder, name)
    if not str(folder).startswith(HUB):
        return path
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from None
    repository = str(folder)
    try:
        return Path(snapshot_download(repository.removeprefix(HUB), ignore_patterns=_NOT_FOR_US))
    except RepositoryNotFoundError as error:
        raise VqnmtError(
            f"{repository}: the Hub has no such repository, or shows it only to some: check the "
            "name, or log in by `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise VqnmtError(
            f"{repository}: {constants.ENDPOINT} is not reached, and this machine has no copy: "
            "check the network"
        ) from error
    except Exception as error:  # its errors, and those of its connections, share no other base
        first = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise VqnmtError(
            f"{repository}: cannot be fetched from the Hub ({first}): check the name, and that "
            "this machine reaches the Hub"
        ) from error


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
            f"{folder}: no such model folder; give one that vqnmt train or vqnmt export has "
            f"written{further}"
        )
    if not place.is_file():
        if (folder / "student").is_dir():
            raise VqnmtError(
                f"{folder}: is the folder of a run, not of a model: give {folder / 'student'} or "
                f"{folder / 'teacher'}"
            )
        if below := sorted(folder.glob("*/spm.model")):
            raise VqnmtError(f"{folder}: is no model folder: give one in it, {below[0].parent}")
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
    if found[0] == EXPORTED != model_type:
        raise VqnmtError(
            f"{folder}: is exported, and this needs what it was exported from: give the model "
            "folder of vqnmt train"
        )
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
