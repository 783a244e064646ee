"""What is measured while teacher and student are trained, and what a student is read with."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from vqnmt.data.corpus import ParallelText
from vqnmt.decode.language_model import FusionWeights, TrigramModel
from vqnmt.evaluation.scores import score
from vqnmt.models import LatentTransformer, ParallelTransformer
from vqnmt.models.outputs import Ctc
from vqnmt.progress import Progress
from vqnmt.translate.pytorch import Translation, Translator

BLANK_PENALTIES = (0.0, 1.0, 2.0, 3.0)
"""What may be taken from the blank's score, in nats: at 0 the best path is too short, above all
while the decoder is little trained."""
LANGUAGE_WEIGHTS = (0.3, 0.5)
"""What the language model may count."""
LANGUAGE_PENALTIES = (1.0, 2.0, 3.0, 4.0)
"""What may be taken from the blank's score beside it, in nats."""
PIECE_BONUSES = (0.5, 1.0)
"""What each piece may be given beside these two, in nats."""

SAMPLES = 3
"""How many translations of the validation set are logged."""


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
        texts = [translation.text for translation in found]
        return {"valid/bleu": self.bleu(texts), **self.further(model, texts)}

    def further(self, model: nn.Module, texts: Sequence[str]) -> dict[str, Any]:
        """Return the loss on the validation set, and the first of its translations `texts`."""
        pairs = zip(self.valid.sources[:SAMPLES], texts[:SAMPLES], strict=True)
        samples = [f"{source} → {text}" for source, text in pairs]
        return {"valid/total": self._loss(model), "valid/samples": samples}

    def _loss(self, model: nn.Module) -> float:
        """Return the loss that `model` is trained for, a mean over the target tokens."""
        total, count = 0.0, 0
        batches = self.translator.paired_batches(self.valid.sources, self.valid.targets)
        for _, source, target in batches:
            losses = model(source, target)
            total += float(losses.total.detach()) * losses.tokens
            count += losses.tokens
        return total / max(count, 1)

    def score(self, values: dict[str, Any]) -> float:
        """Compare validations by BLEU."""
        return float(values["valid/bleu"])


class ParallelObserver(BleuObserver):
    """BLEU with the penalty of the blank that suits best.

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
        """Choose the penalty of the blank, and score what is read with it."""
        assert isinstance(model, ParallelTransformer)
        best, found = self.with_best_penalty(model)
        texts = [translation.text for translation in found]
        return {
            "valid/bleu": self.bleu(texts),
            "valid/blank_penalty": best,
            **self.further(model, texts),
        }

    def with_best_penalty(self, model: ParallelTransformer) -> tuple[float, list[Translation]]:
        """Return the best penalty of the blank, and the translations of `valid` with it."""
        penalties = BLANK_PENALTIES if isinstance(model.output, Ctc) else (0.0,)
        found: dict[float, list[Translation]] = {}
        for penalty in penalties:
            with _blank_penalty(model, penalty):
                found[penalty] = self.translator.translate(self.valid.sources, repair=False)

        def bleu(penalty: float) -> float:
            return self.bleu([one.text for one in found[penalty]], self.imitated)

        best = max(found, key=bleu)
        return best, found[best]


class LatentObserver(ParallelObserver):
    """BLEU from predicted and from oracle codes, with the penalty of the blank that suits best."""

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Choose the penalty of the blank, then score predicted codes and those of the targets."""
        assert isinstance(model, LatentTransformer)
        best, found = self.with_best_penalty(model)
        with _blank_penalty(model, best):
            oracle = self.translator.reconstruct(self.valid.sources, self.valid.targets)
        texts = [translation.text for translation in found]
        return {
            "valid/bleu_predicted": self.bleu(texts),
            "valid/codes": sum(len(t.codes) for t in found) / len(found),
            "valid/bleu_oracle": self.bleu(oracle),
            "valid/blank_penalty": best,
            **self.further(model, texts),
        }

    def score(self, values: dict[str, Any]) -> float:
        """Compare validations by BLEU from predicted codes."""
        return float(values["valid/bleu_predicted"])


@contextmanager
def _blank_penalty(model: ParallelTransformer, penalty: float) -> Iterator[None]:
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
