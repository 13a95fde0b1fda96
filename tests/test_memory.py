"""Memory does not grow with the dataset, nor with the steps. Real processes, because only a new one has a peak of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy_runs
import toys

from flexseg.files.manifest import Manifest

# A line with the peak resident size in KiB after every epoch.
WATCHED = """
import resource, sys
from flexseg.commands.quiet import load_tensorflow
load_tensorflow()
from flexseg.commands import dispatcher
from flexseg.training.reporter import Reporter
epoch = Reporter.epoch
def watched(self, number, **given):
    epoch(self, number, **given)
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
Reporter.epoch = watched
sys.exit(dispatcher.run(sys.argv[1:]))
"""


def dataset(place: Path, count: int):
    """`count` cases of 256 x 256 under names of their own, which share eight pictures."""
    source = place / "source"
    for number in range(8):
        toys.write_case(source, f"train/c{number:05d}", toys.picture(f"c{number}", (256, 256)), toys.binary_mask(f"c{number}", (256, 256)))
    for number in range(8, count):
        for kind in ("images", "masks"):
            os.link(source / "train" / kind / f"c{number % 8:05d}.png", source / "train" / kind / f"c{number:05d}.png")
    return toys.build(place, source=source, name="many")


def peaks(built, workdir, epochs):
    """Peak resident size in KiB after each epoch of 500 steps."""
    params = (
        "input.image_size=(64,64)", f"train.epochs={epochs}", "train.steps_per_epoch=500", "train.global_batch_size=2", "train.monitor='loss'",
        "augment.enabled=True", "train.patience=0",
    )  # fmt: skip
    command = [sys.executable, "-c", WATCHED, *toy_runs.train_command_line(built, workdir, *params)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("PEAK")]
    assert len(found) == epochs
    return found


@pytest.mark.slow
def test_memory_grows_neither_with_the_dataset_nor_with_the_steps(tmp_path):
    few, many = dataset(tmp_path / "few", 200), dataset(tmp_path / "many", 4000)
    assert len(Manifest.load(many.directory / "manifest.json").splits["train"]) == 4000
    (after_500_of_few, *_, after_1500_of_few), (after_500_of_many,) = peaks(few, tmp_path / "a", 3), peaks(many, tmp_path / "b", 1)
    assert abs(after_500_of_many - after_500_of_few) < 0.1 * after_500_of_few, (after_500_of_few, after_500_of_many)
    assert after_1500_of_few < 1.015 * after_500_of_few, (after_500_of_few, after_1500_of_few)
