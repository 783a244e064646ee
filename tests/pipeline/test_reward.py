"""The predictor's training for reward: its loss against plain sums, and what it leaves alone."""

import itertools
import json
import math

import pytest
import torch

from vqnmt.data.corpus import ParallelText, load_corpus
from vqnmt.data.lines import Lines
from vqnmt.errors import VqnmtError
from vqnmt.layers import TransformerConfig
from vqnmt.models import LatentConfig, LatentTransformer
from vqnmt.models.latent import code_log_probabilities
from vqnmt.pipeline.config import RewardConfig
from vqnmt.pipeline.observers import LatentObserver
from vqnmt.pipeline.reward import (
    Candidates,
    RewardBatches,
    RewardedPredictor,
    RewardObserver,
    train_for_reward,
)
from vqnmt.quantizers import QuantizerConfig
from vqnmt.spans import slot
from vqnmt.translate.pytorch import Translator

CODES = 3


@pytest.fixture(params=[True, False], ids=["joint end", "end of its own"])
def model(request) -> LatentTransformer:
    torch.manual_seed(0)
    quantizer = QuantizerConfig(codebook_size=CODES, initialisation="normal")
    size = TransformerConfig(dim=16, feedforward=24, heads=2, dropout=0.0)
    config = LatentConfig(
        **{"transformer": size, "quantizer": quantizer, "joint_end": request.param},
        **{"encoder_layers": 1, "decoder_layers": 1, "compression": 1},
    )
    return LatentTransformer(config, 12).eval()


def said(model: LatentTransformer, codes: list[int]) -> list[int]:
    """Write codes in the predictor's symbols."""
    if model.config.joint_end:
        return [*codes[:-1], codes[-1] + CODES]
    return [*codes, CODES]


@torch.no_grad()
def test_log_probabilities_are_those_of_the_chain_rule(model) -> None:
    memory, memory_mask = model.encode(torch.tensor([[5, 6, 7]]))
    total = 0.0
    joint, longest = model.config.joint_end, 3
    for length in range(int(joint), longest + 1):
        for codes in itertools.product(range(CODES), repeat=length):
            row = torch.tensor([codes], dtype=torch.int64)
            logits = model.predict(model.quantizer.codes_to_vectors(row), memory, memory_mask)
            symbols = model.symbols(row[..., None], torch.ones_like(row, dtype=torch.bool))
            (found,) = code_log_probabilities(logits, *symbols)
            steps = logits[0].log_softmax(dim=-1)
            expected = sum(steps[i, symbol] for i, symbol in enumerate(said(model, list(codes))))
            assert found.item() == pytest.approx(float(expected), abs=1e-5)
            total += math.exp(found)
            if length == longest:  # all sequences that go on after these codes
                total += math.exp(sum(steps[i, code] for i, code in enumerate(codes))) * (
                    1.0 if joint else 1.0 - math.exp(steps[-1, CODES])
                )
    assert total == pytest.approx(1.0, abs=1e-5)


def batch(found: list[Candidates]) -> tuple[torch.Tensor, ...]:
    class Spelt:
        def encode(self, sentences):
            return [[ord(letter) - 92 for letter in sentence] for sentence in sentences]

    translator = type("Reader", (), {"vocabulary": Spelt()})()
    batches = RewardBatches(found, translator, seed=1)
    return batches.collate(batches.plan(0)[0])


FOUND = [
    Candidates("ab", [[0], [1, 2], [2, 0, 1]], [0.2, 0.9, 0.4]),
    Candidates("b", [[2, 2], [1]], [0.1, 0.5]),
]


@torch.no_grad()
def test_the_loss_is_the_expected_reward_over_the_candidates(model) -> None:
    losses = RewardedPredictor(model)(*batch(FOUND))
    expected = []
    for source, sequences, rewards in FOUND:
        row = torch.tensor([[ord(letter) - 92 for letter in source]])
        log_p = []
        for codes in sequences:
            vectors = model.quantizer.codes_to_vectors(torch.tensor([codes]))
            steps = model.predict(vectors, *model.encode(row))[0].log_softmax(dim=-1)
            log_p.append(sum(steps[i, symbol] for i, symbol in enumerate(said(model, codes))))
        share = torch.stack(log_p).softmax(dim=0)
        best = log_p[rewards.index(max(rewards))]
        expected.append(((share * torch.tensor(rewards)).sum().item(), best.item()))
    reward, best = (sum(column) / 2 for column in zip(*expected, strict=True))
    assert losses.terms["reward"].item() == pytest.approx(reward, abs=1e-5)
    assert losses.total.item() == pytest.approx(-reward - 0.02 * best, abs=1e-5)
    assert losses.tokens == 2


