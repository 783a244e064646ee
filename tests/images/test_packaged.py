"""Image sets that other packages have downloaded; stand-ins where those are not installed."""

import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from vqnmt.errors import VqnmtError
from vqnmt.images.data import ImageDataConfig, load_images

COUNTS = {"train": 20, "test": 6}


def grey(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def load(name: str, dataset: str, **further):
    return load_images(ImageDataConfig(name=name, dataset=dataset, **{"size": 28, **further}))


def check_parts(data, train: int = 18, valid: int = 2) -> None:
    assert (len(data.train), len(data.valid), len(data.test)) == (train, valid, 6)
    assert data.train.shape[1:] == (3, 28, 28)
    for channel in range(3):
        np.testing.assert_array_equal(data.test[:, channel], grey(6, 1))
    whole = np.concatenate([data.train, data.valid])[:, 0]
    np.testing.assert_array_equal(whole[:20], grey(20, 0))


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes with the signatures of torchvision's MNIST (train=) and SVHN (split=)."""

    class MNIST:
        def __init__(self, root, train=True, transform=None, download=False):
            assert not download
            if not Path(root).is_dir():
                raise RuntimeError("Dataset not found. You can use download=True to download it")
            self.images = grey(20, 0) if train else grey(6, 1)

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return Image.fromarray(self.images[index]), 7

    class SVHN(MNIST):
        def __init__(self, root, split="train", download=False):
            super().__init__(root, split == "train", None, download)

    class FakeData:
        def __init__(self, size=1000):
            pass

    package, module = types.ModuleType("torchvision"), types.ModuleType("torchvision.datasets")
    module.MNIST, module.SVHN, module.FakeData = MNIST, SVHN, FakeData
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)


@pytest.mark.parametrize("dataset", ["MNIST", "SVHN"])
def test_a_set_of_torchvision_is_split_in_its_own_order(torchvision, tmp_path, dataset):
    data = load("torchvision", dataset, cache=str(tmp_path))
    check_parts(data)
    assert data.name == dataset and data.facts()["train"] == 18
    assert len(load("torchvision", dataset, cache=str(tmp_path), max_test=2).test) == 2


def test_a_set_of_another_size_is_resized_where_that_is_asked_for(torchvision, tmp_path):
    with pytest.raises(VqnmtError, match="MNIST, train image 0: has 28x28 pixels instead of 32x32"):
        load("torchvision", "MNIST", cache=str(tmp_path), size=32)
    data = load("torchvision", "MNIST", cache=str(tmp_path), size=32, resize=True)
    assert data.test.shape == (6, 3, 32, 32)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            "MNIST",
            r"none: torchvision finds no MNIST there \(Dataset not found.*\): set data\.cache",
        ),
        ("Mnist", r"data\.dataset is 'Mnist': it must be a class of torchvision\.datasets"),
        ("FakeData", "with a training and a test part, such as CIFAR10"),
    ],
)
def test_faults_of_torchvision_are_named(torchvision, tmp_path, dataset, message):
    with pytest.raises(VqnmtError, match=message):
        load("torchvision", dataset, cache=str(tmp_path / "none"))


def test_files_that_torchvision_has_written(tmp_path):
    """With the package itself, where it is installed."""
    pytest.importorskip("torchvision.datasets", exc_type=Exception)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, images in (("train", grey(20, 0)), ("t10k", grey(6, 1))):
        head = struct.pack(">iiii", 0x803, *images.shape)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">ii", 0x801, len(images))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(head + bytes(len(images)))
    check_parts(load("torchvision", "MNIST", cache=str(tmp_path)))


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch):
    """A module with what is used of datasets; tests change `tables`."""

    class Picture:
        pass

    class Table(list):
        def __init__(self, images, features):
            super().__init__({"label": 1, "img": Image.fromarray(image)} for image in images)
            self.features = features

    features = {"label": object(), "img": Picture()}
    module = types.ModuleType("datasets")
    module.Image, module.Table = Picture, Table
    module.tables = {
        "train": Table(grey(20, 0), features),
        "test": Table(grey(6, 1), features),
    }
    module.config = types.SimpleNamespace(HF_HUB_OFFLINE=False)

    def load_dataset(name):
        assert module.config.HF_HUB_OFFLINE and constants.HF_HUB_OFFLINE
        if name != "mnist":
            raise FileNotFoundError(f"Couldn't find {name} in the cache")
        return module.tables

    module.load_dataset = load_dataset
    module.load_from_disk = lambda folder: module.tables
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_a_set_of_the_hub_in_the_cache(datasets):
    before = constants.HF_HUB_OFFLINE
    check_parts(load("huggingface", "mnist"))
    assert before == constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE
    datasets.tables["validation"] = datasets.Table(grey(3, 2), datasets.tables["train"].features)
    check_parts(load("huggingface", "mnist"), train=20, valid=3)


def test_a_set_that_was_saved_to_disk(datasets, tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{}")
    data = load("huggingface", str(tmp_path))
    check_parts(data)
    assert data.name == tmp_path.name


def test_faults_of_datasets_are_named(datasets):
    with pytest.raises(VqnmtError, match=r"'other': datasets does not find it on this machine \("):
        load("huggingface", "other")
    del datasets.tables["test"]
    with pytest.raises(VqnmtError, match="it has no part 'test', but train"):
        load("huggingface", "mnist")
    datasets.tables["train"].features = {"text": object()}
    with pytest.raises(VqnmtError, match="it has no column of images, but text"):
        load("huggingface", "mnist")


@pytest.mark.parametrize("name", ["torchvision", "huggingface"])
def test_a_missing_package_is_named(monkeypatch, name):
    package = {"torchvision": "torchvision", "huggingface": "datasets"}[name]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(VqnmtError, match=rf"needs the package {package} .*: pip install {package}"):
        load(name, "mnist")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "torchvision"}, r"data\.dataset is None beside data\.name=torchvision: give it"),
        ({"dataset": "MNIST"}, r"data\.dataset is 'MNIST' beside data\.name=cifar10: leave it out"),
        ({"name": "huggingface", "dataset": "x", "train": "y"}, "use data=folder for your own"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(VqnmtError, match=message):
        ImageDataConfig(**settings)
