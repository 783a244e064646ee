"""Pictures of what the codes of latent students carry, from records and from words."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from vqnmt.errors import VqnmtError
from vqnmt.evaluation.plot_style import COLOURS, DASHES, MARKERS, STYLE, WIDTH_INCHES, save_figure
from vqnmt.evaluation.records import Record

# What is drawn of a student with codes, by its metric, and by what a line without codes is named.
_LINES = {
    "bleu_oracle.valid": "oracle codes",
    "bleu.valid": "translation",
    "bleu_random.valid": "random codes",
}


@dataclass(frozen=True, slots=True)
class CodeWords:
    """The words that a code writes."""

    code: int
    share: float
    """Of all codes in the translations, 0 to 1."""
    frequent: list[str]
    """Its most frequent words."""
    own: list[str]
    """The words that tell it best from the other codes."""


@dataclass(frozen=True, slots=True)
class Swap:
    """A translation with other codes than the predictor's."""

    codes: list[int]
    probability: float
    """Of the code that was put in, by the predictor, 0 to 1."""
    text: str


@dataclass(frozen=True, slots=True)
class Swaps:
    """What changes in the translation of one sentence when its code at `position` is another."""

    source: str
    position: int
    swaps: list[Swap]
    """The first one is the translation itself."""


def plot_sizes(records: Sequence[Record], path: Path | str) -> None:
    """Draw BLEU on the validation set against n_c and against K.

    A panel has the systems that share the other size: oracle, translation and, where measured,
    random codes, the mean where several have one size. Horizontal lines are systems without codes.

    Args:
        records: Those with `compression` and `codebook_size` are points, the others lines.
        path: The PNG file to write; the SVG is written beside it.

    Raises:
        VqnmtError: No size has two values, or the picture cannot be written.
    """
    sized = [record for record in records if "compression" in record.metrics]
    others = [record for record in records if "compression" not in record.metrics]
    panels = {}
    for key, fixed, label in (
        ("compression", "codebook_size", "n_c: a code stands for 2^n_c tokens"),
        ("codebook_size", "compression", "K: codes in the codebook"),
    ):
        # The other size that has the most values of this one.
        groups: dict[object, list[Record]] = {}
        for record in sized:
            groups.setdefault(record.metrics[fixed], []).append(record)
        largest = max(groups.values(), key=lambda rs: len({r.metrics[key] for r in rs}), default=[])
        if len({record.metrics[key] for record in largest}) > 1:
            panels[key, label] = sorted(largest, key=lambda record: float(record.metrics[key]))
    if not panels:
        raise VqnmtError(
            "no two records differ in compression or codebook_size alone: give the records of "
            "ablation=compression or ablation=codebook_size"
        )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 4.0), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for panel, ((key, label), some) in zip(axes, panels.items(), strict=True):
            _draw_sizes(panel, key, some, others)
            panel.set(xlabel=label)
        axes[0].set(title="Quality against the size of the code", ylabel="BLEU on valid")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        save_figure(figure, path)


def _draw_sizes(panel: Axes, key: str, records: Sequence[Record], others: Sequence[Record]) -> None:
    for index, (metric, name) in enumerate(_LINES.items()):
        found: dict[float, list[float]] = {}
        for record in records:
            if metric in record.metrics:
                size = float(record.metrics[key])
                found.setdefault(size, []).append(float(record.metrics[metric]))
        if found:
            panel.plot(
                list(found),
                [statistics.fmean(values) for values in found.values()],
                color=COLOURS[index],
                linestyle=DASHES[index],
                marker=MARKERS[index],
                label=name,
            )
    for index, record in enumerate(others):
        if "bleu.valid" in record.metrics:
            panel.axhline(
                float(record.metrics["bleu.valid"]),
                color="#777777",
                linestyle=DASHES[index % len(DASHES)],
                linewidth=1,
                label=record.system,
            )
    if key == "codebook_size":
        panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_xticks(sorted({float(record.metrics[key]) for record in records}))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_ylim(bottom=0)


def plot_meanings(words: Sequence[CodeWords], swaps: Sequence[Swaps], path: Path | str) -> None:
    """Draw the words of single codes, and below them what changes when one code is another.

    Args:
        words: A row each, in this order.
        swaps: A block of rows each.
        path: The PNG file to write; the SVG is written beside it.

    Raises:
        VqnmtError: The picture cannot be written.
    """
    bold: dict[str, Any] = {"fontweight": "bold"}
    lines: list[tuple[tuple[str, str, str, str], dict[str, Any]]] = []
    lines.append((("code", "share", "its most frequent words", "words that tell it apart"), bold))
    for one in words:
        cells = (_fitting(" ".join(one.frequent), 46), _fitting(" ".join(one.own), 40))
        lines.append(((str(one.code), f"{one.share:.1%}", *cells), {}))
    for block in swaps:
        lines.append((("", "", "", ""), {}))
        lines.append(((_fitting(block.source, 88), "", "", ""), bold))
        for number, swap in enumerate(block.swaps):
            codes = " ".join(map(str, swap.codes))
            own: dict[str, Any] = {} if number else {"color": COLOURS[0]}
            shown = (_fitting(codes, 10), f"{swap.probability:.0%}", _fitting(swap.text, 88))
            lines.append(((*shown, ""), own))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 0.21 * len(lines) + 0.3))
        for row, (texts, style) in enumerate(lines):
            y = 1 - (row + 1) / (len(lines) + 1)
            for x, text in zip((0.02, 0.1, 0.18, 0.6), texts, strict=True):
                figure.text(x, y, text, fontsize=9, va="center", parse_math=False, **style)
        save_figure(figure, path)


def _fitting(text: str, width: int) -> str:
    """Cut what has more than `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"