def test_only_the_predictor_moves_and_it_prefers_what_is_rewarded(model) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rewarded, given = RewardedPredictor(model), batch(FOUND)
    optimizer = torch.optim.Adam(rewarded.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        losses = rewarded(*given)
        losses.total.backward()
        optimizer.step()
    assert losses.terms["reward"].item() > 0.69  # the best possible is 0.7
    moved = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved and all(
        name.split(".")[0] in ("begin", "code_embedding", "predictor", "code_output")
        for name in moved
    )


@pytest.fixture
def student(finished_run) -> tuple[Translator, LatentObserver, ParallelText]:
    translator = Translator.from_pretrained(finished_run.folder / "student", device="cpu")
    corpus = load_corpus(finished_run.folder / "corpus")
    text = ParallelText(corpus.train.sources, Lines(finished_run.folder / "selected" / "train.de"))
    return translator, LatentObserver(translator, corpus.valid, corpus.valid.targets), text


def test_the_student_gets_no_worse_and_candidates_are_searched_once(student, tmp_path) -> None:
    translator, observer, text = student
    config = RewardConfig(steps=30, sources=60, candidates=4, learning_rate=0.003)
    watcher = RewardObserver(translator, observer)
    before = watcher.validate(translator.model)["valid/bleu"]
    train_for_reward(config, translator, observer, text, tmp_path, seed=1)
    assert watcher.validate(translator.model)["valid/bleu"] >= before
    kept = (tmp_path / "candidates.json").read_bytes()
    for source, codes, rewards in json.loads(kept):
        assert source in list(text.sources) and 2 <= len(codes) == len(rewards) <= 4
        assert all(codes) and all(0 <= reward <= 1 for reward in rewards)
    trained = {name: value.clone() for name, value in translator.model.state_dict().items()}
    train_for_reward(config, translator, observer, text, tmp_path, seed=1)
    assert (tmp_path / "candidates.json").read_bytes() == kept
    assert trained.keys() == translator.model.state_dict().keys()


def test_a_predictor_that_gets_worse_is_left_as_it_was(
    student, tmp_path, capfd, monkeypatch
) -> None:
    translator, observer, text = student
    falling = itertools.count(9, -1)
    monkeypatch.setattr(RewardObserver, "validate", lambda *_: {"valid/bleu": float(next(falling))})
    before = {name: value.clone() for name, value in translator.model.state_dict().items()}
    config = RewardConfig(steps=6, sources=40, candidates=2)
    train_for_reward(config, translator, observer, text, tmp_path, seed=1)
    assert "9.00 before, 8.00 after: the predictor stays as it was" in capfd.readouterr().out
    assert all(torch.equal(v, before[k]) for k, v in translator.model.state_dict().items())


def test_the_predictor_sees_slots_as_in_translation(student, tmp_path) -> None:
    translator, observer, text = student
    sources = [f"{source} {{name}}" for source in text.sources[:20]]
    targets = [f"{target} {{name}}" for target in text.targets[:20]]
    config = RewardConfig(steps=1, sources=20, candidates=4)
    train_for_reward(config, translator, observer, ParallelText(sources, targets), tmp_path, 1)
    found = json.loads((tmp_path / "candidates.json").read_text())
    assert found and all(source.endswith(f" {slot(0)}") for source, _, _ in found)
    ((_, source, target),) = translator.paired_batches(sources[:1], targets[:1])
    (symbol,) = translator.vocabulary.encode([slot(0)])
    assert source[0, -1] == target[0, -1] == symbol[-1]


def test_damaged_candidates_are_named(student, tmp_path) -> None:
    (tmp_path / "candidates.json").write_text('[["a", [[1]]')
    with pytest.raises(VqnmtError, match=r"candidates\.json: damaged"):
        train_for_reward(RewardConfig(), *student, tmp_path, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 1}, "reward_training.candidates is 1; it must be from 2 to 100"),
        ({"learning_rate": 0.0}, "reward_training.learning_rate is 0.0; it must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(VqnmtError, match=message):
        RewardConfig(**settings)
