"""Codebooks on one stream of vectors: who collapses, and what the history says of it."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch

from vqnmt.data.corpus import ParallelText
from vqnmt.errors import VqnmtError
from vqnmt.experiments.collapse import (
    CollapseConfig,
    codebook_steps,
    encoder_vectors,
    gaussian_vectors,
    train_codebook,
)
from vqnmt.experiments.comparison import history_metrics
from vqnmt.quantizers import QuantizerConfig
from vqnmt.translate.pytorch import Translator

CONFIG = CollapseConfig(codebook_size=64, steps=100, batch=256, vectors=4096, dim=4)


def history(system: str, config: CollapseConfig = CONFIG, decay: float = 0.99):
    make = codebook_steps(QuantizerConfig(codebook_size=config.codebook_size, decay=decay))[system]
    return train_codebook(make, gaussian_vectors(config, seed=1), config, 1, system)


def test_reference_start_collapses_and_ours_do_not() -> None:
    systems = ("ema_reference_start", "ema", "soft_em")
    found = {system: history(system) for system in systems}
    assert found["ema_reference_start"].used(-1) <= 4
    for system in ("ema", "soft_em"):
        assert found[system].used(-1) >= 60
        assert found[system].perplexity(-1) > 40
        assert found[system].error < 0.5 < found["ema_reference_start"].error


def test_soft_em_merges_codes_above_the_critical_temperature() -> None:
    """All codes at the mean are stable above twice the largest variance (Rose et al. 1990)."""
    # Here the variances are 1 and the distances are divided by sqrt(d): 4 and 1.
    hot, cold = (
        history("soft_em_sqrt_dim", replace(CONFIG, steps=300, dim=dim, codebook_size=32), 0.9)
        for dim in (16, 1)
    )
    assert hot.error > 0.9
    assert cold.error < 0.1


def test_defaults_of_vector_quantize_pytorch_collapse_on_offset_vectors() -> None:
    pytest.importorskip("vector_quantize_pytorch")
    found = history("vq_pytorch_defaults")
    assert found.used(-1) <= 32
    # Without the offset the same codebook does well: the measurement is not what fails it.
    centred = replace(CONFIG, offset=0.0)
    assert history("vq_pytorch_defaults", centred).used(-1) > 1.5 * found.used(-1)


def test_every_position_is_counted_once() -> None:
    config = replace(CONFIG, steps=103)
    found = history("ema", config)
    assert found.steps.tolist() == [*range(2, 103, 2), 103]
    assert found.usage.shape == (52, 64)
    windows = np.diff(found.steps, prepend=0)
    assert found.usage.sum(axis=1).tolist() == (windows * config.batch).tolist()


def test_all_codebooks_see_the_same_batches_and_runs_repeat() -> None:
    seen: dict[str, list[torch.Tensor]] = {}

    def make(dim: int):
        def step(vectors):
            seen[name].append(vectors.clone())
            return torch.randint(64, vectors.shape[:1]), torch.tensor(0.0)

        return step

    for name in ("a", "b"):
        seen[name] = []
        train_codebook(make, gaussian_vectors(CONFIG, 1), CONFIG, 1, name)
        torch.randn(len(name))
    assert all(torch.equal(*pair) for pair in zip(seen["a"], seen["b"], strict=True))
    assert (history("soft_em").usage == history("soft_em").usage).all()


def test_error_of_a_single_code_is_one() -> None:
    """The best place of one code is the mean, where its error is the variance."""
    found = history("ema", replace(CONFIG, codebook_size=1))
    assert found.error == pytest.approx(1.0, abs=0.06)
    assert found.perplexity(-1) == pytest.approx(1.0)


def test_gaussian_vectors_have_the_offset_and_unit_covariance() -> None:
    vectors = gaussian_vectors(CONFIG, seed=1)
    assert vectors.shape == (4096, 4)
    assert torch.allclose(vectors.mean(dim=0), torch.full((4,), 3.0), atol=0.1)
    assert torch.allclose(vectors.T.cov(), torch.eye(4), atol=0.1)


def test_metrics_of_a_history_are_those_of_its_steps() -> None:
    found = history_metrics(history("ema"))
    steps = [2, 10, 50, 100]
    assert [key for key in found if key.startswith("used")][1:] == [
        f"used_codes.step_{step}" for step in steps
    ]
    assert found["perplexity.step_100"] == found["perplexity"]


def test_encoder_vectors_are_those_of_the_pairs_alone(finished_run) -> None:
    """Padding and the order of the batches change which come first, not what they are."""
    student = Translator.from_pretrained(finished_run.folder / "student", device="cpu")
    pairs = finished_run.lines("corpus/train.en")[:20], finished_run.lines("corpus/train.de")[:20]
    text = ParallelText(*pairs)
    found = encoder_vectors(student, text, count=10_000, seed=1)
    expected = []
    with torch.no_grad():
        for source, target in zip(*map(student.vocabulary.encode, pairs), strict=True):
            memory = student.model.encode(torch.tensor([source]))
            expected.append(student.model.compress(torch.tensor([target]), *memory)[0][0])
    rows = torch.cat(expected)
    assert found.shape == rows.shape
    distances = (found[:, None] - rows).abs().amax(dim=2)
    assert distances.min(dim=0).values.max() < 1e-4
    assert distances.min(dim=1).values.max() < 1e-4
    assert len(encoder_vectors(student, text, count=7, seed=1)) == 7


def test_a_size_of_zero_and_a_missing_package_are_named() -> None:
    with pytest.raises(VqnmtError, match=r"collapse\.vectors is 0; it must be 1 or more"):
        CollapseConfig(vectors=0)
    with (
        mock.patch.dict("sys.modules", {"vector_quantize_pytorch": None}),
        pytest.raises(VqnmtError, match=r"vqnmt\[quantizers\].*collapse\.steps=0"),
    ):
        history("vq_pytorch_defaults")
