"""What is measured while teacher and student are trained, and what a student is read with."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from vqnmt.data.corpus import ParallelText
from vqnmt.decode.language_model import FusionWeights, TrigramModel
from vqnmt.evaluation.scores import score
from vqnmt.models import LatentTransformer
from vqnmt.progress import Progress
from vqnmt.translate.pytorch import Translation, Translator

BLANK_PENALTIES = (0.0, 1.0, 2.0, 3.0)
"""What may be taken from the blank's score, in nats: at 0 the best path is too short, the more so
the less the decoder is trained."""
LANGUAGE_WEIGHTS = (0.3, 0.5)
"""What the language model may count."""
LANGUAGE_PENALTIES = (1.0, 2.0, 3.0, 4.0)
"""What may be taken from the blank's score beside it, in nats."""
PIECE_BONUSES = (0.5, 1.0)
"""What each piece may be given beside these two, in nats."""


class BleuObserver:
    """BLEU of greedy translations on the validation set.

    Args:
        translator: Around the very model that is trained.
        valid: The validation set.
    """

    def __init__(self, translator: Translator, valid: ParallelText) -> None:
        self.translator, self.valid = translator, valid

    def bleu(self, texts: list[str], references: Sequence[str] | None = None) -> float:
        """Score `texts` against `references`; by default those of the validation set."""
        language = self.translator.target_language
        return score(texts, references or self.valid.targets, language).bleu

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Translate and score the validation set."""
        found = self.translator.translate(self.valid.sources, repair=False)
        return {"valid/bleu": self.bleu([translation.text for translation in found])}

    def score(self, values: dict[str, Any]) -> float:
        """Compare validations by BLEU."""
        return float(values["valid/bleu"])


class LatentObserver(BleuObserver):
    """BLEU from predicted and from oracle codes, and the penalty of the blank that suits best.

    The blank's penalty decides the length of translations, so it is chosen by BLEU against what the
    student learns to write: references may be longer than a teacher's translations, and longer
    on this set than elsewhere. The model takes it over in its `after_validation`.

    Args:
        translator: See `BleuObserver`.
        valid: See `BleuObserver`.
        imitated: The translations of `valid` that the student learns to write.
    """

    def __init__(
        self, translator: Translator, valid: ParallelText, imitated: Sequence[str]
    ) -> None:
        super().__init__(translator, valid)
        self.imitated = imitated

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Choose the penalty of the blank, then score predicted codes and those of the targets."""
        assert isinstance(model, LatentTransformer)
        penalties = BLANK_PENALTIES if model.config.output == "ctc" else (0.0,)
        found: dict[float, list[Translation]] = {}
        for penalty in penalties:
            with _blank_penalty(model, penalty):
                found[penalty] = self.translator.translate(self.valid.sources, repair=False)
        texts = {penalty: [translation.text for translation in found[penalty]] for penalty in found}
        best = max(texts, key=lambda penalty: self.bleu(texts[penalty], self.imitated))
        with _blank_penalty(model, best):
            oracle = self.translator.reconstruct(self.valid.sources, self.valid.targets)
        return {
            "valid/bleu_predicted": self.bleu(texts[best]),
            "valid/codes": sum(len(t.codes) for t in found[best]) / len(found[best]),
            "valid/bleu_oracle": self.bleu(oracle),
            "valid/blank_penalty": best,
        }

    def score(self, values: dict[str, Any]) -> float:
        """Compare validations by BLEU from predicted codes."""
        return float(values["valid/bleu_predicted"])


@contextmanager
def _blank_penalty(model: LatentTransformer, penalty: float) -> Iterator[None]:
    """Let `model` take `penalty` from the blank's score while entered."""
    before = model.blank_penalty.clone()
    model.blank_penalty.fill_(penalty)
    try:
        yield
    finally:
        model.blank_penalty.copy_(before)


def choose_language_model(
    trigrams: TrigramModel, bleu: Callable[[TrigramModel | None], float]
) -> TrigramModel | None:
    """Choose how `trigrams` help to read a CTC model: weight and penalty first, then the bonus.

    Args:
        trigrams: Counted in the targets that the model was trained on; gets the best weights.
        bleu: Of the validation set, read with a language model or without one.

    Returns:
        `trigrams`; None where no weight helps.
    """
    grid = [
        FusionWeights(*pair) for pair in itertools.product(LANGUAGE_WEIGHTS, LANGUAGE_PENALTIES)
    ]
    found: dict[FusionWeights, float] = {}
    with Progress("language model", len(grid) + len(PIECE_BONUSES) + 1, "settings") as progress:

        def measure(weights: FusionWeights) -> None:
            trigrams.fusion = weights
            found[weights] = bleu(trigrams)
            progress.update()

        without = bleu(None)
        progress.update()
        for weights in grid:
            measure(weights)
        best = max(grid, key=found.__getitem__)
        if found[best] <= without:
            return None
        for bonus in PIECE_BONUSES:
            measure(best._replace(piece_bonus=bonus))
    trigrams.fusion = max(found, key=found.__getitem__)
    return trigrams
