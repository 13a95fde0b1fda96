"""Curves of a run: a CSV with one row an epoch becomes a picture, training and validation of each metric in one plot.

    plot_curves("runs/a/train_losses.csv", "runs/a/train_losses.png")
    plot_curves("runs/a/train_metrics.csv", "runs/a/train_metrics.png", stamp="LEAKED")

A column `val_m` is drawn into the plot of `m`. More than six metrics go on to `train_metrics_2.png` and so on. The file is drawn anew
each time; matplotlib's global state is not touched, so it can run in a thread or a notebook.
"""

import io
import math
import os
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flexseg.files.atomic import replace_file
from flexseg.files.csv_log import read_rows

PLOTS_PER_FIGURE = 6
# Okabe and Ito's colours (2008), told apart with every common colour vision; line style and marker differ as well.
TRAIN = {"color": "#0072B2", "linestyle": "-", "marker": "o"}
VALIDATION = {"color": "#D55E00", "linestyle": "--", "marker": "s"}
_MARKERS_AT_MOST = 30
_LOG_SPAN = 100.0  # a loss that falls further than this (raw pixels start at 10 to 200) is drawn on a log axis, else its end is a flat line


def plot_curves(csv_path: str | os.PathLike, png_path: str | os.PathLike, *, stamp: str | None = None) -> list[Path]:
    """Draws the CSV and returns the pictures written, `png_path` first.

    Args:
      csv_path: header `epoch,<m>,val_<m>,...`, epochs from 1. An empty cell is skipped and the line goes on to the next value;
        a value that is not finite leaves a gap and is counted in the legend.
      png_path: the picture, replaced as a whole.
      stamp: a word set across every figure, e.g. "LEAKED".
    """
    columns, rows = read_rows(csv_path)
    epochs = np.array([int(row[0]) for row in rows])
    values = {name: [row[i] for row in rows] for i, name in enumerate(columns) if i}
    metrics = list(dict.fromkeys(name.removeprefix("val_") for name in values))
    png_path = Path(png_path)
    written = []
    for start in range(0, max(len(metrics), 1), PLOTS_PER_FIGURE):
        path = png_path if not start else png_path.with_stem(f"{png_path.stem}_{start // PLOTS_PER_FIGURE + 1}")
        figure = _figure(epochs, values, metrics[start : start + PLOTS_PER_FIGURE], title=Path(csv_path).stem, stamp=stamp)
        content = io.BytesIO()
        figure.savefig(content, format="png")
        written.append(replace_file(path, content.getvalue()))
    return written


def _figure(epochs: np.ndarray, values: dict[str, list[str]], metrics: list[str], *, title: str, stamp: str | None) -> Figure:
    across = 1 if len(metrics) < 2 else 2 if len(metrics) in (2, 4) else 3
    down = max(1, math.ceil(len(metrics) / across))
    figure = Figure(figsize=(8, 6) if across == 1 else (5.2 * across, 4.2 * down), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(wspace=0.05, hspace=0.05)
    for index, metric in enumerate(metrics, start=1):
        axes = figure.add_subplot(down, across, index)
        drawn = []
        for name, label, style in ((metric, "train", TRAIN), (f"val_{metric}", "validation", VALIDATION)):
            if any(values.get(name, ())):  # a run without validation has no such curve
                drawn.append(_draw(axes, epochs, values[name], label, style))
        _dress(axes, metric, np.concatenate([*drawn, []]), epochs)
        if len(metrics) > 1:
            axes.set_title(metric, fontsize=13)
    figure.suptitle(title, fontsize=16)
    if stamp:
        letters = {"fontsize": 11 * figure.get_figwidth(), "weight": "bold", "color": "#CC0000", "alpha": 0.22}
        figure.text(0.5, 0.5, stamp, rotation=25, ha="center", va="center", zorder=10, **letters)
    return figure


def _draw(axes, epochs: np.ndarray, cells: list[str], label: str, style: dict) -> np.ndarray:
    """Draws one column and returns its finite values."""
    filled = [i for i, cell in enumerate(cells) if cell]
    numbers = np.array([float(cells[i]) for i in filled])
    finite = np.isfinite(numbers)
    if not finite.all():
        label += f" ({(~finite).sum()} not finite)"
    every = max(1, math.ceil(len(numbers) / _MARKERS_AT_MOST))
    axes.plot(epochs[filled], np.where(finite, numbers, np.nan), label=label, linewidth=1.8, markersize=4.5, markevery=every, alpha=0.9, **style)
    return numbers[finite]


def _dress(axes, metric: str, finite: np.ndarray, epochs: np.ndarray) -> None:
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
