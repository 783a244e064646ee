"""What is looked at while teacher and student are trained."""

from typing import Any

from torch import nn

from vqnmt.data.corpus import ParallelText
from vqnmt.evaluation.scores import score
from vqnmt.models import LatentTransformer
from vqnmt.translator import Translator

BLANK_PENALTIES = (0.0, 1.0, 2.0, 3.0)
"""What may be taken from the blank's score, in nats: at 0 the best path is too short, the more so
the less the decoder is trained."""


class BleuObserver:
    """BLEU of greedy translations on the validation set.

    Args:
        translator: Around the very model that is trained.
        valid: The validation set.
        target_language: Chooses sacreBLEU's tokeniser.
    """

    def __init__(self, translator: Translator, valid: ParallelText, target_language: str) -> None:
        self.translator, self.valid, self.target_language = translator, valid, target_language

    def bleu(self, texts: list[str]) -> float:
        """Score `texts` against the validation references."""
        return score(texts, self.valid.targets, self.target_language).bleu

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
    """BLEU from predicted and from oracle codes, and the use of the codebook."""

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Choose the penalty of the blank, then score predicted codes and those of the targets."""
        assert isinstance(model, LatentTransformer)
        found = {penalty: self._predicted(model, penalty) for penalty in self._penalties(model)}
        best = max(found, key=lambda penalty: found[penalty]["valid/bleu_predicted"])
        model.blank_penalty.fill_(best)
        oracle = self.translator.reconstruct(self.valid.sources, self.valid.targets)
        return {
            **found[best],
            "valid/bleu_oracle": self.bleu(oracle),
            "valid/blank_penalty": best,
        }

    def score(self, values: dict[str, Any]) -> float:
        """Compare validations by BLEU from predicted codes."""
        return float(values["valid/bleu_predicted"])

    def _penalties(self, model: LatentTransformer) -> tuple[float, ...]:
        return BLANK_PENALTIES if model.config.output == "ctc" else (0.0,)

    def _predicted(self, model: LatentTransformer, penalty: float) -> dict[str, float]:
        model.blank_penalty.fill_(penalty)
        found = self.translator.translate(self.valid.sources)
        return {
            "valid/bleu_predicted": self.bleu([translation.text for translation in found]),
            "valid/codes": sum(len(t.codes) for t in found) / len(found),
        }

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
