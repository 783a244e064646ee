"""Rewrite the tables in README.md and docs/ from the run records under results/.

python scripts/update_tables.py [--check]

A table stands between `<!-- records: FILE -->` and `<!-- end -->`.
"""

import re
from pathlib import Path

from command_line import run

from vqnmt.errors import VqnmtError
from vqnmt.evaluation.quantizer_tables import collapse_table, students_table
from vqnmt.evaluation.records import read_records
from vqnmt.evaluation.report import results_table
from vqnmt.evaluation.speed import speed_table
from vqnmt.files import atomic_write_text

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- records: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

# Files of records with columns of their own.
TABLES = {
    "results/quantizers/collapse.json": collapse_table,
    "results/quantizers/students.json": students_table,
    "results/quantizers/speed.json": speed_table,
}


def updated(text: str) -> str:
    """Return `text` with every table made anew."""

    def table(match: re.Match[str]) -> str:
        records = read_records(ROOT / match[2])
        if not records:
            return f"{match[1]}\nNothing is recorded yet.\n\n{match[3]}"
        seeds = ", ".join(sorted({str(record.seed) for record in records}))
        hardware = records[0].hardware
        lay_out = TABLES.get(match[2], results_table)
        note = f"Seed {seeds}; {hardware['processor']}, {hardware['threads']} threads."
        return f"{match[1]}\n{lay_out(records)}\n\n{note}\n\n{match[3]}"

    return BLOCK.sub(table, text)


def main(arguments: list[str]) -> None:
    """Rewrite, or with --check only say what is out of date."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        new = updated(text)
        if new == text:
            continue
        if "--check" in arguments:
            raise VqnmtError(f"{path}: a table differs from its records: run this without --check")
        atomic_write_text(path, new)
        print(f"updated {path}")


if __name__ == "__main__":
    run(main)
