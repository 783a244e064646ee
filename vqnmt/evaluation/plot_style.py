"""The style that all pictures share: colours, lines, axes, and saving as PNG and SVG.

They are legible at 800 pixels of width and without colour vision.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vqnmt.files import atomic_path

# Okabe and Ito's palette, and line styles that tell the curves apart without it.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH_INCHES, DPI = 8.0, 150  # 1200 pixels, so that it is still sharp on a dense screen
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


def series(metrics: Sequence[Mapping[str, float]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and values, both (N,), of the rows that have `key`."""
    rows = [(row["step"], row[key]) for row in metrics if key in row]
    array = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def thousands(panel: Axes) -> None:
    """Label a few whole steps along `panel`, with commas."""
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write `figure` to the PNG file `path` and to an SVG file beside it, each whole or not at all.

    Raises:
        VqnmtError: A file cannot be written.
    """
    path = Path(path)
    # Without a date and with fixed identifiers equal figures give equal files.
    with matplotlib.rc_context({"svg.hashsalt": "vqnmt"}):
        for kind, metadata in (("png", None), ("svg", {"Date": None})):
            with atomic_path(path.with_suffix(f".{kind}")) as temporary:
                figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata)
