"""Pictures of systems: BLEU against latency, and latency by length."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from vqnmt.evaluation.plot_style import COLOURS, STYLE, WIDTH_INCHES, save_figure
from vqnmt.evaluation.records import Record

# In every picture of systems the colour is the engine and the marker the kind of system.
ENGINES = {"PyTorch": COLOURS[0], "ONNX Runtime": COLOURS[1], "CTranslate2": COLOURS[2]}
KINDS = {
    "autoregressive": "o",
    "deep-shallow": "s",
    "fertility NAT": "^",
    "CTC without codes": "v",
    "discrete codes": "D",
    "rescored by the teacher": "P",
}


def engine_and_kind(system: str) -> tuple[str, str]:
    """Read from the name of a system its engine and its kind, keys of `ENGINES` and `KINDS`."""
    engine = "PyTorch"
    if "onnx" in system:
        engine = "ONNX Runtime"
    elif "ctranslate2" in system:
        engine = "CTranslate2"
    if "rescored" in system or "npd" in system:
        return engine, "rescored by the teacher"
    if "deep_shallow" in system:
        return engine, "deep-shallow"
    if system.startswith("nat"):
        return engine, "fertility NAT"
    if system.startswith(("ctc_nat", "glat_ctc")):
        return engine, "CTC without codes"
    if system.startswith(("ar_", "ctranslate2_")):
        return engine, "autoregressive"
    return engine, "discrete codes"


class _Point(NamedTuple):
    name: str
    median: float
    p90: float
    bleu: float
    interval: float
    """Half the 95% interval of BLEU over resampled test sentences; 0 where none is known."""


def plot_bleu_latency(
    records: Sequence[Record], path: Path | str, test_set: str = "test", by_codes: bool = False
) -> None:
    """Draw BLEU against latency at batch 1, one labelled point for each system.

    Up and to the left is better: the grey line is the Pareto front, the systems that no other one
    beats in both. Horizontal whiskers reach from the median to the 90th percentile, vertical ones
    over the 95% bootstrap interval where the record has one.

    Args:
        records: Those without latency or without BLEU on `test_set` are left out.
        path: The PNG file to write; the SVG is written beside it.
        test_set: Whose BLEU is drawn.
        by_codes: Whether systems with codes have a front of their own, of black dashes.

    Raises:
        VqnmtError: The picture cannot be written.
    """
    points = []
    for record in records:
        needed = ("latency_ms.median", "latency_ms.p90", f"bleu.{test_set}")
        if all(key in record.metrics for key in needed):
            median, p90, bleu = (float(record.metrics[key]) for key in needed)
            interval = float(record.metrics.get(f"bleu_interval.{test_set}", 0.0))
            points.append(_Point(record.system, median, p90, bleu, interval))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 4.4), layout="constrained")
        panel = figure.subplots()
        for label, some in _grouped(points, by_codes).items():
            front = _pareto_front(some)
            panel.plot(
                [point.median for point in front],
                [point.bleu for point in front],
                zorder=2,
                **_FRONTS[label],
            )
        for name, median, p90, bleu, interval in points:
            engine, kind = engine_and_kind(name)
            # Over the axes, on which a point at BLEU 0 lies.
            style: dict[str, Any] = {"color": ENGINES[engine], "clip_on": False, "zorder": 3}
            panel.plot([median], [bleu], linestyle="", marker=KINDS[kind], markersize=8, **style)
            panel.plot([median, p90], [bleu, bleu], linewidth=1, **style)
            if interval:
                ends = [max(bleu - interval, 0.0), bleu + interval]
                panel.plot([median, median], ends, linewidth=1, **style)
        panel.set(
            title="Quality and time for one sentence (lines: 90th percentile, 95% interval)",
            xlabel="latency at batch 1, median (ms)",
            ylabel=f"BLEU on {test_set}",
        )
        fastest = min((point.median for point in points), default=1.0)
        slowest = max((point.p90 for point in points), default=1.0)
        if slowest > 20 * fastest:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_xlim(0.7 * fastest, 1.4 * slowest)
        else:
            panel.set_xlim(0, 1.15 * slowest)
        panel.margins(y=0.2)
        low, high = panel.get_ylim()
        if low < 0:  # there is no negative BLEU
            panel.set_ylim(0, max(high, 1))
        if points:
            shown = [engine_and_kind(point.name) for point in points]
            _add_legend(figure, shown, list(_grouped(points, by_codes)))
        _label_points(figure, panel, points)
        save_figure(figure, path)


def plot_latency_by_length(records: Sequence[Record], path: Path | str) -> None:
    """Draw latency at batch 1 against the source's length, one line for each system.

    Args:
        records: Their metrics `latency_ms.tokens_<n>` are drawn; those without are left out.
        path: The PNG file to write; the SVG is written beside it.

    Raises:
        VqnmtError: The picture cannot be written.
    """
    prefix, shown = "latency_ms.tokens_", []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 4.4), layout="constrained")
        panel = figure.subplots()
        for record in records:
            points = sorted(
                (int(key.removeprefix(prefix)), float(value))
                for key, value in record.metrics.items()
                if key.startswith(prefix)
            )
            if points:
                shown.append(engine_and_kind(record.system))
                color, marker = ENGINES[shown[-1][0]], KINDS[shown[-1][1]]
                panel.plot(*zip(*points, strict=True), color=color, marker=marker, linewidth=1)
                panel.annotate(
                    record.system, points[-1], (4, 0), textcoords="offset points", fontsize=6
                )
        panel.set(
            title="Time for one sentence by its length",
            xlabel="tokens of the source",
            ylabel="latency at batch 1, median (ms)",
            xscale="log",
            yscale="log",
        )
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.margins(x=0.2)
        if shown:
            _add_legend(figure, shown)
        save_figure(figure, path)


def _pareto_front(points: Sequence[_Point]) -> list[_Point]:
    """Keep the points that no other point beats in both time and BLEU, the fastest first."""
    front: list[_Point] = []
    for point in sorted(points, key=lambda point: (point.median, -point.bleu)):
        if not front or point.bleu > front[-1].bleu:
            front.append(point)
    return front


_FRONTS: dict[str, dict[str, Any]] = {
    "Pareto front": {"color": "#999999", "linewidth": 1},
    "front without codes": {"color": "#999999", "linewidth": 1},
    "front with codes": {"color": "#000000", "linewidth": 1, "linestyle": "--"},
}


def _grouped(points: Sequence[_Point], by_codes: bool) -> dict[str, list[_Point]]:
    """Return the points of each front that is drawn, a key of `_FRONTS`."""
    if not by_codes:
        return {"Pareto front": list(points)}
    groups: dict[str, list[_Point]] = {"front without codes": [], "front with codes": []}
    for point in points:
        with_codes = engine_and_kind(point.name)[1] == "discrete codes" or "rescored" in point.name
        groups["front with codes" if with_codes else "front without codes"].append(point)
    return groups


def _add_legend(
    figure: Figure, shown: Sequence[tuple[str, str]], fronts: Sequence[str] = ()
) -> None:
    """Name the colours and markers that are in use."""
    engines = [engine for engine in ENGINES if engine in {one for one, _ in shown}]
    kinds = [kind for kind in KINDS if kind in {one for _, one in shown}]
    handles = [Patch(color=ENGINES[engine], label=engine) for engine in engines]
    for kind in kinds:
        style: dict[str, Any] = {"color": "#555555", "linestyle": "", "marker": KINDS[kind]}
        handles.append(Line2D([], [], label=kind, **style))  # type: ignore[arg-type]
    handles += [Line2D([], [], label=label, **_FRONTS[label]) for label in fronts]  # type: ignore[misc]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4, fontsize=9, columnspacing=1.2
    )


def _label_points(figure: Figure, panel: Axes, points: Sequence[_Point]) -> None:
    """Write each system's name where it covers neither a point nor another name."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # settles the layout, so that extents in pixels are known
    figure.set_layout_engine("none")
    frame = panel.get_window_extent()
    taken, whiskers = [], []  # boxes in pixels: x0, y0, x1, y1
    for _, median, p90, bleu, _ in points:
        (left, y), (right, _) = panel.transData.transform([(median, bleu), (p90, bleu)])
        whiskers.append((right - left) * 72 / figure.dpi)  # its length in points
        taken.append((left - 7, y - 7, max(left + 7, right), y + 7))
    for (name, median, _, bleu, _), whisker in zip(points, whiskers, strict=True):
        label = re.sub("ctranslate2_|onnx_", "", name)  # the colour says so
        # Above, right of the whisker, below, left, then ever further above and below.
        near = [(-4, 8, "left", "bottom"), (max(whisker, 4) + 5, 0, "left", "center")]
        near += [(-4, -8, "left", "top"), (-9, 0, "right", "center")]
        far = [(12, sign * (8 + 13 * level)) for level in range(1, 8) for sign in (1, -1)]
        for x, y, horizontal, vertical in [*near, *((*place, "left", "center") for place in far)]:
            text = panel.annotate(
                label,
                (median, bleu),
                xytext=(x, y),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
            )
            box = text.get_window_extent(canvas.get_renderer())
            extent = (box.x0, box.y0, box.x1, box.y1)
            inside = frame.x0 < box.x0 and box.x1 < frame.x1
            inside = inside and frame.y0 < box.y0 and box.y1 < frame.y1
            if inside and not any(_overlap(extent, other) for other in taken):
                taken.append(extent)
                if abs(y) > 8:
                    line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6}
                    panel.annotate(
                        "", (median, bleu), (x, y), textcoords="offset points", arrowprops=line
                    )
                break
            text.remove()
        else:
            panel.annotate(label, (median, bleu), (8, 0), textcoords="offset points")


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
