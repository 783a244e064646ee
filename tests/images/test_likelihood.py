"""Bits per dimension of a stand-in model."""

import math
from dataclasses import dataclass

import pytest
import torch

from vqnmt.images.likelihood import bits_per_dimension


@dataclass
class Bound:
    reconstruction: torch.Tensor
    rate: torch.Tensor
    rate_uniform: torch.Tensor | None


class Model:
    """Each pixel costs 8 bits, each image as many codes of 4 bits as its first value says."""

    dimensions = 12
    device = torch.device("cpu")

    def __init__(self, codes: bool) -> None:
        self.codes = codes

    def bound(self, images):
        nats = torch.full((len(images),), 12 * 8 * math.log(2))
        rate = images[:, 0, 0, 0] * 4 * math.log(2)
        return Bound(nats, rate, 2 * rate if self.codes else None)


def test_bits_are_means_over_all_images():
    images = torch.zeros(5, 3, 2, 2)
    images[:, 0, 0, 0] = torch.arange(5)
    found = bits_per_dimension(Model(True), [images[:2], images[2:]]).means()
    assert found == pytest.approx(
        {
            "bits_per_dim": 8 + 8 / 12,
            "reconstruction_bits": 8,
            "rate_bits": 8 / 12,
            "rate_bits_uniform": 16 / 12,
            "bits_per_dim_uniform": 8 + 16 / 12,
        }
    )
    assert "rate_bits_uniform" not in bits_per_dimension(Model(False), [images]).means()
