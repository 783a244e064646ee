"""Training of the latent predictor for what it is for: translations that are good.

Minimum risk training (Shen et al. 2016) over a few code sequences of each source. A beam search
over codes finds the candidates, the frozen decoder writes them, and each one's reward is its
sentence-level chrF (Popović 2015) against the training target. Encoder, decoder and codebook stay
as they are, so that a translation costs what it did.

Shapes: B sources, C candidates of each, L codes, d model width, K codes in the codebook.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from sacrebleu.metrics import CHRF
from torch import Tensor, nn

from vqnmt.data.batches import pad
from vqnmt.data.corpus import ParallelText
from vqnmt.decode.settings import SearchSettings
from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_write_text
from vqnmt.layers import Losses
from vqnmt.models import LatentTransformer
from vqnmt.models.latent import code_log_probabilities
from vqnmt.pipeline.config import RewardConfig
from vqnmt.pipeline.observers import ParallelObserver
from vqnmt.progress import Progress, print_once
from vqnmt.training.config import TrainingConfig
from vqnmt.training.loop import Trainer
from vqnmt.translate.pytorch import Translator

# Sources of one optimiser step.
_BATCH = 32
# How much the log-probability of the best candidate counts beside the mean reward, 0 to 1: it keeps
# the predictor from moving its mass to sequences outside the candidates.
_BEST_WEIGHT = 0.02


class Candidates(NamedTuple):
    """The candidates of one source."""

    source: str
    """As the model sees it, with slots."""
    codes: list[list[int]]
    """C sequences, none of them empty."""
    rewards: list[float]
    """Of each, 0 to 1."""


def train_for_reward(
    config: RewardConfig,
    translator: Translator,
    observer: ParallelObserver,
    text: ParallelText,
    folder: Path,
    seed: int,
) -> None:
    """Train the predictor of `translator`; it stays as it was if BLEU on valid does not rise.

    Args:
        config: How.
        translator: Around a trained latent student, read by the best path.
        observer: Scores translations of the validation set against what the student imitates.
        text: What the student was trained on.
        folder: Keeps the candidates and the training.
        seed: Fixes the sources and the order.

    Raises:
        VqnmtError: The training fails, or a file cannot be written or is damaged.
    """
    model = translator.model
    assert isinstance(model, LatentTransformer)
    model.eval()
    found = _candidates(config, translator, text, folder / "candidates.json", seed)
    if not found:
        print_once("reward: no source has two candidates: the predictor stays as it was")
        return
    rewarded = RewardedPredictor(model)
    before = {name: value.clone() for name, value in rewarded.state_dict().items()}
    watcher = RewardObserver(translator, observer)
    bleu = watcher.validate(rewarded)["valid/bleu"]
    training = TrainingConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        warmup=min(config.steps // 10, 200),
        validate_every=config.steps,
        optimizer="adamw",
    )
    batches = RewardBatches(found, translator, seed)
    trainer = Trainer(rewarded, batches, watcher, training, folder, seed, "reward")
    rewarded.load_state_dict(trainer.train())
    model.eval()
    assert trainer.best is not None  # the one validation, of the last step
    _, reached = trainer.best
    if reached <= bleu:
        rewarded.load_state_dict(before)
    kept = "kept" if reached > bleu else "the predictor stays as it was"
    print_once(f"reward: BLEU on valid, best path: {bleu:.2f} before, {reached:.2f} after: {kept}")


def _candidates(
    config: RewardConfig, translator: Translator, text: ParallelText, path: Path, seed: int
) -> list[Candidates]:
    """Search the candidates of some training sources, or read those of an earlier start."""
    if PartialState().is_main_process and not path.exists():
        order = np.random.default_rng(seed).permutation(len(text))[: config.sources].tolist()
        cut = [(translator.cut(text.sources[i]), text.targets[i]) for i in order]
        # Several parts would have codes of their own each.
        pairs = [(parts[0], target) for parts, target in cut if len(parts) == 1]
        lengths = map(len, translator.vocabulary.encode([part.shown for part, _ in pairs]))
        most = translator.max_source_tokens
        pairs = [pair for pair, n in zip(pairs, lengths, strict=True) if n <= most]
        with Progress("candidates", len(pairs), "sources") as progress:
            rows = translator.n_best(
                [part.source for part, _ in pairs],
                SearchSettings(candidates=config.candidates, language_model=False),
                progress=progress,
                repair=False,
            )
        chrf = CHRF()
        found = []
        for (part, target), row in zip(pairs, rows, strict=True):
            row = [one for one in row if one.codes]
            rewards = [chrf.sentence_score(one.text, [target]).score / 100 for one in row]
            if len(set(rewards)) > 1:  # else there is nothing to choose
                found.append((part.shown, [one.codes for one in row], rewards))
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(found, ensure_ascii=False))
    PartialState().wait_for_everyone()
    try:
        return [Candidates(*row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise VqnmtError(
            f"{path}: damaged ({type(error).__name__}): remove this file and start the same "
            "command again, which makes it anew"
        ) from error


class RewardBatches:
    """The candidates of `_BATCH` sources at a time, in an order that seed and epoch decide."""

    unit = "sources"

    def __init__(self, found: Sequence[Candidates], translator: Translator, seed: int) -> None:
        self.found, self.seed = found, seed
        self.rows = translator.vocabulary.encode([one.source for one in found])

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Shuffle the sources of an epoch into batches."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.found))
        return [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]

    def collate(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return sources (B, S), codes (B, C, L), numbers of codes (B, C) and rewards (B, C).

        A source with fewer candidates than another has some of 0 codes.
        """
        chosen = [self.found[i] for i in indices.tolist()]
        most = max(len(one.codes) for one in chosen)
        rows = [one.codes + [[]] * (most - len(one.codes)) for one in chosen]
        codes = pad([row for some in rows for row in some]).view(len(rows), most, -1)
        lengths = torch.tensor([[len(row) for row in some] for some in rows])
        rewards = torch.zeros(lengths.shape)
        for i, one in enumerate(chosen):
            rewards[i, : len(one.rewards)] = torch.tensor(one.rewards)
        return pad([self.rows[i] for i in indices]), codes, lengths, rewards


