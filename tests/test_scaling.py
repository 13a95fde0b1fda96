"""The scaling program: its model against closed forms, and the program itself, small."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the programs are no part of the package

from benchmarks.scaling.model import Link, all_reduce_seconds, fit, ring_seconds, step_seconds

FAST, SLOW = Link(450e9, 5e-6), Link(50e9, 10e-6)


def test_a_ring_sends_twice_the_bytes_as_its_length_grows():
    assert ring_seconds(1e9, 1, FAST) == 0
    assert ring_seconds(1e9, 2, Link(1e9, 0.0)) == pytest.approx(1.0)
    assert ring_seconds(1e9, 4, Link(1e9, 0.0)) == pytest.approx(1.5)
    assert ring_seconds(1e9, 10_000, Link(1e9, 0.0)) == pytest.approx(2.0, rel=1e-3)
    assert ring_seconds(0, 4, Link(1e9, 0.001)) == pytest.approx(0.006)


def test_hosts_add_a_ring_between_them():
    hosts = {"within": FAST, "between": SLOW, "gpus_per_host": 8}
    assert all_reduce_seconds(5e8, 8, **hosts) == ring_seconds(5e8, 8, FAST)
    expected = ring_seconds(5e8, 8, FAST) + 2 * 3 * (5e8 / 8 / (4 * 50e9 / 8) + 10e-6)
    assert all_reduce_seconds(5e8, 32, **hosts) == pytest.approx(expected)
    with pytest.raises(ValueError, match="multiple of the 8"):
        all_reduce_seconds(5e8, 12, **hosts)
    steps = [step_seconds(n, parameter_bytes=5e8, compute=0.2, **hosts) for n in (1, 2, 8, 16, 128, 1024)]
    assert steps[0] == 0.2 and steps == sorted(steps)


def test_the_link_is_found_again_from_what_it_took():
    link = Link(2e9, 3e-4)
    found = fit([(size, ring_seconds(size, 4, link)) for size in (1e5, 4e6, 3e7)], count=4)
    assert (found.bandwidth, found.latency) == (pytest.approx(2e9), pytest.approx(3e-4))


@pytest.mark.slow
def test_the_program_measures_replicas_and_workers_and_predicts():
    flags = ["--replicas=1,2", "--workers=1,2", "--steps=3", "--image_size=32", "--gin_param=flex_unet.base_filters=4"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", *flags], capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("replicas ", "workers "))]
    assert [(row[0], row[1]) for row in rows] == [("replicas", "1"), ("replicas", "2"), ("workers", "1"), ("workers", "2")]
    assert all(float(row[2]) > 0 and float(row[6]) > 0 for row in rows) and all(float(row[3]) > 0 for row in rows if row[1] == "2")
    assert done.stdout.count("link fitted to two") == 2 and "1024" in done.stdout
