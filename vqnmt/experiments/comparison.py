"""What the quantizer changes: collapse of the codebook, and a student with each quantizer."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import PartialState

from vqnmt.checksums import file_checksum
from vqnmt.data.corpus import ParallelText
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.plots import plot_code_usages
from vqnmt.evaluation.records import Metric, Record, new_record, publish_records, write_records
from vqnmt.evaluation.scores import score
from vqnmt.experiments.collapse import (
    CodebookHistory,
    CollapseConfig,
    codebook_steps,
    encoder_vectors,
    gaussian_vectors,
    peer_settings,
    train_codebook,
)
from vqnmt.files import atomic_path
from vqnmt.models import LatentTransformer
from vqnmt.pipeline.config import PipelineConfig
from vqnmt.pipeline.run import TranslationRun, pair_name, start_run
from vqnmt.pipeline.translation import (
    make_corpus,
    make_student,
    make_teacher,
    make_text,
    make_vocabulary,
)
from vqnmt.progress import print_once
from vqnmt.quantizers import QuantizerConfig
from vqnmt.quantizers.statistics import perplexity
from vqnmt.settings import deciding
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
        self.run = start_run(config)
        self.corpus = make_corpus(self.run)
        self.vocabulary = make_vocabulary(self.run, self.corpus)
        self.teacher = make_teacher(self.run, self.corpus, self.vocabulary)
        self.text = make_text(self.run, self.corpus, self.vocabulary, self.teacher)
        self.folder = self.run.folder / "quantizers"

    def collapse(self, settings: CollapseConfig) -> list[Record]:
        """Train codebooks on Gaussian vectors and on the encoder outputs of the run's student.

        Raises:
            VqnmtError: The run has no student, or vector-quantize-pytorch is not installed.
        """
        model = self.run.folder / "student"
        student = Translator.from_pretrained(model)
        quantizer = dataclasses.replace(
            self.config.student_model.quantizer, codebook_size=settings.codebook_size
        )
        decided = {
            "collapse": dataclasses.asdict(settings),
            "quantizer": deciding(quantizer),
            "codebooks": list(codebook_steps(quantizer)),
            "seed": self.config.seed,
            "digest of the student": file_checksum(model / "model.safetensors"),
        }
        stage = Stage(self.folder / "collapse", decided)
        path = stage.folder / "collapse.json"
        pictures = [path.with_suffix(f".{kind}") for kind in ("png", "svg")]
        if not stage.has(path.name, *(picture.name for picture in pictures)):
            with stage.work():
                records = self._train_codebooks(settings, quantizer, student, stage.folder)
                write_records(path, records, anew=True)
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
            "encoder": encoder_vectors(student, self.text.pairs, settings.vectors, seed),
        }
        makers = codebook_steps(quantizer)
        records, usages = [], {}
        for stream, vectors in streams.items():
            corpus = stream if stream == "gaussian" else pair_name(self.corpus)
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
                records.append(
                    new_record(
                        system=system,
                        corpus=corpus,
                        overrides=self.overrides,
                        seed=seed,
                        device=_device(),
                        wall_seconds=history.seconds,
                        parameters=size,
                        metrics=metrics,
                    )
                )
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
            model = dataclasses.replace(self.config.student_model, quantizer=quantizer)
            config = dataclasses.replace(self.config, student_model=model)
            run = self.run.branch(config, self.folder / name)
            student = make_student(run, self.corpus, self.vocabulary, self.teacher, self.text)
            stage = run.stage("evaluation", {"measured on": "valid"}, after="student")
            path = stage.folder / "students.json"
            if not stage.has(path.name):
                with stage.work():
                    write_records(path, [self._measure(name, run, student)], anew=True)
            records += self._publish(path)
        return records

    def _measure(self, name: str, run: TranslationRun, student: Translator) -> Record:
        valid, language = self.corpus.valid, self.corpus.target_language
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
        return new_record(
            system=name,
            corpus=pair_name(self.corpus),
            overrides=self.overrides,
            seed=self.config.seed,
            device=_device(),
            trained=[run.stages["student"]],
            parameters=sum(p.numel() for p in student.model.parameters()),
            metrics=metrics,
        )

    def _publish(self, path: Path, *pictures: Path) -> list[Record]:
        """Copy records and pictures to the folder of records; return the records."""
        folders = [] if self.config.records is None else [Path(self.config.records)]
        records = publish_records(path, [folder / path.name for folder in folders])
        for folder in folders:
            for picture in pictures:
                with atomic_path(folder / picture.name) as temporary:
                    shutil.copyfile(picture, temporary)
        return records


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


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
        nats a target token and `predictor_loss.valid` in nats a symbol of the predictor.
    """
    model = student.model
    assert isinstance(model, LatentTransformer)
    model.eval()
    usage = torch.zeros(model.quantizer.codebook_size, dtype=torch.int64)
    reconstruction = prediction = 0.0
    tokens = said = 0
    for _, source, target in student.paired_batches(text.sources, text.targets):
        codes, mask = model.true_codes(target, *model.encode(source))  # (B, L)
        usage += codes[mask].cpu().bincount(minlength=len(usage))
        losses = model(source, target)
        tokens += losses.tokens
        reconstruction += float(losses.terms["reconstruction"]) * losses.tokens
        count = int(losses.counts["prediction"])
        said += count
        prediction += float(losses.terms["prediction"]) * count
    return {
        "codebook_size": len(usage),
        "used_codes.valid": int((usage > 0).sum()),
        "perplexity.valid": perplexity(usage),
        "reconstruction_loss.valid": reconstruction / tokens,
        "predictor_loss.valid": prediction / said,
    }
