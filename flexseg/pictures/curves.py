"""Plots the metrics of a run from its CSV file, training and validation of each metric in one plot.

    plot_curves("runs/a/train_losses.csv", "runs/a/train_losses.png")
    plot_curves("runs/a/train_metrics.csv", "runs/a/train_metrics.png", stamp="LEAKED")

The columns `m` and `val_m` share a plot. A file shows six metrics; more are in `train_metrics_2.png` and so on. Files are overwritten. matplotlib's
global state is not used, so it runs in threads and notebooks.
"""

import io
import math
import os
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from flexseg.files.atomic import replace_file
from flexseg.files.csv_log import read_rows

PLOTS_PER_FIGURE = 6
# Okabe and Ito's colours (2008), distinct for colour-blind readers; line style and marker differ too.
TRAIN = {"color": "#0072B2", "linestyle": "-", "marker": "o"}
VALIDATION = {"color": "#D55E00", "linestyle": "--", "marker": "s"}
_MARKERS_AT_MOST = 30
_LOG_SPAN = 100.0  # ratio of maximum to minimum above which a loss has a log axis (with raw pixels it starts at 10 to 200)


def plot_curves(csv_path: str | os.PathLike, png_path: str | os.PathLike, *, stamp: str | None = None) -> list[Path]:
    """Plots the CSV file and returns the image files, `png_path` first.

    Args:
      csv_path: header `epoch,<m>,val_<m>,...`, epochs from 1. Empty cells are skipped, the line connects their neighbours. A value that is not finite
        leaves a gap and is counted in the legend.
      png_path: the image file, replaced atomically.
      stamp: a word across every figure, e.g. "LEAKED".
    """
    columns, rows = read_rows(csv_path)
    epochs = np.array([int(row[0]) for row in rows])
    values = {name: [row[i] for row in rows] for i, name in enumerate(columns) if i}
    metrics = list(dict.fromkeys(name.removeprefix("val_") for name in values))
    png_path = Path(png_path)
    written = []
    for start in range(0, max(len(metrics), 1), PLOTS_PER_FIGURE):
        path = png_path if not start else png_path.with_stem(f"{png_path.stem}_{start // PLOTS_PER_FIGURE + 1}")
        content = io.BytesIO()
        with matplotlib.rc_context({"text.parse_math": False}):  # names may hold a dollar sign
            figure = _figure(epochs, values, metrics[start : start + PLOTS_PER_FIGURE], title=Path(csv_path).stem, stamp=stamp)
            figure.savefig(content, format="png")
        written.append(replace_file(path, content.getvalue()))
    return written


def _figure(epochs: np.ndarray, values: dict[str, list[str]], metrics: list[str], *, title: str, stamp: str | None) -> Figure:
    across = 1 if len(metrics) < 2 else 2 if len(metrics) in (2, 4) else 3
    down = max(1, math.ceil(len(metrics) / across))
    figure = Figure(figsize=(8, 6) if across == 1 else (5.2 * across, 4.2 * down), dpi=100, layout=ConstrainedLayoutEngine(wspace=0.05, hspace=0.05))
    FigureCanvasAgg(figure)
    for index, metric in enumerate(metrics, start=1):
        axes = figure.add_subplot(down, across, index)
        drawn = []
        for name, label, style in ((metric, "train", TRAIN), (f"val_{metric}", "validation", VALIDATION)):
            if any(values.get(name, ())):  # empty in a run without validation
                drawn.append(_draw(axes, epochs, values[name], label, style))
        _dress(axes, metric, np.concatenate([*drawn, []]), epochs)
        if len(metrics) > 1:
            axes.set_title(metric, fontsize=13)
    figure.suptitle(title, fontsize=16)
    if stamp:
        letters: dict[str, Any] = {"fontsize": 11 * figure.get_figwidth(), "weight": "bold", "color": "#CC0000", "alpha": 0.22}
        figure.text(0.5, 0.5, stamp, rotation=25, ha="center", va="center", zorder=10, **letters)
    return figure


def _draw(axes: Axes, epochs: np.ndarray, cells: list[str], label: str, style: dict) -> np.ndarray:
    """Draws one column and returns its finite values."""
    filled = [i for i, cell in enumerate(cells) if cell]
    numbers = np.array([float(cells[i]) for i in filled])
    finite = np.isfinite(numbers)
    if not finite.all():
        label += f" ({(~finite).sum()} not finite)"
    every = max(1, math.ceil(len(numbers) / _MARKERS_AT_MOST))
    axes.plot(epochs[filled], np.where(finite, numbers, np.nan), label=label, linewidth=1.8, markersize=4.5, markevery=every, alpha=0.9, **style)
    return numbers[finite]


def _dress(axes: Axes, metric: str, finite: np.ndarray, epochs: np.ndarray) -> None:
    wide = finite.size and finite.min() > 0 and finite.max() / finite.min() > _LOG_SPAN
    if wide and metric.endswith("loss"):
        axes.set_yscale("log")
        axes.set_ylabel(f"{metric} (log scale)")
    else:
        axes.set_ylabel(metric)
    if not finite.size:
        axes.text(0.5, 0.5, "no value yet", transform=axes.transAxes, ha="center", va="center", color="#666666")
    axes.set_xlabel("epoch")
    first, last = (min(1, int(epochs.min())), int(epochs.max())) if epochs.size else (1, 1)
    axes.set_xlim(first - max(0.5, 0.02 * last), last + max(0.5, 0.02 * last))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(True, which="both", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.lines:
        axes.legend(loc="best", frameon=True, framealpha=0.85)
