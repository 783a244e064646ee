"""What validations choose."""

import numpy as np
import pytest

from vqnmt.data.corpus import ParallelText
from vqnmt.data.tokenized import TokenizedText
from vqnmt.decode.language_model import FusionWeights
from vqnmt.layers import TransformerConfig
from vqnmt.models import LatentTransformer
from vqnmt.models.latent import LatentConfig
from vqnmt.pipeline.observers import LatentObserver
from vqnmt.translate.pytorch import Translation

SOURCE, REFERENCE = "a", "one two three four five six seven eight"


class Writer:
    """Writes the more words of the reference, the more is taken from the blank's score."""

    def __init__(self, model: LatentTransformer) -> None:
        self.model = model

    def translate(self, sentences: list[str]) -> list[Translation]:
        words = REFERENCE.split()[: 5 + int(self.model.blank_penalty)]
        return [Translation(" ".join(words), codes=[1]) for _ in sentences]

    def reconstruct(self, sentences: list[str], targets: list[str]) -> list[str]:
        return list(targets)


class Teacher:
    """Writes the first six words of the reference, with the beam that is asked for."""

    def translate(self, sentences, *, beam, progress):
        assert beam == 4
        return [Translation(" ".join(REFERENCE.split()[:6])) for _ in sentences]


@pytest.mark.parametrize(("teacher", "expected"), [(None, 3.0), (Teacher(), 1.0)])
def test_blank_penalty_brings_the_length_of_what_the_student_learns(teacher, expected):
    size = TransformerConfig(dim=8, feedforward=8, heads=2)
    model = LatentTransformer(LatentConfig(transformer=size), 10)
    valid = ParallelText([SOURCE], [REFERENCE])
    observer = LatentObserver(Writer(model), valid, "de", teacher=teacher, beam=4)
    values = observer.validate(model)
    assert values["valid/blank_penalty"] == expected == float(model.blank_penalty)
    # What is told, and compared between validations, is BLEU against the references.
    kept = " ".join(REFERENCE.split()[: 5 + int(expected)])
    assert values["valid/bleu_predicted"] == pytest.approx(observer.bleu([kept]))
    assert observer.score(values) == values["valid/bleu_predicted"]
    assert values["valid/bleu_oracle"] == pytest.approx(100.0)
    assert values["valid/codes"] == 1


class Reader:
    """Writes the reference where the use is the best, else the less of it the worse it is."""

    vocabulary = range(10)

    def __init__(self, best_path: int) -> None:
        self.language_model, self.best_path = None, best_path

    def translate(self, sentences: list[str]) -> list[Translation]:
        words = self.best_path
        if self.language_model is not None:
            words = {FusionWeights(0.3, 2.0, 1.0): 8, FusionWeights(0.3, 2.0): 7}.get(
                self.language_model.fusion, 5
            )
        return [Translation(" ".join(REFERENCE.split()[:words])) for _ in sentences]


@pytest.mark.parametrize(
    ("output", "best_path"), [("ctc", 6), ("ctc", 8), ("cross_entropy", 6)], ids=str
)
def test_use_of_the_language_model_is_chosen_and_its_text_the_targets(output, best_path) -> None:
    size = TransformerConfig(dim=8, feedforward=8, heads=2)
    config = LatentConfig(transformer=size, output=output, upsampling=2 if output == "ctc" else 1)
    model = LatentTransformer(config, 10)
    reader = Reader(best_path)
    observer = LatentObserver(reader, ParallelText([SOURCE], [REFERENCE]), "de")
    targets = TokenizedText(np.array([5, 6, 5, 6, 7]), np.array([0, 2, 5]))
    observer.add_language_model(model, targets)
    if output != "ctc" or best_path == 8:
        assert reader.language_model is None, "the best path alone is better"
        return
    assert reader.language_model.fusion == FusionWeights(0.3, 2.0, 1.0)
    assert reader.language_model.log_probability(1, 5, 6) > -0.7
