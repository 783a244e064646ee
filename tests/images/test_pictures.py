"""Grids of images, nearest patches, the curve of bits; the table and the report."""

import re

import numpy as np
import pytest
from PIL import Image

from vqnmt.evaluation.records import Record
from vqnmt.evaluation.report import Picture
from vqnmt.images.plots import (
    beside,
    image_grid,
    nearest_patches,
    plot_bits,
    save_image_grid,
    square,
)
from vqnmt.images.tables import PAPER, image_table, write_image_report


def images(count, size=4):
    return np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def test_a_grid_holds_every_image(tmp_path):
    found = images(6)
    grid = image_grid([found[:3], found[3:]])
    assert grid.shape == (2 * 6 + 2, 3 * 6 + 2, 3)
    np.testing.assert_array_equal(grid[8:12, 14:18], found[5].transpose(1, 2, 0))
    assert (grid[:2] == 255).all() and (grid[:, 6:8] == 255).all()
    save_image_grid([found], tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as picture:
        factor = picture.width // 38
        assert picture.size == (38 * factor, 8 * factor) and picture.width >= 640
        assert picture.getpixel((3 * factor, 3 * factor)) == tuple(found[0, :, 1, 1])


def test_rows_of_pictures():
    one, other = images(16), images(16)[::-1]
    rows = beside(one, other)
    assert len(rows) == 4 and all(len(row) == 6 for row in rows)
    np.testing.assert_array_equal(rows[2], one[6:12])
    np.testing.assert_array_equal(rows[3], other[6:12])
    assert len(beside(one[:1], other[:1])) == 2
    assert [len(row) for row in square(images(11))] == [3, 3, 3]


def test_nearest_patches_are_the_nearest_of_the_most_used_codes():
    pictures = images(2, 8)
    codes = np.full((2, 4, 4), 3)
    codes[1, 2, 1] = 7
    codes[0, 0, 0] = 7
    distances = np.ones((2, 4, 4), np.float32)
    distances[1, 2, 1] = 0.5  # nearer than the other position of code 7
    distances[0, 3, 3] = 0.1
    rows = nearest_patches(pictures, codes, distances, count=3, side=4)
    assert len(rows) == 2 and rows[0].shape == (3, 3, 4, 4)
    np.testing.assert_array_equal(rows[0][0], pictures[0, :, 4:, 4:])  # at the corner
    # Position (2, 1) covers the pixels (4:6, 2:4); the patch lies around it.
    np.testing.assert_array_equal(rows[1][0], pictures[1, :, 3:7, 1:5])
    np.testing.assert_array_equal(rows[1][1], pictures[0, :, :4, :4])
    assert (rows[1][2] == 255).all()


def test_the_curve_is_a_picture(tmp_path):
    rows = [{"step": s, "train/reconstruction": 5 / s, "train/rate": 0.5} for s in range(1, 9)]
    rows.append({"step": 8, "valid/bits_per_dim": 4.0, "valid/rate_bits": 0.4})
    plot_bits(rows, tmp_path / "bits.png", "Training")
    plot_bits([{"step": 1, "train/prior": 3.0}], tmp_path / "prior.png", "Training")
    for name in ("bits", "prior"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == (1200, 600)
            assert np.asarray(picture.convert("L")).std() > 5


@pytest.fixture
def record():
    return Record(
        system="vqvae_em",
        corpus="cifar10",
        overrides=["system=vqvae_em"],
        seed=1,
        commit="abc",
        hardware={"processor": "p", "threads": 1},
        wall_seconds=120.0,
        parameters=1_500_000,
        metrics={
            "bits_per_dim": 4.7,
            "reconstruction_bits": 4.2,
            "rate_bits": 0.5,
            "rate_bits_uniform": 0.667,
            "used_codes": 256,
            "budget": "cpu",
        },
    )


def test_the_table_has_the_papers_figure_beside_ours(record):
    line = image_table([record]).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert " ".join(cells) == "vqvae_em cpu 4.80 4.700 4.200 0.500 0.667 256 1.5M 2.0 -"
    assert list(PAPER.values()) == [2.92, 4.51, 4.67, 4.83, 4.80]


def test_the_report_holds_all(record, tmp_path):
    write_image_report(
        tmp_path,
        title="Title",
        records=[record],
        data="ten images",
        settings={"model.codes": "1", "data.train": "a|b"},
        wall_seconds={"model": 60.0, "prior": 30.0},
        pictures=[Picture(file="a.png", alt="A picture")],
    )
    text = (tmp_path / "report.md").read_text()
    for part in ("# Title", "![A picture](a.png)", "ten images", "| model.codes |", "90.0"):
        assert part in text
    (row,) = [line for line in text.splitlines() if line.startswith("| data.train")]
    assert re.split(r"(?<!\\)\|", row)[2].strip() == r"a\|b", "one cell, whatever the value"
