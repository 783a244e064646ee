"""Tables and pictures of the image track from records."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vqnmt.evaluation.records import Record
from vqnmt.images.likelihood import paired_difference
from vqnmt.images.plots import Strip, plot_collapse, plot_strips
from vqnmt.images.tables import VARIANTS, collapse_table, image_table, quantizers_table


def record(system: str, seed: int = 1, **metrics) -> Record:
    return Record(
        system=system,
        corpus="cifar10",
        overrides=[],
        seed=seed,
        commit="",
        hardware={},
        wall_seconds=60.0,
        parameters=100_000,
        metrics={"budget": "cpu", **metrics},
    )


def test_seeds_of_a_system_are_one_row_with_mean_and_standard_deviation():
    records = [
        record("ema", 1, bits_per_dim=4.0, used_codes=256),
        record("ema", 2, bits_per_dim=4.2, used_codes=254),
        *(
            record(
                "em",
                seed,
                bits_per_dim=3.9,
                bits_per_dim_difference=gap,
                bits_per_dim_difference_p=p,
            )
            for seed, gap, p in ((1, -0.1, 0.0), (2, -0.3, 0.25))
        ),
    ]
    bits, codes = quantizers_table(records).split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in bits.splitlines()]
    # the standard deviation of 4.0 and 4.2 with n - 1 is 0.1 sqrt(2)
    assert rows[2][:3] == ["ema", "2", "4.100 ± 0.141"] and rows[3][2] == "3.900 ± 0.000"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in codes.splitlines()]
    assert rows[2][1] == "255 ± 1" and rows[2][4:] == ["-", "-"]
    assert rows[3][4:] == ["-0.200 ± 0.141", "0.250"]
    apart = quantizers_table([records[0], dataclasses.replace(records[1], metrics={"budget": "x"})])
    assert "| ema (cpu) |" in apart and "| ema (x)   |" in apart


def test_former_names_are_shown_as_they_are_now():
    old, new = record("best", bits_per_dim=3.659), record("vae_integers", bits_per_dim=3.6)
    assert "| vae_integers |" in image_table([old]) and "3.659" in image_table([old])
    assert "3.659" not in image_table([old, new])


def test_the_collapse_table_is_in_the_order_of_the_variants(tmp_path: Path):
    records = [
        record(system, seed, variant=variant, used_codes=100 * i + seed, reconstruction_bits=4.0)
        for i, variant in reversed(list(enumerate(VARIANTS)))
        for system in ("vqvae_ema", "vqvae_em")
        for seed in (1, 2)
    ]
    lines = collapse_table(records).splitlines()[2:]
    found = [[cell.strip() for cell in line.split("|")[1:3]] for line in lines]
    assert found == [[s, v] for v in VARIANTS for s in ("vqvae_ema", "vqvae_em")]
    plot_collapse(records, tmp_path / "collapse.png")
    text = (tmp_path / "collapse.svg").read_text()
    assert all(f"<!-- {word} -->" in text for word in (*VARIANTS, "vqvae_ema", "vqvae_em"))


def test_strips_are_labelled(tmp_path: Path):
    images = np.zeros((8, 3, 32, 32), np.uint8)
    plot_strips([Strip("originals", images), Strip("vqvae_em", images)], tmp_path / "strips.png")
    assert Image.open(tmp_path / "strips.png").width >= 800
    text = (tmp_path / "strips.svg").read_text()
    assert "<!-- originals -->" in text and "<!-- vqvae_em -->" in text


def test_the_paired_test_has_the_size_that_it_says():
    """Under no difference p is uniform; a known difference is found, with its standard error."""
    torch.manual_seed(0)
    values = [
        paired_difference(torch.randn(500), torch.randn(500))["bits_per_dim_difference_p"]
        for _ in range(400)
    ]
    assert np.mean(np.array(values) < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)
    base = torch.randn(10_000)
    found = paired_difference(base + 0.01 + 0.1 * torch.randn(10_000), base)
    assert found["bits_per_dim_difference"] == pytest.approx(0.01, abs=0.003)
    assert found["bits_per_dim_difference_error"] == pytest.approx(0.001, rel=0.05)
    assert found["bits_per_dim_difference_p"] < 1e-6
    assert paired_difference(base, base)["bits_per_dim_difference_p"] == 1
