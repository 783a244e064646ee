"""Images for the image models: CIFAR-10, or a folder of the user's own."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vqnmt.data import cifar
from vqnmt.data.cifar import Images
from vqnmt.data.splits import HashSplit
from vqnmt.errors import VqnmtError
from vqnmt.progress import Progress

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(kw_only=True, slots=True)
class ImageDataConfig:
    """Which images, of what size, split how; validates itself."""

    name: str = "cifar10"
    """`cifar10`, or `folder` for the user's own PNG and JPEG files."""
    cache: str = "data"
    """Folder for downloads. Files in the folder $VQNMT_DATA are preferred to it."""
    size: int = 32
    """Height and width in pixels."""
    resize: bool = False
    """Whether images of another size are cropped to a square and resized; else they are refused."""
    train: str | None = None
    """name=folder only: the folder of training images, searched with its subfolders."""
    valid: str | None = None
    """name=folder only: the validation images; None: split off the training images."""
    test: str | None = None
    """name=folder only: the test images; None: split off the training images."""
    valid_share: float = 0.1
    """Share of the training images for validation. CIFAR-10: 0.1 are the last 5,000. A folder: by
    a hash of the pixels, so that neither names nor added files move an image."""
    test_share: float = 0.1
    """name=folder only: the same for testing."""
    max_train: int | None = None
    """Train on this many images; None: on all."""
    max_valid: int | None = None
    """Validate on this many images; None: on all."""
    max_test: int | None = None
    """Test on this many images; None: on all. Records of all images say so."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            VqnmtError: A value is out of range or does not fit the others (names the key).
        """
        if self.name not in ("cifar10", "folder"):
            raise VqnmtError(f"data.name is {self.name!r}; choose cifar10 or folder")
        if self.name == "cifar10" and self.size != 32:
            raise VqnmtError(f"data.size is {self.size}; images of data.name=cifar10 have 32")
        given = [key for key in ("train", "valid", "test") if getattr(self, key) is not None]
        if self.name == "cifar10" and given:
            raise VqnmtError(f"data.{given[0]} is set: use data=folder for your own images")
        if self.name == "folder" and self.train is None:
            raise VqnmtError("data.train is empty: give it the folder of your training images")
        if self.size < 2:
            raise VqnmtError(f"data.size is {self.size}; it must be 2 or more")
        for key in ("valid_share", "test_share"):
            if not 0 < getattr(self, key) < 0.5:
                raise VqnmtError(
                    f"data.{key} is {getattr(self, key)}; it must lie between 0 and 0.5"
                )
        for key in ("max_train", "max_valid", "max_test"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise VqnmtError(f"data.{key} is {value}; it must be 1 or more, or null")


@dataclass(slots=True)
class ImageData:
    """Images (N, 3, size, size) uint8, split."""

    train: Images
    valid: Images
    test: Images
    name: str
    licence: str
    attribution: str
    digest: str
    """Of all pixels."""

    def facts(self) -> dict[str, Any]:
        """What reports and stages say of the images."""
        counts = {part: len(getattr(self, part)) for part in ("train", "valid", "test")}
        return {"name": self.name, "digest": self.digest, **counts}


def load_images(config: ImageDataConfig) -> ImageData:
    """Load and split the images.

    Raises:
        VqnmtError: A source, folder or split is missing, or an image is damaged or has another
            size; names the file.
    """
    if config.name == "cifar10":
        images, test = cifar.load_cifar10(Path(config.cache))
        cut = len(images) - round(config.valid_share * len(images))
        train, valid = images[:cut], images[cut:]
        licence, attribution = cifar.LICENCE, cifar.ATTRIBUTION
    else:
        train, valid, test = _folders(config)
        licence, attribution = "the user's own images", ""
    train, valid = train[: config.max_train], valid[: config.max_valid]
    test = test[: config.max_test]
    digest = hashlib.sha256()
    for part in (train, valid, test):
        digest.update(np.ascontiguousarray(part).data)
    name = config.name
    return ImageData(train, valid, test, name, licence, attribution, digest.hexdigest()[:12])


def _folders(config: ImageDataConfig) -> tuple[Images, Images, Images]:
    given = {
        part: _read_folder(Path(path), config, part)
        for part, path in (("train", config.train), ("valid", config.valid), ("test", config.test))
        if path is not None
    }
    split = HashSplit(
        valid_share=0.0 if "valid" in given else config.valid_share,
        test_share=0.0 if "test" in given else config.test_share,
        min_words=1,
    )
    drawn = np.array([split.part(hashlib.sha256(x).hexdigest()) for x in given["train"]])
    parts = []
    for part in ("train", "valid", "test"):
        images = given["train"][drawn == part] if part not in given or part == "train" else None
        parts.append(given[part] if images is None else images)
        if not len(parts[-1]):
            raise VqnmtError(
                f"data.{part} is not set, and none of the {len(drawn)} images in "
                f"{config.train} falls to it: give it a folder, or more images"
            )
    return parts[0], parts[1], parts[2]


def _read_folder(folder: Path, config: ImageDataConfig, part: str) -> Images:
    """Read all images below `folder`, in the order of their paths."""
    if not folder.is_dir():
        raise VqnmtError(f"{folder}: no such folder of images: correct data.{part}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise VqnmtError(f"{folder}: holds no {', '.join(SUFFIXES)} file: correct data.{part}")
    images = np.empty((len(paths), 3, config.size, config.size), np.uint8)
    with Progress(f"{part} images", len(paths), "images") as progress:
        for index, path in enumerate(paths):
            images[index] = _read_image(path, config)
            progress.update()
    return images


def _read_image(path: Path, config: ImageDataConfig) -> NDArray[np.uint8]:
    size = (config.size, config.size)
    try:
        with Image.open(path) as image:
            if image.size != size and not config.resize:
                raise VqnmtError(
                    f"{path}: has {image.width}x{image.height} pixels instead of "
                    f"{config.size}x{config.size}: set data.size, or data.resize=true"
                )
            colours = image.convert("RGB")
            if image.size != size:
                colours = ImageOps.fit(colours, size, Image.Resampling.LANCZOS)
            return np.asarray(colours).transpose(2, 0, 1)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise VqnmtError(
            f"{path}: cannot be read as an image ({error}): repair or remove it"
        ) from error


class ImageBatches:
    """Batches of images, in an order fixed by seed and epoch, half of them mirrored.

    Args:
        images: (N, 3, H, W) uint8.
        batch_images: Images in a batch; what is left over at an epoch's end is left out.
        seed: Fixes order and mirroring.
        flip: Whether to mirror.
    """

    unit = "images"

    def __init__(self, images: Images, batch_images: int, seed: int, flip: bool) -> None:
        self.images, self.seed, self.flip = images, seed, flip
        self.batch_images = min(batch_images, len(images))

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Plan the batches of `epoch`: numbers n, or n + N for image n mirrored."""
        generator = np.random.default_rng((self.seed, epoch))
        order = generator.permutation(len(self.images))
        if self.flip:
            order = order + len(self.images) * generator.integers(0, 2, len(order))
        count = len(order) // self.batch_images
        return list(order[: count * self.batch_images].reshape(count, -1))

    def collate(self, indices: NDArray[np.int64]) -> tuple[Tensor]:
        """Return the images (B, 3, H, W) uint8 of one planned batch."""
        mirrored, rows = np.divmod(indices, len(self.images))
        images = self.images[rows]
        images[mirrored == 1] = images[mirrored == 1, :, :, ::-1]
        return (torch.from_numpy(images),)


def batches_in_order(images: Images, size: int) -> list[Tensor]:
    """Cut `images` (N, 3, H, W) into batches of at most `size`, as uint8 tensors."""
    parts = (images[i : i + size] for i in range(0, len(images), size))
    return [torch.from_numpy(part.copy()) for part in parts]


def deciding_settings(config: ImageDataConfig) -> dict[str, Any]:
    """The settings that decide the images: all but where downloads stand."""
    settings = asdict(config)
    del settings["cache"]
    return settings
