"""What is looked at while teacher and student are trained."""

import itertools
from collections.abc import Sequence
from typing import Any

from torch import nn

from vqnmt.data.batches import ParallelBatches
from vqnmt.data.corpus import ParallelText
from vqnmt.data.tokenized import TokenizedText
from vqnmt.decode.language_model import FusionWeights, TrigramModel
from vqnmt.evaluation.scores import score
from vqnmt.models import LatentTransformer
from vqnmt.progress import Progress
from vqnmt.translate.pytorch import TextTranslator, Translation, Translator

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
        target_language: Chooses sacreBLEU's tokeniser.
    """

    def __init__(self, translator: Translator, valid: ParallelText, target_language: str) -> None:
        self.translator, self.valid, self.target_language = translator, valid, target_language

    def bleu(self, texts: list[str], references: Sequence[str] | None = None) -> float:
        """Score `texts` against `references`; by default those of the validation set."""
        return score(texts, references or self.valid.targets, self.target_language).bleu

    def prepare(self, model: nn.Module, batches: ParallelBatches) -> None:
        """Tell the untrained `model` what the text that it trains on says of its pieces."""
        model.embedding.written = batches.written  # type: ignore[union-attr]

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Translate and score the validation set."""
        found = self.translator.translate(self.valid.sources)
        return {"valid/bleu": self.bleu([translation.text for translation in found])}

    def score(self, values: dict[str, Any]) -> float:
        """Compare validations by BLEU."""
        return float(values["valid/bleu"])

    def epoch_end(self, model: nn.Module) -> dict[str, Any]:
        """Nothing is known only at the end of an epoch."""
        return {}


class LatentObserver(BleuObserver):
    """BLEU from predicted and from oracle codes, and the use of the codebook.

    The blank's penalty decides the length of translations, so it is chosen by BLEU against what the
    student learns to write: references may be longer than a teacher's translations, and longer
    on this set than elsewhere.

    Args:
        translator: See `BleuObserver`.
        valid: See `BleuObserver`.
        target_language: See `BleuObserver`.
        teacher: Whose translations the student learns; None where it learns references.
        beam: With which the teacher translated them.
    """

    def __init__(
        self,
        translator: Translator,
        valid: ParallelText,
        target_language: str,
        teacher: TextTranslator | None = None,
        beam: int = 1,
    ) -> None:
        super().__init__(translator, valid, target_language)
        self.imitated: Sequence[str] = valid.targets
        if teacher is not None:
            with Progress("teacher on valid", len(valid), "sentences") as progress:
                found = teacher.translate(valid.sources, beam=beam, progress=progress)
            self.imitated = [translation.text for translation in found]

    def prepare(self, model: nn.Module, batches: ParallelBatches) -> None:
        """See `BleuObserver.prepare`."""
        super().prepare(model, batches)
        assert isinstance(model, LatentTransformer)
        model.repeatable.copy_(batches.repeatable(len(self.translator.vocabulary)))

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Choose the penalty of the blank, then score predicted codes and those of the targets."""
        assert isinstance(model, LatentTransformer)
        found = {penalty: self._translate(model, penalty) for penalty in self._penalties(model)}
        texts = {penalty: [translation.text for translation in found[penalty]] for penalty in found}
        best = max(texts, key=lambda penalty: self.bleu(texts[penalty], self.imitated))
        model.blank_penalty.fill_(best)
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

    def add_language_model(self, model: nn.Module, targets: TokenizedText) -> None:
        """Give the translator of a CTC model the trigrams of the targets that it was trained on.

        The fusion weights are chosen as `validate` chooses, weight and penalty of the blank first,
        then the bonus; a model that no weight helps gets none.
        """
        assert isinstance(model, LatentTransformer)
        if model.config.output != "ctc":
            return
        size = len(self.translator.vocabulary)
        trigrams = TrigramModel.count(targets.tokens, targets.offsets, size)
        pairs = itertools.product(LANGUAGE_WEIGHTS, LANGUAGE_PENALTIES)
        grid = [FusionWeights(*pair) for pair in pairs]
        with Progress("language model", len(grid) + len(PIECE_BONUSES) + 1, "settings") as progress:

            def bleu() -> float:
                translations = self.translator.translate(self.valid.sources)
                progress.update()
                return self.bleu([one.text for one in translations], self.imitated)

            without, found = bleu(), {}
            self.translator.language_model = trigrams
            for weights in grid:
                trigrams.fusion = weights
                found[weights] = bleu()
            best = max(grid, key=found.__getitem__)
            if found[best] <= without:
                self.translator.language_model = None
                return
            for bonus in PIECE_BONUSES:
                trigrams.fusion = best._replace(piece_bonus=bonus)
                found[trigrams.fusion] = bleu()
        trigrams.fusion = max(found, key=found.__getitem__)

    def _penalties(self, model: LatentTransformer) -> tuple[float, ...]:
        return BLANK_PENALTIES if model.config.output == "ctc" else (0.0,)

    def _translate(self, model: LatentTransformer, penalty: float) -> list[Translation]:
        model.blank_penalty.fill_(penalty)
        return self.translator.translate(self.valid.sources)

    def epoch_end(self, model: nn.Module) -> dict[str, Any]:
        """Count the codes used in the epoch, over all processes."""
        assert isinstance(model, LatentTransformer)
        model.train()  # training and evaluation are counted apart
        statistics = model.quantizer.epoch_statistics()
        model.quantizer.reset_statistics()
        return {
            "epoch/used_codes": float(statistics.used_codes),
            "epoch/perplexity": float(statistics.perplexity),
            "epoch/code_usage": statistics.usage.tolist(),
        }
