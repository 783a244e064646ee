"""Local copies of image sets that torchvision and Hugging Face's datasets have downloaded."""

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vqnmt.errors import VqnmtError


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of one part of a data set, opened one after another."""

    items: Any
    """A sequence."""
    key: int | str
    """Where an item has its picture."""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Image.Image]:
        return (self.items[index][self.key] for index in range(len(self)))


def torchvision_parts(dataset: str, root: str) -> dict[str, Pictures]:
    """The parts `train` and `test` of a data set that torchvision has in the folder `root`.

    Args:
        dataset: A class of torchvision.datasets with such parts, such as CIFAR10 or MNIST.
        root: What torchvision calls so.

    Raises:
        VqnmtError: The package or the files are missing, or the class has no such parts.
    """
    module = _package("torchvision.datasets", dataset, "torchvision")
    kind = getattr(module, dataset, None)
    keys = set(inspect.signature(kind).parameters) if inspect.isclass(kind) else set()
    if not keys & {"train", "split"}:
        raise VqnmtError(
            f"data.dataset is {dataset!r}: it must be a class of torchvision.datasets with a "
            "training and a test part, such as CIFAR10, MNIST or FashionMNIST"
        )
    parts = {}
    for part in ("train", "test"):
        choice = {"train": part == "train"} if "train" in keys else {"split": part}
        try:
            items: Any = kind(root, download=False, **choice)  # type: ignore[misc]
        except Exception as error:  # of many kinds: each class has its own
            raise VqnmtError(
                f"{root}: torchvision finds no {dataset} there ({_reason(error)}): set data.cache "
                "to its folder, or download it with torchvision"
            ) from error
        parts[part] = Pictures(items, 0)
    return parts


def huggingface_parts(dataset: str) -> dict[str, Pictures]:
    """The parts `train`, `test` and, if it is there, `validation` of a data set on this machine.

    Args:
        dataset: A folder that `save_to_disk` wrote or that has files of the set, or the name of a
            set in the cache of datasets.

    Raises:
        VqnmtError: The package or the set is missing, or it has no such parts or no images.
    """
    module = _package("datasets", dataset, "datasets")
    try:
        if (Path(dataset) / "dataset_dict.json").is_file():
            found = module.load_from_disk(dataset)
        else:
            with _offline(module.config, importlib.import_module("huggingface_hub.constants")):
                found = module.load_dataset(dataset)
    except Exception as error:
        raise VqnmtError(
            f"data.dataset is {dataset!r}: datasets does not find it on this machine "
            f"({_reason(error)}): correct it, or download it with datasets"
        ) from error
    parts = {}
    for part in ("train", "validation", "test"):
        if part not in found:
            if part == "validation":
                continue
            raise VqnmtError(
                f"data.dataset is {dataset!r}: it has no part {part!r}, but {', '.join(found)}"
            )
        table = found[part]
        columns = [key for key, kind in table.features.items() if isinstance(kind, module.Image)]
        if not columns:
            raise VqnmtError(
                f"data.dataset is {dataset!r}: it has no column of images, but "
                f"{', '.join(table.features)}"
            )
        parts[part] = Pictures(table, columns[0])
    return parts


@contextmanager
def _offline(*settings: Any) -> Iterator[None]:
    """Let datasets and huggingface_hub look on this machine alone while entered."""
    before = [(one, one.HF_HUB_OFFLINE) for one in settings]
    try:
        for one in settings:
            one.HF_HUB_OFFLINE = True
        yield
    finally:
        for one, value in before:
            one.HF_HUB_OFFLINE = value


def _package(name: str, dataset: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a torchvision of another torch raises RuntimeError
        raise VqnmtError(
            f"data.dataset is {dataset!r}, which needs the package {package} ({_reason(error)}): "
            f"pip install {package}"
        ) from error


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
