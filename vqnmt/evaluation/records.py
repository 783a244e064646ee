"""Run records: the only source of numbers in `results/`.

A file of records is a JSON list of objects, one for each system of a run. The program writes
them and generates every table from them; nobody edits them.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState

from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_write_text, check_writable, locked, remove_leftovers
from vqnmt.provenance import current_commit, describe_hardware

Metric = float | int | str

# What to do about a damaged file.
AGAIN = "restore the file, or delete it and run the experiment again"
# Seconds that one process waits for another that writes to the same file.
WAIT = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One system, measured on one corpus by one run."""

    system: str
    """What was measured, such as "AR beam 4"."""
    corpus: str
    """Catalogue name and language pair."""
    overrides: list[str]
    """The command's changes to the default configuration."""
    seed: int
    """Seed of the run."""
    commit: str
    """Commit of the code that measured, see `current_commit`."""
    training_commit: str = ""
    """Commit of the code that trained the model, several where a training went on with another;
    empty where the same code trained and measured at once, or an older version did not say."""
    hardware: dict[str, str | int]
    """Processor or GPU, threads and torch version, see `describe_hardware`."""
    wall_seconds: float
    """Time that the run took, in seconds."""
    parameters: int
    """Trainable numbers of the model."""
    metrics: dict[str, Metric]
    """`bleu.<test set>`, `chrf.<test set>`, `placeholder_accuracy.<test set>`,
    `number_accuracy.<test set>`, `bleu_signature`, `chrf_signature`,
    `latency_ms.median`, `latency_ms.p90`, `speedup_over_ar_beam4` and more."""

    @property
    def key(self) -> tuple[str, str, int, tuple[str, ...]]:
        """System, corpus, seed and overrides: a later record with the same key replaces it."""
        return self.system, self.corpus, self.seed, tuple(self.overrides)


class Training(Protocol):
    """The work that made a model, such as a `vqnmt.training.stage.Stage`."""

    commits: list[str]
    """Of the code that has worked on it."""
    seconds: float
    """Time that it took."""


def new_record(
    *,
    system: str,
    corpus: str,
    overrides: list[str],
    seed: int,
    parameters: int,
    metrics: Mapping[str, Metric],
    device: torch.device | str = "cpu",
    trained: Sequence[Training] = (),
    wall_seconds: float | None = None,
) -> Record:
    """Make a record of what this code has just measured on this machine.

    Args:
        system: See `Record`.
        corpus: See `Record`.
        overrides: See `Record`.
        seed: See `Record`.
        parameters: See `Record`.
        metrics: See `Record`.
        device: Where the models ran.
        trained: What made the model, in order.
        wall_seconds: Time that the run took; None takes that of `trained`.
    """
    commits = dict.fromkeys(commit for training in trained for commit in training.commits)
    if wall_seconds is None:
        wall_seconds = sum((training.seconds for training in trained), start=0.0)
    return Record(
        system=system,
        corpus=corpus,
        overrides=overrides,
        seed=seed,
        commit=current_commit(),
        training_commit=", ".join(commits) or ("unknown" if trained else ""),
        hardware=describe_hardware(device),
        wall_seconds=wall_seconds,
        parameters=parameters,
        metrics=dict(metrics),
    )


# The types that JSON gives for each key; a bool is an int to Python and is refused by hand.
_TYPES: dict[str, tuple[type, ...]] = {
    "system": (str,),
    "corpus": (str,),
    "overrides": (list,),
    "seed": (int,),
    "commit": (str,),
    "hardware": (dict,),
    "wall_seconds": (int, float),
    "parameters": (int,),
    "metrics": (dict,),
    "training_commit": (str,),
}
_OPTIONAL = ("training_commit",)  # records of older versions have none


def read_records(path: Path | str) -> list[Record]:
    """Read a file of records.

    Raises:
        VqnmtError: The file is missing or is not a list of records; names the entry and key.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise VqnmtError(f"{path}: no such file of run records; run the experiment") from error
    except UnicodeDecodeError as error:
        raise VqnmtError(f"{path}: not UTF-8 at byte {error.start}: {AGAIN}") from error
    except json.JSONDecodeError as error:
        raise VqnmtError(
            f"{path}: line {error.lineno} is not valid JSON ({error.msg}): {AGAIN}"
        ) from error
    if not isinstance(entries, list):
        raise VqnmtError(
            f"{path}: expected a JSON list of run records, found {type(entries).__name__}: {AGAIN}"
        )
    return [_parse(entry, f"{path}: record {number}") for number, entry in enumerate(entries, 1)]


def write_records(path: Path | str, records: Sequence[Record], *, anew: bool = False) -> None:
    """Add `records` to the file at `path`, all or none.

    A record in the file with the same system, corpus, seed and overrides is replaced in its
    place; the others stay; new ones come last. Of several processes one adds after the other.

    Args:
        path: The file.
        records: What to add.
        anew: Whether what the file has is dropped instead.

    Raises:
        VqnmtError: The file exists and is not a file of records, or it cannot be written.
        ValueError: A metric is not a finite number.
    """
    path = Path(path)
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, WAIT, "which adds its own records: start the same command again"):
            remove_leftovers(path.parent, path.name)
            before = read_records(path) if path.exists() and not anew else []
            merged = {record.key: record for record in [*before, *records]}
            entries = [_entry(record) for record in merged.values()]
            text = json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False)
            atomic_write_text(path, text + "\n")
    except OSError as error:
        raise VqnmtError(
            f"{path}: cannot be written ({error.strerror}): mend that, or set records= to another "
            "folder"
        ) from error


def publish_records(path: Path | str, places: Iterable[Path | str]) -> list[Record]:
    """Add the records in the run folder's file `path` to the files `places`, and return them.

    A place that cannot be written is a warning.

    Raises:
        VqnmtError: See `read_records`.
    """
    records = read_records(path)
    for place in places:
        try:
            write_records(place, records)
        except VqnmtError as error:
            print(
                f"warning: the records stand in the run folder alone, for {error}; the same "
                "command adds them once this is mended",
                file=sys.stderr,
                flush=True,
            )
    return records


def _entry(record: Record) -> dict[str, Any]:
    """Return a record as the file has it."""
    return {key: value for key, value in asdict(record).items() if key not in _OPTIONAL or value}


def check_places(run: str, records: list[Path]) -> None:
    """Refuse a run folder that cannot be made, and records that cannot be added to.

    Raises:
        VqnmtError: Names the key, or the file of records that is damaged.
    """
    if not PartialState().is_main_process:
        return
    if not Path(run).is_dir():  # one that is there may be complete
        check_writable(run, "run")
    for path in records:
        check_writable(path.parent, "records")
        if path.exists():
            read_records(path)


def _parse(entry: object, place: str) -> Record:
    if not isinstance(entry, dict):
        raise VqnmtError(f"{place}: expected an object, found {type(entry).__name__}: {AGAIN}")
    for key, types in _TYPES.items():
        if key not in entry:
            if key in _OPTIONAL:
                continue
            raise VqnmtError(f"{place}: the key {key!r} is missing: {AGAIN}")
        value = entry[key]
        if isinstance(value, bool) or not isinstance(value, types):
            names = " or ".join(type_.__name__ for type_ in types)
            raise VqnmtError(
                f"{place}: {key} is {value!r:.80}, which is not of type {names}: {AGAIN}"
            )
    unknown = sorted(set(entry) - set(_TYPES))
    if unknown:
        raise VqnmtError(
            f"{place}: unknown key {unknown[0]!r}; the file may be of a newer vqnmt: update it"
        )
    return Record(**entry)
