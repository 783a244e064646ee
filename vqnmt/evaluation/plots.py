"""Pictures of a training: its losses, its BLEU, and the use of its codes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
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
