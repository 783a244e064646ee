"""What validations choose."""

import numpy as np
import pytest
import torch

from vqnmt.data.corpus import ParallelText
from vqnmt.decode.language_model import FusionWeights, TrigramModel
from vqnmt.layers import TransformerConfig
from vqnmt.models import LatentTransformer
from vqnmt.models.latent import LatentConfig
from vqnmt.pipeline.observers import LatentObserver, choose_language_model
from vqnmt.translate.pytorch import Translation

SOURCE, REFERENCE = "a", "one two three four five six seven eight"


class Writer:
    """Writes the more words of the reference, the more is taken from the blank's score."""

    target_language, device, batch_tokens = "de", torch.device("cpu"), 64

    def __init__(self, model: LatentTransformer) -> None:
        self.model = model

    def translate(self, sentences: list[str], repair: bool) -> list[Translation]:
        words = REFERENCE.split()[: 5 + int(self.model.blank_penalty)]
        return [Translation(" ".join(words), codes=[1]) for _ in sentences]

    def encode(self, sentences: list[str]) -> list[list[int]]:
        return [[4 + len(word) % 5 for word in sentence.split()] for sentence in sentences]

    def paired_batches(self, *sides: list[str]) -> list[tuple[object, ...]]:
        return [([0], *(torch.tensor(self.encode(side)) for side in sides))]

    def reconstruct(self, sentences: list[str], targets: list[str]) -> list[str]:
        return list(targets)


@pytest.mark.parametrize(("words", "expected"), [(8, 3.0), (6, 1.0)])
def test_blank_penalty_brings_the_length_of_what_the_student_learns(words, expected):
    size = TransformerConfig(dim=8, feedforward=8, heads=2)
    model = LatentTransformer(LatentConfig(transformer=size), 10).eval()
    valid = ParallelText([SOURCE], [REFERENCE])
    observer = LatentObserver(Writer(model), valid, [" ".join(REFERENCE.split()[:words])])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    values = observer.validate(model)
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before), "it only measures"
    model.after_validation(values)
    assert values["valid/blank_penalty"] == expected == float(model.blank_penalty)
    # What is told, and compared between validations, is BLEU against the references.
    kept = " ".join(REFERENCE.split()[: 5 + int(expected)])
    assert values["valid/bleu_predicted"] == pytest.approx(observer.bleu([kept]))
    assert observer.score(values) == values["valid/bleu_predicted"]
    assert values["valid/bleu_oracle"] == pytest.approx(100.0)
    assert values["valid/codes"] == 1
    with torch.no_grad():
        source, target = (
            torch.tensor(observer.translator.encode([text])) for text in (SOURCE, REFERENCE)
        )
        assert values["valid/total"] == pytest.approx(float(model(source, target).total))
    assert values["valid/samples"] == [f"{SOURCE} → {kept}"]


@pytest.mark.parametrize("best_path", [6, 8])
def test_use_of_the_language_model_is_what_scores_best(best_path) -> None:
    """It scores the higher, the nearer the use is to the best one."""

    def bleu(language_model: TrigramModel | None) -> float:
        if language_model is None:
            return best_path
        return {FusionWeights(0.3, 2.0, 1.0): 8, FusionWeights(0.3, 2.0): 7}.get(
            language_model.fusion, 5
        )

    counted = TrigramModel.count(np.array([5, 6, 5, 6, 7]), np.array([0, 2, 5]), 10)
    found = choose_language_model(counted, bleu)
    if best_path == 8:
        assert found is None, "the best path alone is better"
        return
    assert found is counted and found.fusion == FusionWeights(0.3, 2.0, 1.0)
    assert found.log_probability(1, 5, 6) > -0.7
