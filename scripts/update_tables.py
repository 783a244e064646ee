"""Rewrite the tables in README.md, docs/ and the cards in pretrained/ from the run records.

python scripts/update_tables.py [--check]

A table is written between `<!-- records: FILE -->` and `<!-- end -->`. For records of translation
words after FILE choose what is shown: nothing shows the systems of train_nmt.py, `systems` those of
reproduce_translation.py, which are named by their experiments, `systems scores` only the first of
their tables; `controls` what the codes of these systems carry; `test` leaves out the validation
set. `rows=a,b` keeps those rows of any table. A FILE that ends in -examples.json has translations;
`first=5` shows five of each class.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

from vqnmt.commands.command_line import Options, run

from vqnmt.errors import VqnmtError
from vqnmt.evaluation.records import Record, read_records
from vqnmt.evaluation.report import results_table
from vqnmt.evaluation.tables import controls_table, seeds_note
from vqnmt.experiments.tables import (
    ablation_table,
    classes_table,
    collapse_table,
    examples_section,
    latency_table,
    preparation_table,
    profile_table,
    quantizer_speed_table,
    scaling_table,
    students_table,
    system_records,
    translation_tables,
)
from vqnmt.files import atomic_write_text
from vqnmt.images.tables import image_table

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- records: (\S+)((?: [\w=,]+)*) -->\n).*?(<!-- end -->)", re.DOTALL)
ABLATIONS = "results/translation/ablations/"
LATENCY = "results/latency/"
CLASSES = "results/classes/"

# Files of records with columns of their own.
TABLES = {
    "results/quantizers/collapse.json": collapse_table,
    "results/quantizers/students.json": students_table,
    "results/quantizers/speed.json": quantizer_speed_table,
    "results/image/cifar10.json": image_table,
    "results/scale/training.json": scaling_table,
    "results/scale/corpus.json": preparation_table,
}


def updated(text: str) -> str:
    """Return `text` with every table made anew."""

    def table(match: re.Match[str]) -> str:
        options = match[3].split()
        if match[2].endswith("-examples.json"):
            examples = json.loads((ROOT / match[2]).read_text(encoding="utf-8"))
            count = int(dict(option.split("=") for option in options).get("first", len(examples)))
            return f"{match[1]}\n{examples_section(examples, count)}\n\n{match[4]}"
        records = _records(match[2], compared="systems" in options)
        if "test" in options:
            records = [without_validation(record) for record in records]
        lay_out = TABLES.get(match[2], results_table)
        if "controls" in options:
            lay_out = controls_table
        elif match[2].startswith(ABLATIONS):
            lay_out = ablation_table
        elif match[2].startswith(CLASSES):
            lay_out = classes_table
        elif match[2].startswith(LATENCY):
            lay_out = profile_table if match[2].endswith("-profile.json") else latency_table
        elif "systems" in options:
            lay_out = scores_table if "scores" in options else translation_tables
        rows = lay_out(records) if records else ""
        if not rows:
            return f"{match[1]}\nNothing is recorded yet.\n\n{match[4]}"
        hardware = records[0].hardware
        for option in options:
            if option.startswith("rows="):
                rows = kept_rows(rows, option.removeprefix("rows=").split(","))
        device = f"{hardware['gpu']}, " if "gpu" in hardware else ""
        threads = f"{hardware['threads']} thread{'' if hardware['threads'] == 1 else 's'}"
        note = f"{seeds_note(records)}; {device}{hardware['processor']}, {threads}."
        return f"{match[1]}\n{note}\n\n{rows}\n\n{match[4]}"

    return BLOCK.sub(table, text)


def without_validation(record: Record) -> Record:
    """Return the record without the scores of the validation set."""
    metrics = {key: value for key, value in record.metrics.items() if not key.endswith(".valid")}
    return dataclasses.replace(record, metrics=metrics)


def kept_rows(table: str, systems: Sequence[str]) -> str:
    """Return the head of a Markdown table and the rows whose first cell is in `systems`."""
    head, rule, *rows = table.split("\n")
    return "\n".join([head, rule, *(row for row in rows if row.split()[1] in systems)])


def scores_table(records: Sequence[Record]) -> str:
    """Return only the first of the tables of a comparison: quality and speed-up."""
    return translation_tables(records).split("\n\n")[0]


def _records(file: str, *, compared: bool) -> Sequence[Record]:
    """Read the records of a table; none where the file is not there yet."""
    if not (ROOT / file).exists():
        return []
    records = read_records(ROOT / file)
    if file in TABLES or file.startswith((ABLATIONS, LATENCY, CLASSES)):
        return records
    if compared:
        return system_records(records)
    return [record for record in records if f"experiment={record.system}" not in record.overrides]


def main(arguments: list[str]) -> None:
    """Rewrite, or with --check only say what is out of date."""
    parser = Options(__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing: fail where one differs"
    )
    check = parser.parse_args(arguments).check
    others = (path for folder in ("docs", "pretrained") for path in (ROOT / folder).rglob("*.md"))
    for path in [ROOT / "README.md", *sorted(others)]:
        text = path.read_text(encoding="utf-8")
        new = updated(text)
        if new == text:
            continue
        if check:
            raise VqnmtError(f"{path}: a table differs from its records: run this without --check")
        atomic_write_text(path, new)
        print(f"updated {path}")


if __name__ == "__main__":
    run(main, interrupted="interrupted: start the same command again")
