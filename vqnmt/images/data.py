"""Images for the image models: CIFAR-10, a folder of the user's own, or a set of a package."""

import hashlib
import os
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from vqnmt.errors import VqnmtError
from vqnmt.images import cifar
from vqnmt.images.cifar import Images
from vqnmt.images.packaged import Pictures, huggingface_parts, torchvision_parts
from vqnmt.progress import Progress, print_once
from vqnmt.settings import NO_NUMBER, PositiveInt, Settings, above, below, between, check
from vqnmt.splits import HashSplit

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Pixels of a side: no model of ours could train on a larger image.
_LARGEST = 4096

Share = Annotated[float, above(0), below(0.5)]


@dataclass(kw_only=True, slots=True)
class ImageDataConfig(Settings):
    """Which images, of what size, split how."""

    group: InitVar[str] = "data"
    name: Literal["cifar10", "folder", "torchvision", "huggingface"] = "cifar10"
    """`cifar10`, `folder` for the user's own PNG, JPEG, WebP and BMP files, or a copy that
    `torchvision` or `huggingface` has on this machine."""
    dataset: str | None = field(default=None, metadata=NO_NUMBER)
    """A class of torchvision.datasets, such as MNIST (`torchvision`), or the name or the folder of
    a set of datasets (`huggingface`)."""
    cache: str = field(default="data", metadata=NO_NUMBER)
    """Folder for downloads (`torchvision`: its root). Files in the folder $VQNMT_DATA are preferred
    to it."""
    size: Annotated[int, between(2, _LARGEST)] = 32
    """Height and width in pixels, 2 to 4096."""
    resize: bool = False
    """Whether images of another size are cropped to a square and resized; else they are refused."""
    train: str | None = field(default=None, metadata=NO_NUMBER)
    """name=folder only: the folder of training images, searched with its subfolders."""
    valid: str | None = field(default=None, metadata=NO_NUMBER)
    """name=folder only: the validation images; None: split off the training images."""
    test: str | None = field(default=None, metadata=NO_NUMBER)
    """name=folder only: the test images; None: split off the training images."""
    valid_share: Share = 0.1
    """Share of the training images for validation: the last ones, of CIFAR-10 5,000. A folder: by
    a hash of the pixels, so that neither names nor added files move an image."""
    test_share: Share = 0.1
    """name=folder only: the same for testing."""
    max_train: PositiveInt | None = None
    """Train on this many images; None: on all."""
    max_valid: PositiveInt | None = None
    """Validate on this many images; None: on all."""
    max_test: PositiveInt | None = None
    """Test on this many images; None: on all. Records state whether all were used."""

    def __post_init__(self, group: str) -> None:
        """Check every field, and that the files fit the name."""
        check(self, group)
        if self.name == "cifar10" and self.size != 32:
            raise VqnmtError(f"data.size is {self.size}; images of data.name=cifar10 have 32")
        given = [key for key in ("train", "valid", "test") if getattr(self, key) is not None]
        if self.name != "folder" and given:
            raise VqnmtError(f"data.{given[0]} is set: use data=folder for your own images")
        if (self.dataset is None) == (self.name in ("torchvision", "huggingface")):
            remedy = "give it a name" if self.dataset is None else "leave it out"
            raise VqnmtError(
                f"data.dataset is {self.dataset!r} beside data.name={self.name}: {remedy}"
            )
        if self.name == "folder" and self.train is None:
            raise VqnmtError("data.train is empty: give it the folder of your training images")


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
        VqnmtError: A source, folder or split is missing, two parts are one folder, there are more
            images than memory, or an image is damaged or has another size; names the file.
    """
    if config.name == "cifar10":
        images, test = cifar.load_cifar10(Path(config.cache))
        cut = len(images) - round(config.valid_share * len(images))
        train, valid = images[:cut], images[cut:]
        licence, attribution = cifar.LICENCE, cifar.ATTRIBUTION
    elif config.name == "folder":
        train, valid, test = _folders(config)
        licence, attribution = "the user's own images", ""
    else:
        train, valid, test = _packaged(config)
        licence, attribution = "that of the data set", ""
    train, valid = train[: config.max_train], valid[: config.max_valid]
    test = test[: config.max_test]
    digest = hashlib.sha256()
    for part in (train, valid, test):
        digest.update(np.ascontiguousarray(part).data)
    name = Path(config.dataset).name if config.dataset else config.name
    return ImageData(train, valid, test, name, licence, attribution, digest.hexdigest()[:12])


def _packaged(config: ImageDataConfig) -> tuple[Images, Images, Images]:
    name = str(config.dataset)
    if config.name == "torchvision":
        parts = torchvision_parts(name, config.cache)
    else:
        parts = huggingface_parts(name)
    found = {part: _read_pictures(pictures, config, part) for part, pictures in parts.items()}
    train, test = found["train"], found["test"]
    cut = len(train) - round(config.valid_share * len(train))
    if "validation" in found:
        return train, found["validation"], test
    return train[:cut], train[cut:], test


def _read_pictures(pictures: Pictures, config: ImageDataConfig, part: str) -> Images:
    """Take all pictures of one part of a data set."""
    images = _allocate(len(pictures), config, f"{config.dataset}, {part}")
    with Progress(f"{part} images", len(pictures), "images") as progress:
        for index, picture in enumerate(pictures):
            place = f"{config.dataset}, {part} image {index}"
            images[index] = _fitted(_as_shown(picture), config, place)
            progress.update()
    return images


def _folders(config: ImageDataConfig) -> tuple[Images, Images, Images]:
    folders = {
        part: Path(path)
        for part, path in (("train", config.train), ("valid", config.valid), ("test", config.test))
        if path is not None
    }
    names: dict[Path, str] = {}
    for part, folder in folders.items():
        if (other := names.setdefault(folder.resolve(), part)) != part:
            raise VqnmtError(
                f"{folder}: is the folder of both data.{other} and data.{part}: give each part "
                f"images of its own, or leave data.{part} out to split some off"
            )
    given = {part: _read_folder(folder, config, part) for part, folder in folders.items()}
    split = HashSplit(
        valid_share=0.0 if "valid" in given else config.valid_share,
        test_share=0.0 if "test" in given else config.test_share,
    )
    marks = {part: [hashlib.sha256(x).hexdigest() for x in xs] for part, xs in given.items()}
    places: dict[str, list[str]] = {part: [part] * len(marks[part]) for part in given}
    places["train"] = [split.part(mark) for mark in marks["train"]]
    parts: dict[str, Images] = {}
    seen: dict[str, str] = {}  # pictures by their pixels, and the part that has them
    for part in ("test", "valid", "train"):  # what is measured on comes first, as in text corpora
        source = part if part in given else "train"
        rows = [i for i, place in enumerate(places[source]) if place == part]
        kept = [i for i in rows if marks[source][i] not in seen]
        shared = Counter(seen[marks[source][i]] for i in rows if marks[source][i] in seen)
        for other, count in sorted(shared.items()):
            print_once(
                f"{part} images: {count:,} left out, because {other} has pictures of equal pixels"
            )
        if not kept and shared:
            raise VqnmtError(
                f"{folders[source]}: no image is left for {part}, because the {len(rows):,} that "
                f"it would have are in {' and '.join(shared)} too: give data.{part} others"
            )
        if not kept:
            raise VqnmtError(
                f"data.{part} is not set, and none of the {len(marks['train'])} images in "
                f"{config.train} falls to it: give it a folder, or more images"
            )
        seen.update((marks[source][i], part) for i in kept)
        parts[part] = given[source] if len(kept) == len(given[source]) else given[source][kept]
    return parts["train"], parts["valid"], parts["test"]


def _read_folder(folder: Path, config: ImageDataConfig, part: str) -> Images:
    """Read all images below `folder`, in the order of their paths."""
    if not folder.is_dir():
        raise VqnmtError(f"{folder}: no such folder of images: correct data.{part}")
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    others = Counter(path.suffix.lower() or "without ending" for path in files)
    for suffix in SUFFIXES:
        del others[suffix]
    passed_over = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(others.items()))
    if not paths:
        raise VqnmtError(
            f"{folder}: holds no {', '.join(SUFFIXES)} file (but {passed_over or 'none at all'}): "
            f"correct data.{part}"
        )
    if others:
        print_once(f"{part} images: passed over {passed_over} (read are {', '.join(SUFFIXES)})")
    images = _allocate(len(paths), config, str(folder))
    with Progress(f"{part} images", len(paths), "images") as progress:
        for index, path in enumerate(paths):
            images[index] = _read_image(path, config)
            progress.update()
    return images


def _allocate(count: int, config: ImageDataConfig, place: str) -> Images:
    """Make an array for `count` images.

    Raises:
        VqnmtError: They take more memory than this machine has.
    """
    size, memory = count * 3 * config.size**2, _memory()
    if size > memory:
        raise VqnmtError(
            f"{place}: {count:,} images of {config.size}x{config.size} pixels take "
            f"{size / 2**30:,.1f} GiB, but this machine has {memory / 2**30:,.1f}: lower data.size"
        )
    return np.empty((count, 3, config.size, config.size), np.uint8)


def _memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_image(path: Path, config: ImageDataConfig) -> NDArray[np.uint8]:
    try:
        if not path.is_file():
            raise OSError("no regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what hinders reading raises an error
            with Image.open(path) as image:
                shown = _as_shown(image)
    except Image.DecompressionBombError as error:
        raise VqnmtError(
            f"{path}: has over {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, more than are read: "
            "make it smaller or remove it"
        ) from error
    except Exception as error:  # Pillow's readers check little: damage shows in any way
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise VqnmtError(
            f"{path}: cannot be read as an image ({reason}): repair or remove it"
        ) from error
    return _fitted(shown, config, str(path))


def _fitted(shown: Image.Image, config: ImageDataConfig, place: str) -> NDArray[np.uint8]:
    """The pixels (3, size, size) of an RGB image of that size, or resized to it where allowed."""
    size = (config.size, config.size)
    if shown.size != size:
        if not config.resize:
            raise VqnmtError(
                f"{place}: has {shown.width}x{shown.height} pixels instead of "
                f"{config.size}x{config.size}: set data.size, or data.resize=true"
            )
        shown = ImageOps.fit(shown, size, Image.Resampling.LANCZOS)
    return np.asarray(shown).transpose(2, 0, 1)


def _as_shown(image: Image.Image) -> Image.Image:
    """The RGB image that a viewer shows: turned as EXIF says, on white where it is transparent.

    Of an animation it is the first frame. Colour profiles are not applied.
    """
    image.load()
    with suppress(Exception):  # damaged EXIF turns nothing
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey: `convert` would make all above 255 white
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return image.convert("RGB")


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
