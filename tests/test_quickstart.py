"""launch/quickstart.sh as a new user runs it: from nothing to figures, masks and the TensorBoard command, and what a second start does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexseg.data.dataset import open_dataset

SCRIPT = Path(__file__).parents[1] / "launch" / "quickstart.sh"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def quickstart(place: Path, *arguments: str) -> str:
    """Runs the script in the environment of the tests, its files below `place`, and returns what it printed."""
    command = ["bash", str(SCRIPT), "--workdir=run", "--data_dir=data", *arguments]
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix}
    done = subprocess.run(command, cwd=place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


def closing_table(printed: str) -> dict[str, list[float]]:
    """{row: its numbers} of what stands behind the last command."""
    rows = re.findall(r"^(\S.*?) {2,}([\d.]+)(?: {2,}([\d.]+))?", printed.rpartition("\n$ ")[2], re.MULTILINE)
    return {name: [float(number) for number in numbers if number] for name, *numbers in rows}


def test_the_quickstart_passes_090_and_a_second_start_shows_the_same(tmp_path):
    printed = quickstart(tmp_path)
    run, table = tmp_path / "run", closing_table(printed)
    report = json.loads((run / "evaluation" / "test" / "report.json").read_text())
    assert list(table) == ["background", "nucleus", "loss", "images per second"]
    assert table["nucleus"] == pytest.approx([report["per_class"]["nucleus"][score] for score in ("dice", "iou")], abs=1e-4)
    assert table["nucleus"][0] > 0.90
    assert table["loss"] == pytest.approx([report["loss"]], abs=1e-4)
    assert table["images per second"][0] > 0
    assert "run directory: run\n" in printed
    assert "tensorboard --logdir=run/tensorboard --samples_per_plugin=images=" in printed

    # The predicted masks, scored here, give the reported Dice.
    dataset = open_dataset("synthetic_nuclei", tmp_path / "data")
    records, scores = dataset.records("test"), []
    for index, case in enumerate(dataset.table("test").case_id):
        truth, mask = records.truth(index) == 1, np.asarray(Image.open(run / "predictions" / f"{case}.png"))
        assert set(np.unique(mask)) <= {0, 255}
        predicted = (mask if mask.ndim == 2 else mask[..., 0]) == 255
        scores.append(2 * (truth & predicted).sum() / (truth.sum() + predicted.sum()))
    assert np.mean(scores) == pytest.approx(report["per_class"]["nucleus"]["dice"], abs=1e-4)

    best = (run / "best" / "model.npz").read_bytes()
    again = quickstart(tmp_path)
    assert "already built, nothing changed" in again
    assert "this run is finished" in again
    assert closing_table(again) == table
    assert (run / "best" / "model.npz").read_bytes() == best


def test_arguments_reach_the_training(tmp_path):
    printed = quickstart(tmp_path, "--gin_param=train.epochs=1", "--gin_param=train.steps_per_epoch=2", "--gin_param=train.precision='float32'")
    assert re.search(r"images per second .* float32$", printed, re.MULTILINE)
    assert "train.precision='float32'\"" in printed  # shown as one would type it
    assert json.loads((tmp_path / "run" / "finished.json").read_text())["step"] == 2