class RewardedPredictor(nn.Module):
    """The predictor of a latent model, and all that it is trained with; the rest is frozen."""

    def __init__(self, model: LatentTransformer) -> None:
        super().__init__()
        self.begin, self.code_embedding = model.begin, model.code_embedding
        self.predictor, self.code_output = model.predictor, model.code_output
        self._model = (model,)  # a tuple, so that its other weights are not registered here

    def forward(self, source: Tensor, codes: Tensor, lengths: Tensor, rewards: Tensor) -> Losses:
        """Minus the expected reward, and a small part of a likelihood (Shen et al. 2016).

            L = -1/B sum_x [sum_c q_c r_c + w log p(z_best | x)],
            q_c = p(z_c | x) / sum_i p(z_i | x),

        where r_c is the reward of candidate c, z_best the candidate of the highest reward, and w
        `_BEST_WEIGHT`.

        Args:
            source: (B, S).
            codes: (B, C, L), padded.
            lengths: How many of the codes are real, (B, C); 0 where there is no candidate.
            rewards: (B, C).

        Returns:
            The loss, a mean over sources.
        """
        (model,) = self._model
        with torch.no_grad():
            memory, memory_mask = model.encode(source)
            vectors = model.quantizer.codes_to_vectors(codes.flatten(0, 1)).to(memory.dtype)
        logits = model.predict(vectors, memory, memory_mask)  # (B C, T, V)
        mask = torch.arange(codes.shape[2], device=codes.device) < lengths.view(-1, 1)  # (B C, L)
        symbols = model.symbols(codes.flatten(0, 1)[..., None], mask)  # (B C, T, 1), (B C, T)
        log_p = code_log_probabilities(logits, *symbols).view(lengths.shape)  # (B, C)
        share = log_p.masked_fill(lengths == 0, -torch.inf).softmax(dim=1)
        expected = (share * rewards).sum(dim=1)  # (B,)
        best = log_p.gather(1, rewards.argmax(dim=1, keepdim=True))  # (B, 1)
        total = -expected.mean() - _BEST_WEIGHT * best.mean()
        terms = {"reward": expected.mean().detach(), "best_log_p": best.mean().detach()}
        return Losses(total=total, tokens=len(source), terms=terms)


class RewardObserver:
    """BLEU and length of the likeliest codes' translations: a reward alone can be gamed."""

    def __init__(self, translator: Translator, observer: ParallelObserver) -> None:
        self.translator, self.observer = translator, observer

    def validate(self, model: nn.Module) -> dict[str, Any]:
        """Translate the validation set by the best path, and score it."""
        sources, imitated = self.observer.valid.sources, self.observer.imitated
        found = self.translator.translate(sources, language_model=False, repair=False)
        texts = [translation.text for translation in found]
        words = sum(len(text.split()) for text in imitated)
        return {
            "valid/bleu": self.observer.bleu(texts, imitated),
            "valid/length_ratio": sum(len(text.split()) for text in texts) / max(words, 1),
        }

    def score(self, values: dict[str, Any]) -> float:
        """Compare validations by BLEU."""
        return float(values["valid/bleu"])
