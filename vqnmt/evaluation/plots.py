"""Pictures of a run, legible at 800 pixels of width and without colour vision."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from vqnmt.evaluation.plot_style import (
    COLOURS,
    DASHES,
    MARKERS,
    STYLE,
    WIDTH_INCHES,
    save_figure,
    series,
    thousands,
)
from vqnmt.evaluation.records import Record

# Logged beside the losses under `train/`, in other units: rates and the quantizer's statistics.
_NOT_LOSSES = {
    *("learning_rate", "tokens_per_second", "images_per_second"),
    *("quantisation_error", "posterior_entropy", "skipped_steps"),
}
_MAX_COLUMNS = 512  # of the code heat map: about one for each pixel at 800 pixels


def plot_training(
    metrics: Sequence[Mapping[str, float]], path: Path | str, title: str = "Training"
) -> None:
    """Draw the losses by name, and the validation BLEU beside them where there is any.

    Args:
        metrics: The rows of a metrics.jsonl: `step`, losses as `train/<name>` (and
            `valid/<name>`, drawn as points of the same colour) and `valid/bleu<_kind>`.
        path: The PNG file to write.
        title: Printed above the losses.

    Raises:
        VqnmtError: The picture cannot be written.
    """
    keys = dict.fromkeys(key for row in metrics for key in row)  # in their first order
    names = [key.removeprefix("train/") for key in keys if key.startswith("train/")]
    names = [name for name in names if name not in _NOT_LOSSES]
    bleus = [key for key in keys if key.startswith("valid/bleu")]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 4.0), layout="constrained")
        panels = figure.subplots(1, 2 if bleus else 1, squeeze=False)[0]
        lowest = np.inf
        for index, name in enumerate(names):
            style = {"color": COLOURS[index % 7], "label": name.replace("_", " ")}
            steps, values = series(metrics, f"train/{name}")
            panels[0].plot(steps, values, linestyle=DASHES[index % 7], **style)
            lowest = min(lowest, values.min(initial=np.inf))
            style["label"] = "_"  # the marker needs no line of its own in the legend
            steps, values = series(metrics, f"valid/{name}")
            panels[0].plot(steps, values, marker=MARKERS[index % 7], linestyle="", **style)
        if 0 < lowest < np.inf:
            panels[0].set_yscale("log")
            panels[0].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panels[0].yaxis.set_minor_locator(NullLocator())
        points = any(f"valid/{name}" in keys for name in names)
        panels[0].set(
            title=f"{title}{': losses (points: validation)' if points else ': losses'}",
            ylabel="loss (cross-entropies in nats)",
        )
        for index, key in enumerate(bleus):
            steps, values = series(metrics, key)
            kind = key.removeprefix("valid/bleu").strip("_").replace("_", " ")
            panels[1].plot(
                *(steps, values),
                color=COLOURS[index % 7],
                linestyle=DASHES[index % 7],
                marker=MARKERS[index % 7],
                label=kind or "BLEU",
            )
        if bleus:
            panels[1].set(title=f"{title}: validation", ylabel="BLEU")
            panels[1].set_ylim(bottom=0)
        for panel in panels:
            panel.set_xlabel("training step")
            thousands(panel)
            if panel.lines:
                panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
        save_figure(figure, path)


def plot_code_usage(
    usage: np.ndarray, steps: np.ndarray, path: Path | str, title: str | None = None
) -> None:
    """Draw which codes are used while training goes on (index collapse, Roy et al. 2018).

    Codes run from left to right, sorted by their use over the whole training, steps run upwards,
    and the colour is a code's share of all positions on a scale that is the same for every codebook
    of that size; white is an unused code. A second panel shows the number of used codes and the
    perplexity exp(-sum_k p_k ln p_k), the number of equally frequent codes with the same entropy.

    Args:
        usage: Counts of shape (T, K): how often each of K codes was used up to a step since
            the one before.
        steps: The T steps, rising.
        path: The PNG file to write.
        title: Printed above the codes; None prints "Use of K codes".

    Raises:
        ValueError: The shapes do not fit, or there is no row.
        VqnmtError: The picture cannot be written.
    """
    usage, steps = np.asarray(usage, dtype=np.float64), np.asarray(steps, dtype=np.float64)
    codes = usage.shape[-1]
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
        heat, side = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
        mesh = _draw_usage(heat, usage, steps, codes)
        heat.set(
            title=f"Use of {codes} codes" if title is None else title,
            xlabel="code, from the most to the least used",
            ylabel="training step",
        )
        bar = figure.colorbar(
            mesh, ax=[heat, side], location="bottom", aspect=50, shrink=0.8, extend="min"
        )
        bar.set_label("share of all positions (white: unused; black line: all codes alike)")
        bar.ax.axvline(1 / codes, color="black", linewidth=2)
        used, perplexity = _used_and_perplexity(usage)
        ends = {"used": (used, "-", "o"), "perplexity": (perplexity, "--", "s")}
        for colour, (name, (values, dash, marker)) in zip(COLOURS, ends.items(), strict=False):
            side.plot(
                *(values, steps),
                color=colour,
                linestyle=dash,
                marker=marker if len(steps) <= 30 else "",
                clip_on=False,
                label=f"{name} (last {values[-1]:,.0f})",
            )
        side.set(xlabel="codes", xlim=(0, codes))
        side.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        side.grid(axis="x")
        side.legend(loc="lower left", bbox_to_anchor=(-0.1, 1), borderaxespad=0)
        save_figure(figure, path)


def plot_code_usages(
    usages: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path | str, title: str | None = None
) -> None:
    """Draw the use of the codes over training, as `plot_code_usage`, for several systems.

    Args:
        usages: From a system's name to its usage (T, K) and its steps (T,); two panels a row.
        path: The PNG file to write; the SVG is written beside it.
        title: Printed above all panels.

    Raises:
        ValueError: There is no system, or shapes do not fit.
        VqnmtError: The picture cannot be written.
    """
    rows = -(-len(usages) // 2)
    largest = max(np.shape(usage)[-1] for usage, _ in usages.values())
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH_INCHES, 1.7 * rows + 1.4), layout="constrained")
        panels = figure.subplots(rows, 2, squeeze=False)
        for panel in panels.flat[len(usages) :]:
            panel.set_axis_off()
        for panel, (name, (usage, steps)) in zip(panels.flat, usages.items(), strict=False):
            usage = np.asarray(usage, dtype=np.float64)
            steps = np.asarray(steps, dtype=np.float64)
            mesh = _draw_usage(panel, usage, steps, largest)
            used, perplexity = (values[-1] for values in _used_and_perplexity(usage))
            # Two lines, because a panel is narrower than a long name with its numbers.
            panel.set_title(
                f"{name}\n{used:,.0f} of {usage.shape[1]:,} used, perplexity {perplexity:,.0f}",
                fontsize=9,
            )
        if title is not None:
            figure.suptitle(title, fontsize=10)
        for panel in panels[-1]:
            panel.set_xlabel("code, from the most to the least used")
        figure.supylabel("training step", fontsize=10)
        bar = figure.colorbar(
            mesh, ax=panels, location="bottom", aspect=50, shrink=0.8, pad=0.02, extend="min"
        )
        bar.set_label("share of all positions (white: unused)")
        save_figure(figure, path)


def _draw_usage(panel: Axes, usage: np.ndarray, steps: np.ndarray, largest: int) -> QuadMesh:
    """Draw usage (T, K) at steps (T,) as a heat map of shares, on the scale of `largest` codes."""
    if usage.ndim != 2 or steps.shape != usage.shape[:1] or not usage.size:
        raise ValueError(f"usage {usage.shape} must be (T, K) and steps {steps.shape} (T,)")
    codes = usage.shape[1]
    share = usage / np.maximum(usage.sum(axis=1, keepdims=True), 1)  # (T, K)
    share = share[:, np.argsort(-usage.sum(axis=0), kind="stable")]
    # Neighbours share a column where a code would be thinner than a pixel: their mean share.
    group = -(-codes // _MAX_COLUMNS)
    starts = np.arange(0, codes, group)
    columns = np.add.reduceat(share, starts, axis=1) / np.diff(np.append(starts, codes))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return panel.pcolormesh(
        np.append(starts, codes),
        # A row ends at its step and starts at the one before.
        np.concatenate([[min(0.0, steps[0] - 1)], steps]),
        np.ma.masked_equal(columns, 0),
        cmap="viridis_r",
        norm=LogNorm(vmin=0.01 / largest, vmax=1),
        rasterized=True,
    )


def _used_and_perplexity(usage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of used codes and the perplexity of each row of usage (T, K)."""
    share = usage / np.maximum(usage.sum(axis=1, keepdims=True), 1)
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1)), axis=1)  # (T,)
    return (usage > 0).sum(axis=1), np.exp(entropy)


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
