"""Stages 6 and 7 of the main job: scores, latency, records, report."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from vqnmt.data.corpus import Corpus, ParallelText
from vqnmt.data.labels import seen_labels
from vqnmt.evaluation.latency_plots import plot_bleu_latency
from vqnmt.evaluation.model_card import model_card
from vqnmt.evaluation.plots import plot_code_usage, plot_training
from vqnmt.evaluation.records import Metric, Record, new_record, publish_records, write_records
from vqnmt.evaluation.report import Example, Picture, write_report
from vqnmt.files import atomic_write_lines, atomic_write_text, remove_leftovers
from vqnmt.models import LatentTransformer
from vqnmt.pipeline.config import DecodingConfig, PipelineConfig
from vqnmt.pipeline.run import (
    TranslationRun,
    corpus_facts,
    method_tags,
    pair_name,
    records_paths,
)
from vqnmt.pipeline.systems import (
    BASELINE,
    BASELINES,
    System,
    latent_quality,
    quality_metrics,
    speed_metrics,
    system_name,
    training_metrics,
    translate_sets,
)
from vqnmt.pipeline.teachers import Teacher
from vqnmt.settings import deciding, to_flat
from vqnmt.splits import hash_order
from vqnmt.training.metrics import code_usage
from vqnmt.training.stage import as_text
from vqnmt.translate.code_index import index_codes, write_code_index
from vqnmt.translate.pytorch import Translation, Translator

_DESCRIPTIONS = {
    "latent": "A vqnmt latent Transformer: it predicts one discrete code for every {tokens} target "
    "tokens, then all tokens at once.",
    "autoregressive": "A vqnmt autoregressive Transformer, trained on a teacher's output.",
    "ctc": "A vqnmt parallel Transformer without codes: it stretches the source, then writes all "
    "target tokens at once.",
    "fertility": "A vqnmt fertility NAT: it predicts how often each source token is copied, then "
    "all target tokens at once.",
}

# The translations of each set, by system.
Outputs = Mapping[str, Mapping[str, Sequence[Translation]]]

# The sets whose translations the report shows: sentences and labels.
_SHOWN = ("valid", "labels")
# Training sentences, at even distances, whose translations make the index of codes.
_INDEXED = 5000


def evaluate(
    run: TranslationRun,
    corpus: Corpus,
    teacher: Teacher,
    student: Translator,
    overrides: list[str],
) -> list[Record]:
    """Score and time teacher and student; write results.json, report.md and the model card.

    What is there already is only added to the folder of records.

    Args:
        run: A run that has made the others.
        corpus: Has the sets.
        teacher: Of the baselines.
        student: What `make_student` has returned.
        overrides: The command's changes to the default configuration, for the records.
    """
    config = run.config
    settings = {
        "evaluation": dataclasses.asdict(config.evaluation),
        "decoding": deciding(config.decoding),
        **teacher.settings,
    }
    done = next(name for name in ("student", "teacher", "vocabulary") if name in run.stages)
    stage = run.stage("evaluation", settings, after=done)
    path = run.folder / "results.json"
    if not (stage.complete and path.exists() and (run.folder / "report.md").exists()):
        with stage.work():
            remove_leftovers(run.folder)
            systems, name = _systems(config, teacher, student)
            sets = {"valid": corpus.valid, **corpus.test}
            if "labels" in sets:
                sets["seen_labels"] = seen_labels(corpus.train)
            outputs = {key: translate_sets(key, one, sets) for key, one in systems.items()}
            _write_hypotheses(run.folder / "hypotheses", outputs)
            metrics = _measure(config, systems, outputs, sets)
            metrics[name] |= latent_quality(student, outputs[name]["valid"], corpus.valid, config)
            records = []
            for key, values in metrics.items():
                untrained = key in BASELINES or config.student == "teacher"
                training = run.stages.get("teacher" if untrained else "student")
                records.append(
                    new_record(
                        system=key,
                        corpus=pair_name(corpus),
                        overrides=overrides,
                        seed=config.seed,
                        device=student.device,
                        trained=[training] if training else [],
                        parameters=systems[key].parameters,
                        metrics=values | training_metrics(training),
                    )
                )
            # Replaces the records of an earlier evaluation.
            write_records(path, records, anew=True)
            _write_index(run, corpus, student)
            _write_card(run, corpus, records[-1], student)
            _write_report(run, corpus, name, records, outputs)
    return publish_records(path, records_paths(config))


def _systems(
    config: PipelineConfig, teacher: Teacher, student: Translator
) -> tuple[dict[str, System], str]:
    """Return the systems by name, and the name of the student as the run asks for it."""
    systems = {
        BASELINE: System(teacher.translator, DecodingConfig(beam=4)),
        "ar_greedy": System(teacher.translator),
    }
    # A student that reads with a language model comes after itself without one.
    best_path = dataclasses.replace(config.decoding, language_model=False)
    decodings = [best_path] if student.language_model is None else [best_path, config.decoding]
    for decoding in decodings:
        name = system_name(dataclasses.replace(config, decoding=decoding))
        systems[name] = System(student, decoding, teacher.translator)
    return systems, name


def _write_hypotheses(folder: Path, outputs: Outputs) -> None:
    """Leave the translations of each set by each system, line by line."""
    folder.mkdir(exist_ok=True)
    for system, found in outputs.items():
        for name, translations in found.items():
            atomic_write_lines(folder / f"{system}.{name}.txt", [one.text for one in translations])


def _measure(
    config: PipelineConfig,
    systems: Mapping[str, System],
    outputs: Outputs,
    sets: Mapping[str, ParallelText],
) -> dict[str, dict[str, Metric]]:
    """Score all sets, and time the first test set."""
    language, patterns = config.corpus.target_language, config.vocabulary.span_patterns
    first = next(name for name in sets if name != "valid")
    timed = speed_metrics(systems, sets[first].sources, config.evaluation)
    metrics = {}
    for name, of_sets in outputs.items():
        texts = {key: [t.text for t in found] for key, found in of_sets.items()}
        metrics[name] = quality_metrics(texts, sets, language, patterns) | timed[name]
    return metrics


def _write_report(
    run: TranslationRun, corpus: Corpus, student: str, records: list[Record], outputs: Outputs
) -> None:
    settings = to_flat(dataclasses.asdict(run.config))
    stages = {name: stage for name, stage in run.stages.items() if name != "evaluation"}
    write_report(
        run.folder,
        title=f"{student} on {corpus.name}",
        records=records,
        corpus=corpus_facts(corpus),
        settings={key: as_text(value) for key, value in settings.items()},
        wall_seconds={name: stage.seconds for name, stage in stages.items()},
        pictures=_draw(run, records, next(iter(corpus.test))),
        examples=[
            example
            for name, text in {"valid": corpus.valid, **corpus.test}.items()
            if name in _SHOWN
            for example in _examples(
                name,
                text,
                run.config.evaluation.examples,
                {system: found[name] for system, found in outputs.items()},
                student,
            )
        ],
    )


def _draw(run: TranslationRun, records: list[Record], test_set: str) -> list[Picture]:
    pictures = []
    for name in ("teacher", "student"):
        if name not in run.stages:
            continue
        rows = run.stages[name].metrics()
        file = f"training_{name}.png"
        plot_training(rows, run.folder / file, title=name)
        pictures.append(Picture(file=file, alt=f"Losses and BLEU of the {name} over training"))
        if usage := code_usage(rows):
            plot_code_usage(*usage, run.folder / "code_usage.png")
            alt = "How often each code is used, epoch by epoch"
            pictures.append(Picture(file="code_usage.png", alt=alt))
    if "latency_ms.median" in records[0].metrics:
        plot_bleu_latency(records, run.folder / "bleu_latency.png", test_set)
        alt = "BLEU of every system against its latency"
        pictures.append(Picture(file="bleu_latency.png", alt=alt))
    return pictures


def _examples(
    name: str,
    text: ParallelText,
    count: int,
    found: Mapping[str, Sequence[Translation]],
    student: str,
) -> list[Example]:
    """Take the strings of a set that come first by the hash of their sources."""
    return [
        Example(
            source=text.sources[i],
            reference=text.targets[i],
            translations={name: translations[i].text for name, translations in found.items()},
            codes=None if text.references else found[student][i].codes or None,
            test_set=name,
        )
        for i in hash_order(text.sources)[:count]
    ]


def _write_index(run: TranslationRun, corpus: Corpus, student: Translator) -> None:
    """Leave the words that each code writes in a part of the training text beside the student."""
    if "student" not in run.stages or not isinstance(student.model, LatentTransformer):
        return
    sources = corpus.train.sources
    count = min(len(sources), _INDEXED)
    some = [sources[i * len(sources) // count] for i in range(count)]
    write_code_index(run.stages["student"].folder, index_codes(student, some))


def _write_card(run: TranslationRun, corpus: Corpus, record: Record, student: Translator) -> None:
    """Put the scores of a student that was trained here into its model card."""
    if "student" not in run.stages:
        return
    config = run.config
    card = model_card(
        title=f"{record.system}: {corpus.name}",
        description=_DESCRIPTIONS.get(config.student, "A vqnmt student of a plug-in.").format(
            tokens=2**config.student_model.compression
        ),
        corpus=corpus_facts(corpus),
        records=[record],
        tags=method_tags(student.model),
    )
    atomic_write_text(run.stages["student"].folder / "README.md", card)
