"""Time every engine on a test set: batch 1 string to string, throughput, footprint, BLEU.

python scripts/benchmark_latency.py --run runs/multi30k-en-de [--student DIR] [--deep-shallow DIR]
python scripts/benchmark_latency.py --run runs/pretrained-en-de --threads 1 \
    --test-sets labels interface everyday \
    --systems student_onnx_int8 ctranslate2_int8_greedy ctranslate2_int8_beam4
python scripts/benchmark_latency.py --run runs/multi30k-en-de --profile [--precision int8]

What is compared and how, and what the profile says: docs/latency.md.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

from vqnmt.commands.command_line import PLACE, SEED, THREADS, Options, run, whole

import torch

from vqnmt.data.corpus import ParallelText, load_corpus
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.latency_plots import plot_bleu_latency, plot_latency_by_length
from vqnmt.evaluation.records import Metric, Record, new_record, write_records
from vqnmt.experiments.engines import engine_systems, measure_engines
from vqnmt.experiments.profile import profile_translation
from vqnmt.experiments.tables import latency_table, profile_table
from vqnmt.exporting.folder import PRECISIONS, export
from vqnmt.models import LatentTransformer
from vqnmt.pipeline.run import pair_name
from vqnmt.translate.pytorch import Translator

# Where reproduce_translation.py leaves an autoregressive student.
DEEP_SHALLOW = "students/ar_*/student"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = Options(__doc__)
    parser.add_argument(
        "--run", type=PLACE, required=True, help="run folder: teacher, student and corpus"
    )
    parser.add_argument("--student", help="model folder of another student than the run's")
    parser.add_argument("--deep-shallow", help="model folder; default: the run's, if any")
    parser.add_argument(
        "--test-sets", nargs="+", default=[], help="each measured apart; default: the first"
    )
    parser.add_argument("--systems", nargs="+", default=[], help="by name; default: all")
    parser.add_argument(
        "--sentences", type=whole(1, 10**9), default=1000, help="the most of a test set"
    )
    parser.add_argument("--rounds", type=whole(1, 10**6), default=1, help="how often each is timed")
    parser.add_argument(
        "--threads", type=THREADS, help="of every engine; default: what torch takes"
    )
    parser.add_argument("--device", default="cpu", help="cuda: PyTorch's engines, on a GPU")
    parser.add_argument("--seed", type=SEED, default=1, help="of the training, for the records")
    parser.add_argument("--profile", action="store_true", help="only profile an exported student")
    parser.add_argument("--precision", choices=PRECISIONS, default="int8", help="of --profile")
    parser.add_argument(
        "--results", type=PLACE, help="folder for records and picture; default: RUN/latency"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure, print the table, and write the records and the pictures."""
    options, start = parse(arguments), perf_counter()
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = Path(options.run)
    corpus = load_corpus(folder / "corpus")
    title = pair_name(corpus)
    texts = {
        name: first_sentences(corpus.test, name, options.sentences)
        for name in options.test_sets or list(corpus.test)[:1]
    }
    models = {"ar": folder / "teacher", "student": Path(options.student or folder / "student")}
    if found := options.deep_shallow or next(iter(sorted(folder.glob(DEEP_SHALLOW))), None):
        models["deep_shallow"] = Path(found)

    def record(system: str, model: Path, metrics: dict[str, Metric], text: ParallelText) -> Record:
        translator = Translator.from_pretrained(model, "cpu")
        return new_record(
            system=system,
            corpus=title,
            overrides=[f"sentences={len(text)}", f"rounds={options.rounds}"],
            seed=options.seed,
            device=options.device,
            wall_seconds=perf_counter() - start,
            parameters=sum(p.numel() for p in translator.model.parameters()),
            metrics=metrics,
        )

    results = Path(options.results or folder / "latency")
    with tempfile.TemporaryDirectory() as exports:
        if options.profile:
            profile(options, models["student"], texts, Path(exports), results / title, record)
        else:
            measure(options, models, texts, Path(exports), results / title, record)


# From a system's name, its model folder, its metrics and the text to its record.
MakeRecord = Callable[[str, Path, dict[str, Metric], ParallelText], Record]


def profile(
    options: argparse.Namespace,
    student: Path,
    texts: Mapping[str, ParallelText],
    exports: Path,
    place: Path,
    record: MakeRecord,
) -> None:
    """Profile an export of the student on each test set."""
    export(student, exports / "student", options.precision)
    model = Translator.from_pretrained(student, "cpu").model
    assert isinstance(model, LatentTransformer)
    for test_set, text in texts.items():
        threads = torch.get_num_threads()
        metrics = profile_translation(exports / "student", model, text.sources, threads)
        records = [record(f"student_onnx_{options.precision}", student, metrics, text)]
        name = f"{place.name}-{test_set}" if options.test_sets else place.name
        write_records(place.with_name(f"{name}-profile.json"), records)
        print(f"{test_set}\n\n{profile_table(records)}")


def measure(
    options: argparse.Namespace,
    models: Mapping[str, Path],
    texts: Mapping[str, ParallelText],
    exports: Path,
    place: Path,
    record: MakeRecord,
) -> None:
    """Measure all systems on each test set, and draw them."""
    threads = torch.get_num_threads()
    systems = engine_systems(models, exports, threads, options.device, wanted=options.systems)
    for test_set, text in texts.items():
        measured = measure_engines(
            systems,
            text,
            test_set=test_set,
            rounds=options.rounds,
            threads=threads,
            device=options.device,
        )
        records = [
            record(name, systems[name].source, metrics, text) for name, metrics in measured.items()
        ]
        name = place.name if options.device == "cpu" else f"{place.name}-{options.device}"
        if options.test_sets:
            name += f"-{test_set}"
        if options.threads:
            name += f"-threads-{threads}"
        write_records(place.with_name(f"{name}.json"), records)
        plot_bleu_latency(records, place.with_name(f"{name}.png"), test_set)
        plot_latency_by_length(records, place.with_name(f"{name}-lengths.png"))
        print(f"{test_set}\n\n{latency_table(records)}")


def first_sentences(sets: Mapping[str, ParallelText], name: str, count: int) -> ParallelText:
    """Return the first sentences of a test set.

    Raises:
        VqnmtError: There is no such set.
    """
    if name not in sets:
        raise VqnmtError(f"--test-sets: {name} is not a test set of the run: {', '.join(sets)}")
    text = sets[name]
    return ParallelText(
        list(text.sources[:count]),
        list(text.targets[:count]),
        references=None if text.references is None else list(text.references[:count]),
    )


if __name__ == "__main__":
    run(main, interrupted="interrupted: start the same command again")
