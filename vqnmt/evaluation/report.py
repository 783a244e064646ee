"""The table of a run and its report.md, both generated from run records."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from vqnmt.evaluation.records import Record
from vqnmt.evaluation.tables import (
    MEDIAN,
    P90,
    PARAMETERS,
    SPEEDUP,
    TABLE_WIDTH,
    Column,
    controls_table,
    markdown_table,
    quality_columns,
)
from vqnmt.files import atomic_write_text

# Characters of the longest label that stands in a table with others.
_SHORT = 40
_CHOSEN = "Of each set those that come first by a hash of the source: nobody has picked them."
# What a table leaves of a system's name, however many columns there are.
_NAME = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusFacts:
    """Facts about the text that a run was trained on, for the report and the model card."""

    name: str
    """Catalogue name, such as "homeassistant"."""
    source_language: str
    """Language code of the source."""
    target_language: str
    """Language code of the target."""
    licence: str
    """Licence of the text."""
    attribution: str
    """Who made it and where it is from; empty for the user's own."""
    counts: dict[str, int]
    """Sentence pairs of each split, in the order to show."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Pairs that the filters dropped, by reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A PNG file in the run folder."""

    file: str
    """Path relative to the report."""
    alt: str
    """What it shows, for readers who cannot see it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One sentence and its translations."""

    source: str
    """The source sentence."""
    reference: str
    """The true translation."""
    translations: dict[str, str]
    """Translation by each system, in the order to show."""
    codes: Sequence[int] | None = None
    """The student's latent codes."""
    test_set: str = ""
    """The set that it is from."""


COSTS = (MEDIAN, P90, SPEEDUP, PARAMETERS)
CONTROLS = (
    "Validation set, whole strings, best path. Codes: of the true targets (oracle), predicted, "
    "random, and the most frequent one everywhere. Bits a sentence: of the target by the decoder, "
    "saved by the true codes instead of predicted ones, and of the true codes by the predictor, "
    "which bounds what they can tell."
)
"""What the table of controls shows."""


def results_table(records: Sequence[Record]) -> str:
    """Lay records out as a Markdown table that reads well on a terminal too.

    A row for each system and test set, `valid` last; latency, speed-up and parameters are shown
    in a system's first row. It is at most `TABLE_WIDTH` characters wide: longer system names are
    cut, but keep `_NAME` characters.
    """
    test_sets = _test_sets(records)
    several = len(test_sets) > 1
    qualities = quality_columns(records)
    header = ["system", *(["test set"] if several else []), *qualities]
    header += [column.title for column in COSTS]
    rows: list[list[str]] = []
    seen: set[int] = set()
    for test_set in test_sets or [""]:
        for index, record in enumerate(records):
            keys = [f"{key}.{test_set}" for key in qualities.values()]
            if index in seen and not any(key in record.metrics for key in keys):
                continue
            row = [_label(record, records), *([test_set] if several else [])]
            row += [Column("", key, "{:.2f}").cell(record) for key in keys]
            row += [column.cell(record) if index not in seen else "" for column in COSTS]
            seen.add(index)
            rows.append(row)
    width = TABLE_WIDTH - sum(
        max(map(len, column)) + 3 for column in list(zip(header, *rows, strict=True))[1:]
    )
    most = max(width - 4, _NAME)
    for row in rows:
        row[0] = row[0] if len(row[0]) <= most else row[0][: most - 1] + "…"
    return markdown_table(header, rows, text_columns=2 if several else 1)


def write_report(
    folder: Path | str,
    *,
    title: str,
    records: Sequence[Record],
    corpus: CorpusFacts,
    settings: Mapping[str, str],
    wall_seconds: Mapping[str, float],
    pictures: Sequence[Picture] = (),
    examples: Sequence[Example] = (),
) -> Path:
    """Write `report.md` into a run folder and return its path.

    Args:
        folder: The run folder; the pictures lie in it.
        title: Heading of the report.
        records: The systems of the table; their hardware, seed and signatures are shown.
        corpus: Facts of the training text.
        settings: Configuration by key, flat, values as on the command line.
        wall_seconds: Seconds that each stage took, in order.
        pictures: Shown in order.
        examples: Sentences shown with all their translations.

    Raises:
        VqnmtError: The file cannot be written.
    """
    parts = [f"# {literal(title)}", results_table(records), _measurement(records)]
    if controls := controls_table(records):
        parts += ["## What the codes carry", CONTROLS, controls]
    parts += [f"![{literal(picture.alt)}]({picture.file})" for picture in pictures]
    if examples:
        parts += [f"## {len(examples)} translations side by side", _CHOSEN]
        for test_set, its in groupby(examples, key=lambda example: example.test_set):
            parts += [f"### {literal(test_set)}", *_examples(list(its))]
    parts += ["## Corpus", corpus_section(corpus), *settings_and_times(settings, wall_seconds)]
    path = Path(folder) / "report.md"
    atomic_write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def settings_and_times(settings: Mapping[str, str], wall_seconds: Mapping[str, float]) -> list[str]:
    """Lay out a run's settings by key and the seconds of its stages, with their headings."""
    stages = [*wall_seconds.items(), ("all stages", sum(wall_seconds.values()))]
    times = ((stage, f"{seconds:,.1f}") for stage, seconds in stages)
    return [
        *("## Settings", pairs_table("key", "value", settings.items())),
        *("## Wall time", pairs_table("stage", "seconds", times)),
    ]


