"""Stages 6 and 7 of the main job: scores, latency, records, report."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from vqnmt.data.corpus import ParallelText
from vqnmt.evaluation.latency import Latency, measure_latency, speedup
from vqnmt.evaluation.model_card import model_card
from vqnmt.evaluation.plots import plot_bleu_latency, plot_code_usage, plot_training
from vqnmt.evaluation.records import (
    Metric,
    Record,
    current_commit,
    describe_hardware,
    read_records,
    write_records,
)
from vqnmt.evaluation.report import Example, Picture, write_report
from vqnmt.evaluation.scores import score
from vqnmt.files import atomic_write_text
from vqnmt.foreign import ForeignTranslator
from vqnmt.pipeline.config import PipelineConfig
from vqnmt.pipeline.stage import as_text
from vqnmt.pipeline.translation import TranslationPipeline, corpus_facts
from vqnmt.progress import Progress
from vqnmt.settings import to_flat
from vqnmt.training.metrics import read_metrics
from vqnmt.translator import TextTranslator, Translation, Translator

BASELINE = "ar_beam4"


@dataclasses.dataclass(slots=True)
class System:
    """A way to translate: a model and its beam."""

    translator: TextTranslator
    beam: int = 1

    def translate(
        self, sentences: Sequence[str], progress: Progress | None = None
    ) -> list[Translation]:
        """Translate `sentences`, in order."""
        return self.translator.translate(sentences, beam=self.beam, progress=progress)

    def one(self, sentence: str) -> str:
        """Translate one sentence from string to string: what the clock sees."""
        return self.translate([sentence])[0].text

    @property
    def parameters(self) -> int:
        """Trainable numbers of the model."""
        assert isinstance(self.translator, Translator | ForeignTranslator)
        return sum(p.numel() for p in self.translator.model.parameters())


class Evaluation:
    """Measures teacher and student once, and writes down what came.

    Args:
        pipeline: A pipeline that has run.
        overrides: The command's changes to the default configuration, for the records.
    """

    def __init__(self, pipeline: TranslationPipeline, overrides: list[str]) -> None:
        self.config, self.corpus, self.stages = pipeline.config, pipeline.corpus, pipeline.stages
        evaluation = dataclasses.asdict(self.config.evaluation)
        settings = {"evaluation": evaluation, **pipeline.teacher_settings}
        self.stage = pipeline.stage("evaluation", settings, after="student")
        self.folder, self.student, self.overrides = pipeline.folder, pipeline.student, overrides
        self.student_name = student_name(self.config)
        self.systems = {
            BASELINE: System(pipeline.teacher, beam=4),
            "ar_greedy": System(pipeline.teacher),
            self.student_name: System(pipeline.student),
        }
        self.outputs: dict[str, dict[str, list[Translation]]] = {}

    def run(self) -> list[Record]:
        """Score, time, and write results.json, report.md and the model card, unless done."""
        path = self.folder / "results.json"
        if self.stage.complete and path.exists() and (self.folder / "report.md").exists():
            return read_records(path)
        with self.stage.work():
            return self._measure(path)

    def _measure(self, path: Path) -> list[Record]:
        metrics = {name: self._scores(name) for name in self.systems}
        self._oracle(metrics[self.student_name])
        self._speed(metrics)
        records = [self._record(name, values) for name, values in metrics.items()]
        path.unlink(missing_ok=True)  # what an earlier evaluation found has no place beside these
        write_records(path, records)
        if self.config.records is not None:
            corpus = self.corpus
            name = f"{corpus.name}-{corpus.source_language}-{corpus.target_language}.json"
            write_records(Path(self.config.records) / name, records)
        self._report(records)
        self._card(records[-1])
        return records

    def _sets(self) -> dict[str, ParallelText]:
        return {"valid": self.corpus.valid, **self.corpus.test}

    def _scores(self, name: str) -> dict[str, Metric]:
        metrics: dict[str, Metric] = {}
        self.outputs[name] = {}
        for test_set, text in self._sets().items():
            with Progress(f"{name} on {test_set}", len(text), "sentences") as progress:
                found = self.systems[name].translate(text.sources, progress)
            self.outputs[name][test_set] = found
            texts = [translation.text for translation in found]
            scores = score(texts, text.targets, self.corpus.target_language)
            metrics[f"bleu.{test_set}"] = scores.bleu
            metrics[f"chrf.{test_set}"] = scores.chrf
            metrics[f"length_ratio.{test_set}"] = scores.length_ratio
            metrics["bleu_signature"] = scores.bleu_signature
            metrics["chrf_signature"] = scores.chrf_signature
        return metrics

    def _oracle(self, metrics: dict[str, Metric]) -> None:
        """Score what the decoder makes of the true targets' codes, on valid only."""
        valid = self.corpus.valid
        texts = self.student.reconstruct(valid.sources, valid.targets)
        metrics["bleu_oracle.valid"] = score(texts, valid.targets, self.corpus.target_language).bleu
        found = self.outputs[self.student_name]["valid"]
        metrics["codes_per_sentence.valid"] = sum(len(t.codes) for t in found) / len(found)

    def _speed(self, metrics: dict[str, dict[str, Metric]]) -> None:
        settings = self.config.evaluation
        if settings.latency_sentences == 0:
            return
        sentences = next(iter(self.corpus.test.values())).sources[: settings.latency_sentences]
        functions: dict[str, Callable[[str], str]] = {n: s.one for n, s in self.systems.items()}
        timed: dict[str, Latency] = measure_latency(
            functions,
            sentences,
            warmup=settings.latency_warmup,
            rounds=settings.latency_rounds,
            synchronize=torch.cuda.synchronize if torch.cuda.is_available() else None,
        )
        for name, latency in timed.items():
            metrics[name]["latency_ms.median"] = latency.median_ms
            metrics[name]["latency_ms.p90"] = latency.p90_ms
            metrics[name]["latency_ms.mean"] = latency.mean_ms
            metrics[name]["latency_sentences"] = latency.sentences
            metrics[name]["speedup_over_ar_beam4"] = speedup(timed[BASELINE], latency)

    def _record(self, name: str, metrics: dict[str, Metric]) -> Record:
        stage = self.stages.get("student" if name == self.student_name else "teacher")
        rows = [] if stage is None else read_metrics(stage.folder / "training" / "metrics.jsonl")
        rates = [r["train/tokens_per_second"] for r in rows if "train/tokens_per_second" in r]
        if rates:
            metrics["train_tokens_per_second"] = float(np.median(rates))
        used = [r for r in rows if "epoch/used_codes" in r]
        if used:
            metrics["used_codes"] = used[-1]["epoch/used_codes"]
            metrics["codebook_perplexity"] = used[-1]["epoch/perplexity"]
        return Record(
            system=name,
            corpus=f"{self.corpus.name}-{self.corpus.source_language}-{self.corpus.target_language}",
            overrides=self.overrides,
            seed=self.config.seed,
            commit=current_commit(),
            hardware=describe_hardware(self.student.device),
            wall_seconds=0.0 if stage is None else stage.seconds,
            parameters=self.systems[name].parameters,
            metrics=metrics,
        )

    def _report(self, records: list[Record]) -> None:
        write_report(
            self.folder,
            title=f"{self.student_name} on {self.corpus.name}",
            records=records,
            corpus=corpus_facts(self.corpus),
            settings={
                key: as_text(value)
                for key, value in to_flat(dataclasses.asdict(self.config)).items()
            },
            wall_seconds={
                name: stage.seconds
                for name, stage in self.stages.items()
                if stage is not self.stage
            },
            pictures=self._pictures(records),
            examples=self._examples(),
        )

    def _pictures(self, records: list[Record]) -> list[Picture]:
        pictures = []
        for name in ("teacher", "student"):
            if name not in self.stages:
                continue
            rows = read_metrics(self.stages[name].folder / "training" / "metrics.jsonl")
            file = f"training_{name}.png"
            plot_training(rows, self.folder / file, title=name)
            pictures.append(Picture(file=file, alt=f"Losses and BLEU of the {name} over training"))
            usage = [
                (row["step"], row["epoch/code_usage"]) for row in rows if "epoch/code_usage" in row
            ]
            if usage:
                steps, counts = zip(*usage, strict=True)
                plot_code_usage(np.array(counts), np.array(steps), self.folder / "code_usage.png")
                alt = "How often each code is used, epoch by epoch"
                pictures.append(Picture(file="code_usage.png", alt=alt))
        if "latency_ms.median" in records[0].metrics:
            first = next(iter(self.corpus.test))
            plot_bleu_latency(records, self.folder / "bleu_latency.png", first)
            alt = "BLEU of every system against its latency"
            pictures.append(Picture(file="bleu_latency.png", alt=alt))
        return pictures

    def _examples(self) -> list[Example]:
        """Take sentences at even distances through the validation set."""
        valid, count = (
            self.corpus.valid,
            min(self.config.evaluation.examples, len(self.corpus.valid)),
        )
        return [
            Example(
                source=valid.sources[i],
                reference=valid.targets[i],
                translations={name: found["valid"][i].text for name, found in self.outputs.items()},
                codes=self.outputs[self.student_name]["valid"][i].codes,
            )
            for i in (k * len(valid) // count for k in range(count))
        ]

    def _card(self, record: Record) -> None:
        compression = self.config.student_model.compression
        card = model_card(
            title=f"{record.system}: {self.corpus.name}",
            description="A vqnmt latent Transformer: it predicts one discrete code for every "
            f"{2**compression} target tokens, then all tokens at once.",
            corpus=corpus_facts(self.corpus),
            records=[record],
        )
        atomic_write_text(self.folder / "student" / "README.md", card)


def student_name(config: PipelineConfig) -> str:
    """Name the student by what sets it apart: quantizer, distillation and compression."""
    model = config.student_model
    kind = {"ema": "vq", "soft_em": "vq_em"}.get(model.quantizer.name, model.quantizer.name)
    distilled = "_kd" if config.distill else ""
    output = "_ctc" if model.output == "ctc" else ""
    return f"{kind}{output}{distilled}_nc{model.compression}"
