"""Measure a trained model by class of text, beside its teacher in CTranslate2: int8, one thread.

python scripts/evaluate_classes.py --run runs/pretrained-en-de [--model DIR] [--card FILE]

The classes, and how strings are chosen: vqnmt/experiments/classes.py. The strings with protected
spans are also translated without repairs, and without protection. Written are CORPUS.json, the
records, and CORPUS-examples.json.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

from vqnmt.commands.command_line import PLACE, SEED, Options, run, whole

import torch

from vqnmt.data.config import CorpusConfig
from vqnmt.data.corpus import load_corpus
from vqnmt.evaluation.model_card import with_section
from vqnmt.evaluation.records import new_record, write_records
from vqnmt.experiments.classes import (
    classes_of_text,
    measure_classes,
    unprotected,
    write_examples,
)
from vqnmt.experiments.tables import classes_table
from vqnmt.exporting.folder import export
from vqnmt.files import atomic_write_text
from vqnmt.pipeline.run import pair_name
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.folder import EXPORTED, read_values
from vqnmt.translate.loading import load_translator
from vqnmt.translate.pytorch import Translator

SECTION = "By class of text"
ABOUT = """\
One string at a time, in int8 on one CPU thread. `student` is this model, `teacher` its teacher in
CTranslate2. `interface`, `everyday` and `labels` were held out of the training text, `seen_labels`
stand in it; `another_project` and `spans` are strings of Indico (MIT), on which nothing was
trained, and `captions` those of Multi30k's test_2016_flickr. Labels count where they equal any
reference, "spans", "numbers" and "intact" where placeholders, numbers or both all come through and
none is made up. `student_unrepaired` takes the first translation whether or not it keeps them,
`student_unprotected` sees the spans themselves."""
EXAMPLES = """\
The strings of each class that come first by a hash of the source: nobody has picked them. The
captions were written for this card, as those of Multi30k may not be copied. Strings of interfaces
and of Tatoeba have the licences named above."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = Options(__doc__)
    parser.add_argument(
        "--run", type=PLACE, required=True, help="run folder: teacher, student and corpus"
    )
    parser.add_argument("--model", type=PLACE, help="another student than the run's, or its export")
    parser.add_argument("--seed", type=SEED, default=1, help="of the training, for the records")
    parser.add_argument(
        "--examples", type=whole(1, 1000), default=25, help="strings of each class to write down"
    )
    parser.add_argument(
        "--results", type=PLACE, help="folder for what is written; default: RUN/classes"
    )
    parser.add_argument(
        "--card", type=PLACE, help="model card that gets a section with places for the tables"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measure, print the table, and write the records and the examples."""
    options, start = parse(arguments), perf_counter()
    torch.set_num_threads(1)
    folder = Path(options.run)
    corpus = load_corpus(folder / "corpus")
    models = {"student": Path(options.model or folder / "student"), "teacher": folder / "teacher"}
    classes = classes_of_text(corpus, Path(CorpusConfig().cache))
    with tempfile.TemporaryDirectory() as exports:
        loaded: dict[str, BatchTranslator] = {}
        for name, model in models.items():
            if read_values(model).get("model_type") != EXPORTED:
                export(model, f"{exports}/{name}", "int8")
                model = Path(exports) / name
            loaded[name] = load_translator(model, threads=1)
        student, teacher = loaded.values()
        systems = {
            "student": lambda text: student(text).text,
            "teacher_greedy": lambda text: teacher(text).text,
            "teacher_beam4": lambda text: teacher(text, beam=4).text,
        }
        further = {
            "student_unrepaired": lambda text: student(text, repair=False).text,
            "student_unprotected": unprotected(student),
        }
        measured = measure_classes(classes, systems, further, corpus.target_language)
        results = Path(options.results or folder / "classes")
        results.mkdir(parents=True, exist_ok=True)
        file = results / f"{pair_name(corpus)}.json"
        examples = file.with_name(f"{file.stem}-examples.json")
        write_examples(examples, classes, measured, systems, options.examples)
    records = [
        new_record(
            system=name,
            corpus=pair_name(corpus),
            overrides=["precision=int8", "threads=1"],
            seed=options.seed,
            parameters=_parameters(folder / name.partition("_")[0]),
            metrics=found.metrics,
            wall_seconds=perf_counter() - start,
        )
        for name, found in measured.items()
    ]
    write_records(file, records)
    if options.card:
        text = "\n\n".join(
            [
                f"{ABOUT}\n\n<!-- records: {file} -->\n<!-- end -->",
                f"{EXAMPLES}\n\n<!-- records: {examples} first=5 -->\n<!-- end -->",
            ]
        )
        card = Path(options.card)
        atomic_write_text(card, with_section(card.read_text(encoding="utf-8"), SECTION, text))
    print(classes_table(records))


def _parameters(model: Path) -> int:
    return sum(p.numel() for p in Translator.from_pretrained(model, "cpu").model.parameters())


if __name__ == "__main__":
    run(main, interrupted="interrupted: start the same command again")
