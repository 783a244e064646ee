"""What the quantizer changes: collapse of the codebook, and a student with each quantizer."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import PartialState

from vqnmt.data.corpus import ParallelText
from vqnmt.downloads import file_checksum
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.plots import plot_code_usages
from vqnmt.evaluation.records import Metric, Record, read_records, write_records
from vqnmt.evaluation.scores import score
from vqnmt.experiments.collapse import (
    CodebookHistory,
    CollapseConfig,
    codebook_steps,
    encoder_vectors,
    gaussian_vectors,
    padded_batches,
    peer_settings,
    train_codebook,
)
from vqnmt.files import atomic_path
from vqnmt.models import LatentTransformer
from vqnmt.pipeline.config import PipelineConfig
from vqnmt.pipeline.facts import pair_name
from vqnmt.pipeline.translation import TranslationPipeline
from vqnmt.progress import print_once
from vqnmt.provenance import current_commit, describe_hardware
from vqnmt.quantizers import QuantizerConfig
from vqnmt.quantizers.statistics import perplexity
from vqnmt.training.stage import Stage
from vqnmt.translate.pytorch import Translator

# Fractions of the training after which a record holds the use of the codebook.
MILESTONES = (0.02, 0.1, 0.5, 1.0)


class QuantizerComparison:
    """Compares quantizers on the corpus, vocabulary, teacher and distilled text of one run.

    Missing stages before the student are run first. The run's folder gets::

        quantizers/collapse/            collapse.json and collapse.png
        quantizers/<name>/student/      as of any run
        quantizers/<name>/evaluation/   students.json

    Args:
        config: The run, with the budget of each student; `records` is the folder that gets
            `collapse.json`, `students.json` and the picture, None for none.
        overrides: The command's changes to the default configuration, for the records.

    Raises:
        VqnmtError: Several processes are running, or a stage of the run fails.
    """

    def __init__(self, config: PipelineConfig, overrides: Sequence[str]) -> None:
        if PartialState().num_processes > 1:
            raise VqnmtError("quantizers are compared in one process: start it by python alone")
        self.config, self.overrides = config, list(overrides)
        self.pipeline = TranslationPipeline(config)
        self.pipeline.prepare_corpus()
        self.pipeline.train_vocabulary()
        self.pipeline.train_teacher()
        self.text = self.pipeline.student_text()
        self.folder = self.pipeline.folder / "quantizers"

    def collapse(self, settings: CollapseConfig) -> list[Record]:
        """Train codebooks on Gaussian vectors and on the encoder outputs of the run's student.

        Raises:
            VqnmtError: The run has no student, or vector-quantize-pytorch is not installed.
        """
        model = self.pipeline.folder / "student"
        student = Translator.from_pretrained(model)
        quantizer = dataclasses.replace(
            self.config.student_model.quantizer, codebook_size=settings.codebook_size
        )
        decided = {
            "collapse": dataclasses.asdict(settings),
            "quantizer": dataclasses.asdict(quantizer),
            "codebooks": list(codebook_steps(quantizer)),
            "seed": self.config.seed,
            "digest of the student": file_checksum(model / "model.safetensors"),
        }
        stage = Stage(self.folder / "collapse", decided)
        path = stage.folder / "collapse.json"
        pictures = [path.with_suffix(f".{kind}") for kind in ("png", "svg")]
        if not stage.has(path.name, *(picture.name for picture in pictures)):
            with stage.work():
                path.unlink(missing_ok=True)
                records = self._train_codebooks(settings, quantizer, student, stage.folder)
                write_records(path, records)
        return self._publish(path, *pictures)

    def _train_codebooks(
        self,
        settings: CollapseConfig,
        quantizer: QuantizerConfig,
        student: Translator,
        folder: Path,
    ) -> list[Record]:
        seed = self.config.seed
        streams = {
            "gaussian": gaussian_vectors(settings, seed),
            "encoder": encoder_vectors(student, self.text, settings.vectors, seed),
        }
        makers = codebook_steps(quantizer)
        records, usages = [], {}
        for stream, vectors in streams.items():
            corpus = stream if stream == "gaussian" else pair_name(self.pipeline.corpus)
            for system, make in makers.items():
                name = f"{system} on {stream}"
                history = train_codebook(make, vectors, settings, seed, name)
                usages[name] = history.usage, history.steps
                metrics = history_metrics(history) | {
                    "dim": vectors.shape[1],
                    "vectors": len(vectors),
                    "batch": settings.batch,
                    "steps": settings.steps,
                }
                if stream == "gaussian":
                    metrics["offset"] = settings.offset
                size = settings.codebook_size * vectors.shape[1]
                records.append(self._record(system, corpus, metrics, history.seconds, size))
        side_by_side = [f"{system} on {stream}" for system in makers for stream in streams]
        plot_code_usages(
            {name: usages[name] for name in side_by_side},
            folder / "collapse.png",
            title=f"vq_pytorch_defaults: VectorQuantize with {peer_settings()}",
        )
        return records

    def students(self, quantizers: Mapping[str, QuantizerConfig]) -> list[Record]:
        """Train and measure a student with each quantizer; finished ones are skipped.

        Args:
            quantizers: Settings by the name that records and folders get.
        """
        records: list[Record] = []
        for name, quantizer in quantizers.items():
            print_once(f"student with the quantizer {name}")
            one = self._with_quantizer(name, quantizer)
            one.train_student(self.text)
            stage = one.stage("evaluation", {"measured on": "valid"}, after="student")
            path = stage.folder / "students.json"
            if not stage.has(path.name):
                with stage.work():
                    path.unlink(missing_ok=True)
                    write_records(path, [self._measure(name, one)])
            records += self._publish(path)
        return records

    def _with_quantizer(self, name: str, quantizer: QuantizerConfig) -> TranslationPipeline:
        """Return a pipeline that shares all stages before the student."""
        model = dataclasses.replace(self.config.student_model, quantizer=quantizer)
        config = dataclasses.replace(self.config, student_model=model)
        return self.pipeline.with_student(config, self.folder / name)

    def _measure(self, name: str, pipeline: TranslationPipeline) -> Record:
        student, valid = pipeline.student, self.pipeline.corpus.valid
        language = self.pipeline.corpus.target_language
        found = student.translate(valid.sources, language_model=False)
        predicted = score([translation.text for translation in found], valid.targets, language)
        oracle = score(student.reconstruct(valid.sources, valid.targets), valid.targets, language)
        metrics: dict[str, Metric] = {
            **latent_metrics(student, valid),
            "bleu_oracle.valid": oracle.bleu,
            "chrf_oracle.valid": oracle.chrf,
            "bleu.valid": predicted.bleu,
            "chrf.valid": predicted.chrf,
            "codes_per_sentence.valid": sum(len(t.codes) for t in found) / len(found),
            "bleu_signature": predicted.bleu_signature,
            "chrf_signature": predicted.chrf_signature,
            "steps": self.config.student_training.steps,
        }
        size = sum(p.numel() for p in student.model.parameters())
        stage, corpus = pipeline.stages["student"], pair_name(self.pipeline.corpus)
        return self._record(name, corpus, metrics, stage.seconds, size, stage.commit)

    def _record(
        self,
        system: str,
        corpus: str,
        metrics: dict[str, Metric],
        seconds: float,
        size: int,
        training_commit: str = "",
    ) -> Record:
        return Record(
            system=system,
            corpus=corpus,
            overrides=self.overrides,
            seed=self.config.seed,
            commit=current_commit(),
            training_commit=training_commit,
            hardware=describe_hardware("cuda" if torch.cuda.is_available() else "cpu"),
            wall_seconds=seconds,
            parameters=size,
            metrics=metrics,
        )

    def _publish(self, path: Path, *pictures: Path) -> list[Record]:
        """Copy records and pictures to the folder of records; return the records."""
        records = read_records(path)
        if self.config.records is not None:
            folder = Path(self.config.records)
            write_records(folder / path.name, records)
            for picture in pictures:
                with atomic_path(folder / picture.name) as temporary:
                    shutil.copyfile(picture, temporary)
        return records


def history_metrics(history: CodebookHistory) -> dict[str, Metric]:
    """Summarise the training of a codebook: its end, and its use at the `MILESTONES`."""
    metrics: dict[str, Metric] = {
        "codebook_size": history.usage.shape[1],
        "used_codes": history.used(-1),
        "perplexity": history.perplexity(-1),
        "relative_error": history.error,
    }
    for share in MILESTONES:
        window = max(round(share * len(history.steps)), 1) - 1
        step = history.steps[window]
        metrics[f"used_codes.step_{step}"] = history.used(window)
        metrics[f"perplexity.step_{step}"] = history.perplexity(window)
    return metrics


@torch.no_grad()
def latent_metrics(student: Translator, text: ParallelText) -> dict[str, Metric]:
    """Measure a student's bottleneck on `text` with the codes of the true targets.

    Returns:
        `codebook_size`, `used_codes.valid`, `perplexity.valid`, `reconstruction_loss.valid` in
        nats a target token and `predictor_loss.valid` in nats a code; the end counts as one.
    """
    model = student.model
    assert isinstance(model, LatentTransformer)
    model.eval()
    usage = torch.zeros(model.quantizer.codebook_size, dtype=torch.int64)
    reconstruction = prediction = 0.0
    tokens = ends = 0
    for source, target in padded_batches(student, text):
        z_e, mask = model.compress(target, *model.encode(source))
        codes = model.quantizer.nearest(z_e)[mask].cpu()  # (codes,)
        usage += codes.bincount(minlength=len(usage))
        losses = model(source, target)
        tokens, ends = tokens + losses.tokens, ends + len(source)
        reconstruction += float(losses.terms["reconstruction"]) * losses.tokens
        prediction += float(losses.terms["prediction"]) * (len(codes) + len(source))
    return {
        "codebook_size": len(usage),
        "used_codes.valid": int((usage > 0).sum()),
        "perplexity.valid": perplexity(usage),
        "reconstruction_loss.valid": reconstruction / tokens,
        "predictor_loss.valid": prediction / (int(usage.sum()) + ends),
    }
