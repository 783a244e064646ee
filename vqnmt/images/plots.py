"""Pictures of an image model: grids of images, and its training in bits per dimension."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from vqnmt.evaluation.plot_style import (
    COLOURS,
    DASHES,
    MARKERS,
    STYLE,
    WIDTH_INCHES,
    save_figure,
    series,
    thousands,
)
from vqnmt.evaluation.records import Record
from vqnmt.files import atomic_path
from vqnmt.images.tables import VARIANTS

# Pixels between two images, and the smallest side of a picture of a grid.
_GAP, _SIDE = 2, 640


def image_grid(rows: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Lay out images on white.

    Args:
        rows: Each (N, 3, H, W), the same N and size for all.

    Returns:
        (height, width, 3).
    """
    count, _, height, width = rows[0].shape
    shape = (len(rows) * (height + _GAP) + _GAP, count * (width + _GAP) + _GAP, 3)
    grid = np.full(shape, 255, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            y, x = _GAP + i * (height + _GAP), _GAP + j * (width + _GAP)
            grid[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    return grid


def save_image_grid(rows: Sequence[NDArray[np.uint8]], path: Path | str) -> None:
    """Write `image_grid` as a PNG, each pixel magnified to a square of pixels.

    Raises:
        VqnmtError: The picture cannot be written.
    """
    picture = Image.fromarray(image_grid(rows))
    factor = max(-(-_SIDE // max(picture.size)), 1)
    picture = picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
    with atomic_path(path) as temporary:
        picture.save(temporary, format="png")


@dataclass(frozen=True, slots=True)
class Strip:
    """Images in a row under one label."""

    label: str
    images: NDArray[np.uint8]
    """(N, 3, H, W)."""


def plot_strips(strips: Sequence[Strip], path: Path | str) -> None:
    """Draw rows of images below each other, each with its label to the left.

    Args:
        strips: As many images of one size in each.
        path: The PNG file to write; an SVG file is written beside it.

    Raises:
        VqnmtError: A picture cannot be written.
    """
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        size = (WIDTH_INCHES, WIDTH_INCHES / (len(strips[0].images) + 1) * len(strips))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
        for panel, strip in zip(panels, strips, strict=True):
            panel.imshow(image_grid([strip.images]), interpolation="nearest")
            panel.set_ylabel(strip.label, rotation=0, ha="right", va="center")
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
        save_figure(figure, path)


def plot_collapse(records: Sequence[Record], path: Path | str) -> None:
    """Draw the codes that are used and the reconstructions by start and restarts, a point a seed.

    Args:
        records: Those of the collapse table.
        path: The PNG file to write; an SVG file is written beside it.

    Raises:
        VqnmtError: A picture cannot be written.
    """
    systems = list(dict.fromkeys(record.system for record in records))
    titles = {
        "used_codes": "Codes that the test images use",
        "reconstruction_bits": "Reconstruction, bits per dimension",
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 4.0), layout="constrained")
        for panel, (key, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
            for index, system in enumerate(systems):
                points = [
                    (VARIANTS.index(str(r.metrics["variant"])) + 0.2 * index, r.metrics[key])
                    for r in records
                    if r.system == system and r.metrics.get("variant") in VARIANTS
                ]
                style = {"color": COLOURS[index % 7], "marker": MARKERS[index % 7], "ls": ""}
                panel.plot(*zip(*points, strict=True), label=system, **style)
            panel.set(title=title, xlabel="k-means start and restarts")
            panel.set_xticks(np.arange(len(VARIANTS)) + 0.1 * (len(systems) - 1), VARIANTS)
        panel.legend()
        figure.axes[0].set_ylim(bottom=0)
        save_figure(figure, path)


def beside(originals: NDArray[np.uint8], others: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Rows of originals, each above its row of `others`, in a nearly square grid."""
    columns = max(round(np.sqrt(2 * len(originals))), 1)
    rows = []
    for first in range(0, len(originals) - columns + 1, columns):
        rows += [originals[first : first + columns], others[first : first + columns]]
    return rows or [originals, others]


def square(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """A square grid of images (N, 3, H, W); the remainder is left out."""
    columns = max(int(np.sqrt(len(images))), 1)
    return [images[i : i + columns] for i in range(0, columns * columns, columns)]


def nearest_patches(
    images: NDArray[np.uint8],
    codes: NDArray[np.int64],
    distances: NDArray[np.float32],
    count: int,
    side: int,
) -> list[NDArray[np.uint8]]:
    """The image patches whose encoder vectors are nearest to the most used codes.

    Args:
        images: (N, 3, H, W).
        codes: (N, h, w), a code at each position.
        distances: (N, h, w), of the encoder's vector from that code.
        count: Number of codes, and the most patches of each.
        side: Pixels of a patch, which is centred on the position.

    Returns:
        A row (count, 3, side, side) for each code, the most used code first; white where a code
        has fewer patches.
    """
    height = images.shape[2]
    step = height // codes.shape[1]
    used, counts = np.unique(codes, return_counts=True)
    rows = []
    for code in used[np.argsort(-counts, kind="stable")][:count]:
        found = np.argwhere(codes == code)  # (positions, 3)
        order = np.argsort(distances[codes == code], kind="stable")[:count]
        row = np.full((count, 3, side, side), 255, np.uint8)
        for slot, (n, i, j) in enumerate(found[order]):
            top, left = (
                int(np.clip(step * at + step // 2 - side // 2, 0, height - side)) for at in (i, j)
            )
            row[slot] = images[n, :, top : top + side, left : left + side]
        rows.append(row)
    return rows


def plot_bits(metrics: Sequence[Mapping[str, float]], path: Path | str, title: str) -> None:
    """Draw the bits per dimension over training: lines for training, points for validation.

    Args:
        metrics: The rows of a metrics.jsonl.
        path: The PNG file to write.
        title: Of the picture.

    Raises:
        VqnmtError: The picture cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 4.0), layout="constrained")
        panel = figure.subplots()
        for index, name in enumerate(("reconstruction", "rate", "prior")):
            steps, values = series(metrics, f"train/{name}")
            if len(steps):
                label = f"{name} (training)"
                panel.plot(steps, values, color=COLOURS[index], ls=DASHES[index], label=label)
        for index, name in enumerate(("reconstruction_bits", "rate_bits", "bits_per_dim")):
            steps, values = series(metrics, f"valid/{name}")
            if len(steps):
                panel.plot(
                    *(steps, values),
                    color=COLOURS[index if index < 2 else 3],
                    marker=MARKERS[index],
                    ls="",
                    label=f"{name.replace('_', ' ')} (validation)",
                )
        panel.set(title=title, xlabel="training step", ylabel="bits per dimension")
        if "train/prior" in {key for row in metrics for key in row}:
            panel.set_ylabel("bits per code (training), per dimension (validation)")
        thousands(panel)
        panel.legend()
        save_figure(figure, path)
