"""Stages 6 and 7 of the main job: scores, latency, records, report."""

import dataclasses
from pathlib import Path

from vqnmt.evaluation.model_card import model_card
from vqnmt.evaluation.plots import plot_bleu_latency, plot_code_usage, plot_training
from vqnmt.evaluation.records import Metric, Record, publish_records, read_records, write_records
from vqnmt.evaluation.report import Example, Picture, write_report
from vqnmt.files import atomic_write_text, remove_leftovers
from vqnmt.pipeline.config import DecodingConfig
from vqnmt.pipeline.facts import corpus_facts, pair_name, records_path
from vqnmt.pipeline.systems import (
    BASELINE,
    System,
    code_usage,
    latent_quality,
    quality_metrics,
    speed_metrics,
    system_name,
    training_metrics,
    translate_sets,
)
from vqnmt.pipeline.translation import TranslationPipeline
from vqnmt.provenance import current_commit, describe_hardware
from vqnmt.settings import to_flat
from vqnmt.training.metrics import read_metrics
from vqnmt.training.stage import as_text
from vqnmt.translate.pytorch import Translation

_DESCRIPTIONS = {
    "latent": "A vqnmt latent Transformer: it predicts one discrete code for every {tokens} target "
    "tokens, then all tokens at once.",
    "autoregressive": "A vqnmt autoregressive Transformer, trained on a teacher's output.",
    "fertility": "A vqnmt fertility NAT: it predicts how often each source token is copied, then "
    "all target tokens at once.",
}


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
        done = next(name for name in ("student", "teacher", "vocabulary") if name in self.stages)
        settings["decoding"] = dataclasses.asdict(self.config.decoding)
        self.stage = pipeline.stage("evaluation", settings, after=done)
        self.folder, self.student, self.overrides = pipeline.folder, pipeline.student, overrides
        self.systems = {
            BASELINE: System(pipeline.teacher, DecodingConfig(beam=4)),
            "ar_greedy": System(pipeline.teacher),
        }
        self.baselines = list(self.systems)
        # A student that reads with a language model comes after itself without one.
        decoding = self.config.decoding
        best_path = dataclasses.replace(decoding, language_model=False)
        if pipeline.student.language_model is None:
            decoding = best_path
        for each in (best_path, decoding):
            self.student_name = system_name(dataclasses.replace(self.config, decoding=each))
            self.systems[self.student_name] = System(pipeline.student, each, pipeline.teacher)
        self.outputs: dict[str, dict[str, list[Translation]]] = {}

    def run(self) -> list[Record]:
        """Score, time, and write results.json, report.md and the model card, unless done."""
        path = self.folder / "results.json"
        if not (self.stage.complete and path.exists() and (self.folder / "report.md").exists()):
            with self.stage.work():
                remove_leftovers(self.folder)
                self._measure(path)
        records = read_records(path)
        if self.config.records is not None:
            publish_records(records_path(self.config.records, self.corpus), records)
        return records

    def _measure(self, path: Path) -> None:
        sets, language = (
            {"valid": self.corpus.valid, **self.corpus.test},
            self.corpus.target_language,
        )
        metrics: dict[str, dict[str, Metric]] = {}
        for name, system in self.systems.items():
            self.outputs[name] = translate_sets(name, system, sets)
            texts = {key: [t.text for t in found] for key, found in self.outputs[name].items()}
            metrics[name] = quality_metrics(texts, sets, language)
        metrics[self.student_name] |= latent_quality(
            self.student, self.outputs[self.student_name]["valid"], self.corpus.valid
        )
        sentences = next(iter(self.corpus.test.values())).sources
        timed = speed_metrics(self.systems, sentences, self.config.evaluation)
        metrics = {name: metrics[name] | timed[name] for name in metrics}
        records = [self._record(name, values) for name, values in metrics.items()]
        path.unlink(missing_ok=True)  # what an earlier evaluation found has no place beside these
        write_records(path, records)
        self._card(records[-1])
        self._report(records)

    def _record(self, name: str, metrics: dict[str, Metric]) -> Record:
        untrained = name in self.baselines or self.config.student == "teacher"
        stage = self.stages.get("teacher" if untrained else "student")
        metrics |= training_metrics(stage)
        return Record(
            system=name,
            corpus=pair_name(self.corpus),
            overrides=self.overrides,
            seed=self.config.seed,
            commit=current_commit(),
            training_commit="" if stage is None else stage.commit,
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
            if usage := code_usage(self.stages[name]):
                plot_code_usage(*usage, self.folder / "code_usage.png")
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
                codes=self.outputs[self.student_name]["valid"][i].codes or None,
            )
            for i in (k * len(valid) // count for k in range(count))
        ]

    def _card(self, record: Record) -> None:
        """Put the scores of a student that was trained here into its model card."""
        if "student" not in self.stages:
            return
        card = model_card(
            title=f"{record.system}: {self.corpus.name}",
            description=_DESCRIPTIONS[self.config.student].format(
                tokens=2**self.config.student_model.compression
            ),
            corpus=corpus_facts(self.corpus),
            records=[record],
        )
        atomic_write_text(self.stages["student"].folder / "README.md", card)
