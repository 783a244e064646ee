"""The table of Roy et al. 2018: many systems on one teacher, each trained and scored once."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from vqnmt.checksums import file_checksum
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.latency_plots import plot_bleu_latency
from vqnmt.evaluation.plots import plot_code_usages
from vqnmt.evaluation.records import Metric, Record, new_record, read_records, write_records
from vqnmt.evaluation.scores import paired_bootstrap
from vqnmt.files import atomic_write_lines, atomic_write_text
from vqnmt.models import LatentTransformer
from vqnmt.pipeline.config import PipelineConfig
from vqnmt.pipeline.run import TranslationRun, check_settings, pair_name, start_run
from vqnmt.pipeline.systems import (
    BASELINE,
    BASELINES,
    System,
    latent_quality,
    quality_metrics,
    speed_metrics,
    student_name,
    training_metrics,
    translate_sets,
)
from vqnmt.pipeline.teachers import Teacher
from vqnmt.pipeline.translation import (
    make_corpus,
    make_student,
    make_teacher,
    make_text,
    make_vocabulary,
    student_stage,
)
from vqnmt.progress import print_once
from vqnmt.provenance import describe_hardware
from vqnmt.quantizers import SoftEMConfig
from vqnmt.settings import deciding, to_flat
from vqnmt.training.metrics import code_usage
from vqnmt.training.stage import Stage, as_text
from vqnmt.translate.pytorch import Translator

WITHOUT_CODES = "ctc_nat_kd"
"""What systems with codes are compared with too, where it is among the systems."""

# The settings in which systems may differ; all others are shared.
_OWN = (
    *("seed", "student", "student_model", "autoregressive_student", "ctc_student"),
    "fertility_student",
    *("student_training", "reward_training", "distill", "recombined", "warm_start", "decoding"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A system of the table."""

    config: PipelineConfig
    """Its settings."""
    overrides: list[str]
    """The command's changes to the default configuration, for the records."""


@dataclass(slots=True)
class _Entry:
    """A system with one seed, trained."""

    name: str
    row: Row
    run: TranslationRun
    student: Translator
    system: System
    stage: Stage
    """The stage of its scores: `record.json` and the translations."""

    @property
    def training(self) -> Stage | None:
        """The stage that trained its model; None for a teacher from elsewhere."""
        kind = "teacher" if self.row.config.student == "teacher" else "student"
        return self.run.stages.get(kind)


