"""Curves: what is in the CSV is in the picture, for one epoch and for a thousand."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from flexseg.files.csv_log import CsvLog
from flexseg.pictures.curves import TRAIN, VALIDATION, plot_curves


@pytest.fixture
def figures(monkeypatch):
    """The figures drawn, kept for a look inside."""
    kept = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: (kept.append(self), save(self, *args, **kwargs)))
    return kept


def write(path, text):
    path.write_text(text)
    return path


def test_the_losses_are_drawn_with_their_epochs_and_values(tmp_path, figures):
    log = CsvLog(tmp_path / "train_losses.csv", ("epoch", "loss", "val_loss"))
    for epoch, loss, val_loss in ((1, 0.9, 0.8), (2, 0.5, 0.6), (3, 0.4, 0.55)):
        log.append({"epoch": epoch, "loss": loss, "val_loss": val_loss})
    assert plot_curves(log.path, tmp_path / "train_losses.png") == [tmp_path / "train_losses.png"]
    with Image.open(tmp_path / "train_losses.png") as picture:
        assert picture.size == (800, 600)
    (axes,) = figures[0].axes
    train, validation = axes.lines
    assert (train.get_label(), validation.get_label()) == ("train", "validation")
    assert train.get_xdata().tolist() == [1, 2, 3]
    assert train.get_ydata().tolist() == [0.9, 0.5, 0.4]
    assert validation.get_ydata().tolist() == [0.8, 0.6, 0.55]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss")
    assert figures[0].get_suptitle() == "train_losses"
    assert axes.get_legend() is not None
    assert TRAIN["color"] != VALIDATION["color"] and TRAIN["linestyle"] != VALIDATION["linestyle"] and TRAIN["marker"] != VALIDATION["marker"]


def test_an_empty_cell_is_skipped_and_a_value_that_is_not_finite_leaves_a_gap(tmp_path, figures):
    path = write(tmp_path / "a.csv", "epoch,loss,val_loss\n1,0.9,\n2,nan,0.8\n3,0.5,\n4,inf,0.6\n5,0.4,\n")
    plot_curves(path, tmp_path / "a.png")
    train, validation = figures[0].axes[0].lines
    np.testing.assert_array_equal(train.get_ydata(), [0.9, np.nan, 0.5, np.nan, 0.4])
    assert validation.get_xdata().tolist() == [2, 4]
    assert train.get_label() == "train (2 not finite)"


@pytest.mark.parametrize("epochs", [1, 2, 1000])
def test_any_number_of_epochs_is_readable(tmp_path, figures, epochs):
    rows = "".join(f"{epoch},{1 / epoch},{2 / epoch}\n" for epoch in range(1, epochs + 1))
    plot_curves(write(tmp_path / "a.csv", "epoch,dice,val_dice\n" + rows), tmp_path / "a.png")
    axes = figures[0].axes[0]
    low, high = axes.get_xlim()
    assert low < 1 and high > epochs
    assert all(len(line.get_xdata()[:: line.get_markevery()]) <= 30 for line in axes.lines)
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_a_header_alone_and_a_column_without_any_value_are_drawn(tmp_path, figures):
    plot_curves(write(tmp_path / "a.csv", "epoch,loss,val_loss\n"), tmp_path / "a.png")
    plot_curves(write(tmp_path / "b.csv", "epoch,loss,val_loss\n1,nan,\n"), tmp_path / "b.png")
    plot_curves(write(tmp_path / "c.csv", "epoch\n"), tmp_path / "c.png")
    assert [text.get_text() for figure in figures[:2] for text in figure.axes[0].texts] == ["no value yet"] * 2


def test_more_than_six_metrics_go_on_to_a_second_picture(tmp_path, figures):
    names = [f"m{i}" for i in range(8)]
    header = ",".join(["epoch", *(column for name in names for column in (name, f"val_{name}"))])
    path = write(tmp_path / "train_metrics.csv", f"{header}\n1{',0.5' * 16}\n")
    written = plot_curves(path, tmp_path / "train_metrics.png")
    assert [file.name for file in written] == ["train_metrics.png", "train_metrics_2.png"]
    assert [[axes.get_title() for axes in figure.axes] for figure in figures] == [names[:6], names[6:]]
    assert all(len(axes.lines) == 2 for figure in figures for axes in figure.axes)


def test_a_metric_of_one_side_only_is_drawn_too(tmp_path, figures):
    plot_curves(write(tmp_path / "a.csv", "epoch,accuracy,val_mean_foreground_dice\n1,0.5,0.6\n"), tmp_path / "a.png")
    assert [(axes.get_title(), [line.get_label() for line in axes.lines]) for axes in figures[0].axes] == [
        ("accuracy", ["train"]),
        ("mean_foreground_dice", ["validation"]),
    ]


def test_a_loss_that_falls_far_is_drawn_on_a_log_axis(tmp_path, figures):
    for name, last in (("loss", 0.2), ("loss", 20.0), ("score", 0.2)):
        plot_curves(write(tmp_path / "a.csv", f"epoch,{name}\n1,200\n2,{last}\n"), tmp_path / "a.png")
    assert [figure.axes[0].get_yscale() for figure in figures] == ["log", "linear", "linear"]
    assert figures[0].axes[0].get_ylabel() == "loss (log scale)"


def test_a_stamp_stands_across_every_picture(tmp_path, figures):
    path = write(tmp_path / "a.csv", "epoch,loss,val_loss\n1,0.9,0.8\n")
    plot_curves(path, tmp_path / "a.png")
    plot_curves(path, tmp_path / "stamped.png", stamp="LEAKED")
    assert [[text.get_text() for text in figure.texts if text.get_text() == "LEAKED"] for figure in figures] == [[], ["LEAKED"]]
    plain, stamped = (np.asarray(Image.open(tmp_path / name).convert("RGB"), int) for name in ("a.png", "stamped.png"))
    assert (plain != stamped).any(-1).mean() > 0.03


def test_the_reference_systems_losses_are_drawn(tmp_path, figures):
    plot_curves(write(tmp_path / "a.csv", "epoch, loss, val_loss\n0, 0.1234, 0.2345\n1, 0.1, 0.2\n"), tmp_path / "a.png")
    axes = figures[0].axes[0]
    assert axes.lines[1].get_ydata().tolist() == [0.2345, 0.2]
    assert axes.get_xlim()[0] < 0