def corpus_section(corpus: CorpusFacts) -> str:
    """Describe a corpus in Markdown: name, languages, licence, attribution and counts."""
    lines = [
        f"{literal(corpus.name)}, {corpus.source_language} to {corpus.target_language}. "
        f"Licence: {literal(corpus.licence)}."
        + (f" Attribution: {literal(corpus.attribution)}" if corpus.attribution else ""),
        pairs_table("split", "sentence pairs", ((k, f"{v:,}") for k, v in corpus.counts.items())),
    ]
    if corpus.dropped:
        dropped = ((reason, f"{count:,}") for reason, count in corpus.dropped.items())
        lines.append(pairs_table("dropped because", "pairs", dropped))
    return "\n\n".join(lines)


def signatures(records: Sequence[Record]) -> str:
    """List sacrebleu's signatures of the records in Markdown, each once."""
    lines = [
        f"- {name}: `{record.metrics[key]}`"
        for name, key in (("BLEU", "bleu_signature"), ("chrF++", "chrf_signature"))
        for record in records
        if key in record.metrics
    ]
    return "\n".join(dict.fromkeys(lines))


def _measurement(records: Sequence[Record]) -> str:
    """Describe how the numbers of the table were measured."""
    lines = [
        "Latency: one sentence at a time, from string to string, the systems in turn on the same "
        "machine; median and 90th percentile over the sentences. Speed-up: the median latency "
        "of AR beam 4 over the system's."
    ]
    signed = signatures(records)
    facts = [signed] if signed else []
    machines = dict.fromkeys(
        ", ".join(f"{key} {value}" for key, value in record.hardware.items()) for record in records
    )
    facts += [f"- Hardware: {literal(machine)}" for machine in machines]
    runs = dict.fromkeys((record.commit, record.training_commit, record.seed) for record in records)
    for commit, training, seed in runs:
        trained = f" (of the training: {training})" if training not in ("", commit) else ""
        facts.append(f"- Commit {commit}{trained}, seed {seed}")
    return "\n\n".join([*lines, "\n".join(facts)])


def _examples(examples: Sequence[Example]) -> list[str]:
    """Lay out a set's examples: short ones without codes in one table, the others one by one."""
    if any(example.codes or len(example.source) > _SHORT for example in examples):
        return [_example(number, example) for number, example in enumerate(examples, 1)]
    header = ["source", "reference", *examples[0].translations]
    rows = [[one.source, one.reference, *one.translations.values()] for one in examples]
    cells = [[literal(cell) for cell in row] for row in rows]
    return [markdown_table(header, cells, text_columns=len(header))]


def _example(number: int, example: Example) -> str:
    rows = [("source", example.source), ("reference", example.reference)]
    rows += list(example.translations.items())
    if example.codes is not None:
        rows.append(("codes", " ".join(map(str, example.codes))))
    return pairs_table(str(number), "", rows)


def _test_sets(records: Sequence[Record]) -> list[str]:
    """Return the test sets of all records in their first order, `valid` last."""
    names = dict.fromkeys(
        key.split(".", 1)[1]
        for record in records
        for key in record.metrics
        if key.startswith(("bleu.", "chrf.", "exact_match."))
    )
    return sorted(names, key=lambda name: name == "valid")


def _label(record: Record, records: Sequence[Record]) -> str:
    """Return the system's name, with what tells it from others of the same name."""
    label = record.system
    same = [other for other in records if other.system == record.system]
    if len({other.corpus for other in same}) > 1:
        label += f", {record.corpus}"
    if len({other.seed for other in same}) > 1:
        label += f", seed {record.seed}"
    return label


def pairs_table(left: str, right: str, rows: Iterable[tuple[str, str]]) -> str:
    """Lay out pairs of free text as a Markdown table."""
    cells = [[literal(one), literal(other)] for one, other in rows]
    return markdown_table([literal(left), literal(right)], cells, text_columns=2)


def literal(text: str) -> str:
    """Keep free text (placeholders, Markdown and HTML of the corpus) literal on one line."""
    text = " ".join(text.split())
    # An underscore inside a word is literal already.
    text = re.sub(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return html.escape(text, quote=False)