class Reproduction:
    """Trains, scores and times systems that share corpus, vocabulary, teacher and distilled text.

    The run's folder gets, beside the shared stages of any run::

        students/<kind>-<digest>/     a student; systems with the same one share it
        teachers/seed-<n>/            the autoregressive model of a further seed
        systems/<name>-<digest>/      translations and scores of a system
        speed/<digest>/               times of all systems, taken in turn

    A digest covers everything that decides the content, so changed settings make new folders and
    existing ones are kept. Test sets are translated after all systems are trained.

    Args:
        rows: The systems by name, `BASELINES` among them. The first one's settings are those of
            the shared stages.
        seeds: The first one is that of the shared stages and of every system.
        main: Systems that are trained with all `seeds`, and compared with `BASELINES` and
            `WITHOUT_CODES` by paired bootstrap.
        tests: Whether the test sets are scored, or the validation set alone.

    Raises:
        VqnmtError: Several processes are running, the systems do not fit together, or a shared
            stage fails.
    """

    def __init__(
        self,
        rows: Mapping[str, Row],
        *,
        seeds: Sequence[int],
        main: Sequence[str] = (),
        tests: bool = True,
    ) -> None:
        if not seeds or not all(isinstance(seed, int) for seed in seeds):
            raise VqnmtError(f"seeds is {list(seeds)}; give one whole number or more")
        self.rows, self.seeds, self.main = rows, seeds, main
        base = next(iter(rows.values())).config
        self.config = dataclasses.replace(base, seed=seeds[0])
        for name, row in rows.items():
            _check_shared(self.config, row.config, name)
            check_settings(row.config)
        self.shared = start_run(self.config)
        if PartialState().num_processes > 1:
            raise VqnmtError("systems are compared in one process: start it by python alone")
        self.corpus = make_corpus(self.shared)
        self.vocabulary = make_vocabulary(self.shared, self.corpus)
        self.teacher = make_teacher(self.shared, self.corpus, self.vocabulary)
        self.folder = self.shared.folder
        self.sets = {"valid": self.corpus.valid, **(self.corpus.test if tests else {})}
        self.entries: dict[str, list[_Entry]] = {}
        """The entries of each system, one for each seed."""

    def run(self) -> list[Record]:
        """Run what is missing; return the records of all systems."""
        for name, row in self.rows.items():
            print_once(f"system {name}")
            seeds = self.seeds if self._takes_seeds(name) else self.seeds[:1]
            self.entries[name] = [self._entry(name, row, seed) for seed in seeds]
        records = {
            name: [self._score(entry) for entry in entries]
            for name, entries in self.entries.items()
        }
        speed, hardware = self._speed()
        significance = self._significance()
        for name, of_system in records.items():
            first = of_system[0]
            of_system[0] = dataclasses.replace(
                first, metrics=first.metrics | speed[name], hardware=hardware
            )
            for i, found in enumerate(significance[name]):
                metrics = of_system[i].metrics | found
                of_system[i] = dataclasses.replace(of_system[i], metrics=metrics)
        return [record for of_system in records.values() for record in of_system]

    def _takes_seeds(self, name: str) -> bool:
        config = self.rows[name].config
        given = config.student == "teacher" and config.teacher != "own"  # it is trained already
        return name in self.main and not given

    # --- training ----------------------------------------------------------------------------

    def _entry(self, name: str, row: Row, seed: int) -> _Entry:
        config = dataclasses.replace(row.config, seed=seed)
        run, student = self._trained(config)
        system = System(student, config.decoding, self.teacher.translator)
        settings: dict[str, Any] = {
            "sets": list(self.sets),
            "decoding": deciding(config.decoding),
            "digest of the model": _checksum(run, self.teacher, config.student),
        }
        if config.decoding.candidates > 1:
            settings["digest of the teacher"] = _checksum(self.shared, self.teacher, "teacher")
        stage = Stage(self.folder / "systems" / f"{name}-{_digest(settings)}", settings)
        return _Entry(name, row, run, student, system, stage)

    def _trained(self, config: PipelineConfig) -> tuple[TranslationRun, Translator]:
        """Return the student of `config`, trained now or before, and its run."""
        corpus, vocabulary, teacher = self.corpus, self.vocabulary, self.teacher
        if config.student == "teacher":
            run = self.shared.branch(config, self.folder)
            if config.seed != self.config.seed:
                run = run.branch(config, self.folder / "teachers" / f"seed-{config.seed}")
                teacher = make_teacher(run, corpus, vocabulary)
            assert isinstance(teacher.translator, Translator)  # `check_settings` has seen to it
            return run, teacher.translator
        # Its text is that of the first seed.
        first = dataclasses.replace(config, seed=self.config.seed)
        run = self.shared.branch(first, self.folder)
        text = make_text(run, corpus, vocabulary, teacher)
        students = self.folder / "students"
        # Opened for its settings alone: this folder is never made.
        settings = student_stage(run.branch(config, students), teacher, text).settings
        run = run.branch(config, students / f"{student_name(config)}-{_digest(settings)}")
        return run, make_student(run, corpus, vocabulary, teacher, text)

    # --- measurement -------------------------------------------------------------------------

    def _score(self, entry: _Entry) -> Record:
        """Translate and score all sets, once."""
        stage, system = entry.stage, entry.system
        path = stage.folder / "record.json"
        if not stage.has(path.name):
            with stage.work():
                found = translate_sets(entry.name, system, self.sets)
                texts = {key: [t.text for t in translations] for key, translations in found.items()}
                for key, lines in texts.items():
                    # An undertrained model may spell any byte.
                    kept = (line.replace("\n", " ") for line in lines)
                    atomic_write_lines(self._translations(stage, key), kept)
                student = entry.student
                language, patterns = student.target_language, student.span_patterns
                metrics = quality_metrics(texts, self.sets, language, patterns)
                metrics |= latent_quality(
                    student, found["valid"], self.sets["valid"], entry.run.config
                )
                metrics |= training_metrics(entry.training) | _sizes(student)
                record = new_record(
                    system=entry.name,
                    corpus=pair_name(self.corpus),
                    overrides=entry.row.overrides,
                    seed=entry.run.config.seed,
                    device=student.device,
                    trained=[entry.training] if entry.training else [],
                    parameters=system.parameters,
                    metrics=metrics,
                )
                write_records(path, [record], anew=True)
        return dataclasses.replace(read_records(path)[0], overrides=entry.row.overrides)

    def _translations(self, stage: Stage, set_name: str) -> Path:
        return stage.folder / f"{set_name}.{self.corpus.target_language}"

    def _speed(self) -> tuple[dict[str, dict[str, Metric]], dict[str, str | int]]:
        """Time the first seed of all systems in turn, once on this machine."""
        firsts = {name: entries[0] for name, entries in self.entries.items()}
        hardware = describe_hardware(firsts[BASELINE].student.device)
        timing = dataclasses.asdict(self.config.evaluation)
        del timing["controls"]  # decides no time
        settings = {
            "systems": {name: _digest(entry.stage.settings) for name, entry in firsts.items()},
            "evaluation": timing,
            "hardware": hardware,
        }
        stage = Stage(self.folder / "speed" / _digest(settings), settings)
        path = stage.folder / "speed.json"
        if not stage.has(path.name):
            with stage.work():
                systems = {name: entry.system for name, entry in firsts.items()}
                sentences = self.sets[self._first_set()].sources
                found = speed_metrics(systems, sentences, self.config.evaluation)
                atomic_write_text(path, json.dumps(found, indent=2) + "\n")
        speed: dict[str, dict[str, Metric]] = json.loads(path.read_text(encoding="utf-8"))
        return speed, hardware

    def _significance(self) -> dict[str, list[dict[str, Metric]]]:
        """Compare the main systems with the baselines on the test sets, each seed with its own.

        A baseline with fewer seeds is compared by its first one. All systems get BLEU's interval.
        """
        compared = [name for name in self.main if name in self.rows and name not in BASELINES]
        baselines = [name for name in (*BASELINES, WITHOUT_CODES) if name in self.rows]
        metrics: dict[str, list[dict[str, Metric]]] = {
            name: [{} for _ in entries] for name, entries in self.entries.items()
        }
        for key, text in self.sets.items():
            if key == "valid" or text.references:
                continue
            for baseline, seed in itertools.product(baselines, range(len(self.seeds))):
                outputs = {
                    name: self._output(self.entries[name][seed], key)
                    for name in (self.rows if baseline == BASELINE else compared)
                    if seed < len(self.entries[name])
                }
                if not outputs:
                    continue
                own = self.entries[baseline]
                found = paired_bootstrap(
                    self._output(own[seed if seed < len(own) else 0], key),
                    outputs,
                    text.targets,
                    self.corpus.target_language,
                )
                for name, comparison in found.items():
                    one = metrics[name][seed]
                    one[f"bleu_interval.{key}"] = comparison.interval
                    if name in compared and name != baseline:
                        one[f"bleu_minus_{baseline}.{key}"] = comparison.difference
                        one[f"p_value_against_{baseline}.{key}"] = comparison.p_value
        return metrics

    def _output(self, entry: _Entry, set_name: str) -> list[str]:
        path = self._translations(entry.stage, set_name)
        return path.read_text(encoding="utf-8").split("\n")[:-1]

    # --- publication -------------------------------------------------------------------------

    def publish(self, path: Path, records: Sequence[Record]) -> None:
        """Add `records` to the file at `path`, and draw the pictures beside it.

        `<name>_bleu_latency.png` has all systems of these records, `<name>_code_usage.png` those
        with codes.
        """
        write_records(path, records)
        if any("latency_ms.median" in record.metrics for record in records):
            picture = path.with_name(f"{path.stem}_bleu_latency.png")
            plot_bleu_latency(records, picture, self._first_set())
        usages: dict[Path, tuple[str, tuple[np.ndarray, np.ndarray]]] = {}
        for name, (first, *_) in self.entries.items():
            stage = first.training
            # A student of several systems is drawn once.
            if stage is None or stage.folder in usages:
                continue
            if usage := code_usage(stage.metrics()):
                usages[stage.folder] = name, usage
        if usages:
            plot_code_usages(dict(usages.values()), path.with_name(f"{path.stem}_code_usage.png"))

    def _first_set(self) -> str:
        """Name the set that is timed and drawn: the first test set, or valid where none is."""
        return next((name for name in self.sets if name != "valid"), "valid")


