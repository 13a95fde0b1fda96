"""benchmarks/gpu_check.py runs all its combinations on a CPU's logical devices, so that only the GPU itself is new where there is one."""

import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ("--devices=cpu", "--steps=4", "--image_size=32", "--num_layers=2")


def check(*flags):
    return subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"), *SMALL, *flags], capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
def test_every_combination_is_run_and_reported():
    done = check()
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("tnbc", "malignant_breastdm ", "large "))]
    assert sorted(tuple(row[:4]) for row in rows) == sorted([
        ("tnbc", "1", "float32", "off"), ("tnbc_options", "2", "mixed_float16", "on"),
        *(("tnbc", devices, precision, xla) for devices in "12" for precision in ("mixed_bfloat16", "mixed_float16") for xla in ("off", "on")),
        ("malignant_breastdm", "1", "mixed_float16", "on"), ("large", "1", "mixed_float16", "on"),
    ])  # fmt: skip
    assert all(row[-1] == "equal" for row in rows), "replicas hold the same"
    assert all(float(row[5]) > 0 for row in rows if row[0].startswith("tnbc")), "a float32 loss stands beside each"


@pytest.mark.slow
def test_what_says_nothing_is_called_a_hang():
    done = check("--silence=1")
    assert done.returncode == 1 and "hang: nothing for 1 s in" in done.stdout
