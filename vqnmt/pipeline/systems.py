"""Systems: a model with its way to translate, and the measurements of each."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from vqnmt.data.corpus import ParallelText
from vqnmt.evaluation.latency import measure_latency, speedup
from vqnmt.evaluation.records import Metric
from vqnmt.evaluation.scores import exact_match, score, span_accuracies
from vqnmt.evaluation.speed import measure_throughput
from vqnmt.models import LatentTransformer
from vqnmt.pipeline.config import (
    STUDENTS,
    DecodingConfig,
    EvaluationConfig,
    PipelineConfig,
)
from vqnmt.pipeline.controls import code_controls
from vqnmt.progress import Progress
from vqnmt.training.metrics import rates
from vqnmt.training.stage import Stage
from vqnmt.translate.pytorch import Translator
from vqnmt.translate.seq2seq import TransformersTranslator
from vqnmt.translate.translation import TextTranslator, Translation

BASELINE = "ar_beam4"
BASELINES = (BASELINE, "ar_greedy")
"""What all systems are compared with: the teacher with a beam of 4, and greedy."""


@dataclasses.dataclass(slots=True)
class System:
    """A way to translate: a model, how it searches, and who chooses among its candidates."""

    translator: TextTranslator
    decoding: DecodingConfig = dataclasses.field(default_factory=DecodingConfig)
    teacher: TextTranslator | None = None
    """Chooses where `decoding.candidates` is more than 1."""

    def translate(
        self, sentences: Sequence[str], progress: Progress | None = None
    ) -> list[Translation]:
        """Translate `sentences`, in order."""
        decoding, translator = self.decoding, self.translator
        if not isinstance(translator, Translator):  # a teacher from elsewhere
            return translator.translate(sentences, beam=decoding.beam, progress=progress)
        rescorer = None
        if decoding.candidates > 1:
            assert isinstance(self.teacher, Translator)
            rescorer = self.teacher
        return translator.translate(
            sentences,
            **{field.name: getattr(decoding, field.name) for field in dataclasses.fields(decoding)},
            rescorer=rescorer,
            progress=progress,
        )

    def one(self, sentence: str) -> str:
        """Translate one sentence from string to string: what the clock sees."""
        return self.translate([sentence])[0].text

    @property
    def parameters(self) -> int:
        """Trainable numbers of the model; those of a teacher that chooses are not counted."""
        assert isinstance(self.translator, Translator | TransformersTranslator)
        return sum(p.numel() for p in self.translator.model.parameters())


def student_name(config: PipelineConfig) -> str:
    """Name the student by what sets it apart: kind, quantizer, distillation and compression."""
    distilled = {False: "", True: "_kd", "selected": "_skd"}[config.distill]
    if config.student == "fertility":
        return f"nat{distilled}"
    if config.student == "ctc":
        return f"{'glat_ctc' if config.ctc_student.glancing else 'ctc_nat'}{distilled}"
    if config.student == "autoregressive":
        layers = config.autoregressive_student
        return f"ar_{layers.encoder_layers}_{layers.decoder_layers}{distilled}"
    if config.student not in STUDENTS:
        return f"{config.student}{distilled}"
    model = config.student_model
    kind = {"ema": "vq", "soft_em": "vq_em"}.get(model.quantizer.name, model.quantizer.name)
    output = "_ctc" if model.output == "ctc" else ""
    return f"{kind}{output}{distilled}_nc{model.compression}"


def system_name(config: PipelineConfig) -> str:
    """Name the student and how it decodes, for example with beam 4 and 10 rescored candidates."""
    decoding = config.decoding
    if config.student == "teacher":
        return f"ar_beam{decoding.beam}" if decoding.beam > 1 else "ar_greedy"
    beam = f"_beam{decoding.beam}" if decoding.beam > 1 else ""
    chosen = f"_rescored{decoding.candidates}" if decoding.candidates > 1 else ""
    latent_reads = config.student == "latent" and config.student_model.output == "ctc"
    reads = config.student == "ctc" or latent_reads
    read = "_lm" if reads and decoding.language_model else ""
    return f"{student_name(config)}{beam}{read}{chosen}"


def translate_sets(
    name: str, system: System, sets: Mapping[str, ParallelText]
) -> dict[str, list[Translation]]:
    """Translate the sources of every set, by name."""
    outputs = {}
    for set_name, text in sets.items():
        with Progress(f"{name} on {set_name}", len(text), "sentences") as progress:
            outputs[set_name] = system.translate(text.sources, progress)
    return outputs


def quality_metrics(
    outputs: Mapping[str, Sequence[str]],
    sets: Mapping[str, ParallelText],
    language: str,
    span_patterns: Sequence[str] = (),
) -> dict[str, Metric]:
    """Score the translations of every set; of labels, whether they equal a reference.

    BLEU counts sequences of four words, which labels do not have.
    """
    metrics: dict[str, Metric] = {}
    for name, texts in outputs.items():
        if references := sets[name].references:
            metrics[f"exact_match.{name}"] = exact_match(texts, references)
            continue
        scores = score(texts, sets[name].targets, language)
        metrics[f"bleu.{name}"] = scores.bleu
        metrics[f"chrf.{name}"] = scores.chrf
        metrics[f"length_ratio.{name}"] = scores.length_ratio
        kept = span_accuracies(sets[name].sources, texts, span_patterns)
        metrics |= {f"{key}.{name}": value for key, value in kept.items()}
        metrics["bleu_signature"] = scores.bleu_signature
        metrics["chrf_signature"] = scores.chrf_signature
    return metrics


def latent_quality(
    student: Translator, found: Sequence[Translation], valid: ParallelText, config: PipelineConfig
) -> dict[str, Metric]:
    """Measure what a latent student's codes carry, on valid only; see `code_controls`.

    Args:
        student: A student of any kind; nothing is measured of one without codes.
        found: Its translations of `valid`.
        valid: The validation set.
        config: Whether all controls are measured or the oracle's BLEU alone, and the seed.
    """
    if not isinstance(student.model, LatentTransformer):
        return {}
    codes: dict[str, Metric] = {
        "codes_per_sentence.valid": sum(len(t.codes) for t in found) / len(found)
    }
    if config.evaluation.controls:
        return codes | code_controls(student, valid, config.seed)
    texts = student.reconstruct(valid.sources, valid.targets)
    return codes | {"bleu_oracle.valid": score(texts, valid.targets, student.target_language).bleu}


def speed_metrics(
    systems: Mapping[str, System], sentences: Sequence[str], settings: EvaluationConfig
) -> dict[str, dict[str, Metric]]:
    """Time all systems in turn, one sentence at a time and in batches.

    Args:
        systems: By name, `BASELINE` among them.
        sentences: The first `settings.latency_sentences` of them are timed.
        settings: How often, and in which batches.

    Returns:
        The metrics of each system; none where no sentence is to be timed.
    """
    metrics: dict[str, dict[str, Metric]] = {name: {} for name in systems}
    sentences = sentences[: settings.latency_sentences]
    if not sentences:
        return metrics
    on_gpu = torch.cuda.is_available()
    functions: dict[str, Callable[[str], str]] = {n: s.one for n, s in systems.items()}
    timed = measure_latency(
        functions,
        sentences,
        warmup=settings.latency_warmup,
        rounds=settings.latency_rounds,
        synchronize=torch.cuda.synchronize if on_gpu else None,
    )
    for name, latency in timed.items():
        metrics[name] = {
            "latency_ms.median": latency.median_ms,
            "latency_ms.p90": latency.p90_ms,
            "latency_ms.mean": latency.mean_ms,
            "latency_sentences": latency.sentences,
            "speedup_over_ar_beam4": speedup(timed[BASELINE], latency),
        }
    rates = measure_throughput(
        {name: system.translate for name, system in systems.items()},
        sentences,
        sizes=settings.throughput_batches,
        rounds=settings.latency_rounds,
        device="cuda" if on_gpu else "cpu",
    )
    return {name: {**found, **rates[name]} for name, found in metrics.items()}


def training_metrics(stage: Stage | None) -> dict[str, Metric]:
    """Take the rate of a training, and its codebook's use at the end, from its metrics."""
    rows = [] if stage is None else stage.metrics()
    metrics: dict[str, Metric] = {}
    if found := rates(rows, "tokens"):
        metrics["train_tokens_per_second"] = float(np.median(found))
    used = [row for row in rows if "epoch/used_codes" in row]
    if used:
        metrics["used_codes"] = used[-1]["epoch/used_codes"]
        metrics["codebook_perplexity"] = used[-1]["epoch/perplexity"]
    return metrics