def _check_shared(base: PipelineConfig, config: PipelineConfig, name: str) -> None:
    """Refuse a system that differs in what all systems share.

    Raises:
        VqnmtError: Names the system, the key and both values.
    """
    ours, theirs = (
        to_flat({k: v for k, v in dataclasses.asdict(c).items() if k not in _OWN})
        for c in (base, config)
    )
    for key, value in ours.items():
        if theirs[key] != value:
            raise VqnmtError(
                f"system {name} sets {key}={as_text(theirs[key])}, but all systems share {key}="
                f"{as_text(value)}: set it on the command line, for all of them"
            )


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _checksum(run: TranslationRun, teacher: Teacher, kind: str) -> str:
    """Return the checksum of the weights of a run's teacher or student."""
    if kind == "teacher" and run.config.teacher != "own":
        return str(teacher.settings["digest of the teacher"])
    stage = run.stages["teacher" if kind == "teacher" else "student"]
    return file_checksum(stage.folder / "model.safetensors")


def _sizes(student: Translator) -> dict[str, Metric]:
    """Return the sizes of a latent student's codes: n_c, K and, for soft EM, n_s."""
    if not isinstance(student.model, LatentTransformer):
        return {}
    config = student.model.config
    sizes: dict[str, Metric] = {
        "compression": config.compression,
        "codebook_size": student.model.quantizer.codebook_size,
    }
    if isinstance(config.quantizer, SoftEMConfig):
        sizes["samples"] = config.quantizer.samples
    return sizes
