"""benchmarks/faults is a program that anyone can run: what it tries, and some of its trials."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the programs are no part of the package

from benchmarks.faults.trials import trials


def test_there_are_fifty_trials_or_more_of_every_kind_that_was_asked_for():
    found = trials(random.Random(0))
    assert len(found) >= 50
    kinds = (
        "SIGKILL of chief",
        "SIGKILL of worker",
        "SIGKILL of both",
        "SIGTERM",
        "NaN",
        "damaged newest",
        "full disk",
        "damaged shard",
        "hangs",
        "slow",
        "network",
    )
    assert all(any(kind in trial.row for trial in found) for kind in kinds)
    assert [trial.faults for trial in trials(random.Random(1))] != [trial.faults for trial in found]


@pytest.mark.slow
def test_trials_end_with_the_weights_of_a_run_that_nothing_happened_to():
    flags = ["--only=facts garbled"]  # a kill, a damage and a start again; the others take twenty minutes: their table is in docs/measurements.md
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", *flags], capture_output=True, text=True, timeout=800, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 trials, 0 of them" in done.stdout and done.stdout.count(" equal |") == 1
