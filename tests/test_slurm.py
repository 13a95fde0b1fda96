"""launch/slurm/train.sbatch under a real Slurm of two nodes on this machine."""

import json
import os
import re
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import toy_runs
from slurm_cluster import missing, slurm_cluster
from test_workers import EXACT, LENGTH, assert_is

SCRIPT = Path(__file__).parents[1] / "launch" / "slurm" / "train.sbatch"
pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.xdist_group("slurm"), pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as run:
        yield run


@pytest.fixture
def job(slurm, toy, tmp_path):
    """submit(*params): starts train.sbatch on both nodes; wait(number, *states); the log."""

    class Job:
        log, workdir = tmp_path / "job.log", tmp_path / "run"

        def submit(self, *params, minutes=10):
            words = toy_runs.train_command_line(toy, self.workdir, *EXACT, *params)[1:]
            self.run(SCRIPT, *words, flags=("--nodes=2", f"--time={minutes}"))

        def run(self, script, *words, flags=()):
            venv = os.environ.get("VIRTUAL_ENV", str(Path(sys.executable).parents[1]))
            flags = [*flags, f"--output={self.log}", f"--export=ALL,FLEXSEG_VENV={venv}"]
            done = slurm("sbatch", "--parsable", *flags, str(script), *words, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            self.number = done.stdout.strip()

        def state(self) -> str:
            return dict(
                pair.partition("=")[::2] for pair in slurm("scontrol", "--oneliner", "show", "job", self.number).stdout.split() if "=" in pair
            )["JobState"]

        def wait(self, *states, seconds=240):
            deadline = time.monotonic() + seconds
            while self.state() not in states:
                assert time.monotonic() < deadline and self.state() not in {"FAILED", "TIMEOUT", "CANCELLED", "COMPLETED"}, (
                    self.state() + "\n" + self.said()
                )
                time.sleep(0.5)

        def wait_for(self, words: str, seconds=240):
            deadline = time.monotonic() + seconds
            while words not in self.said():
                assert time.monotonic() < deadline, self.said()
                time.sleep(0.5)

        def said(self) -> str:
            return self.log.read_text() if self.log.exists() else ""

    made = Job()
    yield made
    slurm("scancel", made.number)


def test_a_job_that_gets_its_warning_is_requeued_and_ends_as_if_nothing_had_happened(job, slurm, toy, tmp_path):
    length = (*LENGTH, "train.epochs=30")  # long enough for a warning that takes seconds to arrive
    toy_runs.train(toy, tmp_path / "whole", *EXACT, *length)
    job.submit(*length)
    job.wait_for("epoch 1  step 4")
    assert "2 workers × 1 × CPU (Slurm: node9:" in job.said()
    slurm("scancel", "--signal=USR1", job.number)
    job.wait_for("train.sbatch: requeued, to go on from step_")
    job.wait_for("resumed after epoch")
    job.wait("COMPLETED")
    assert_is(job.workdir, tmp_path / "whole")


def test_a_cancelled_job_stays_cancelled_with_its_checkpoint(job, slurm):
    job.submit(*LENGTH, "train.epochs=100000", "train.checkpoint_steps=0")
    job.wait_for("epoch 1  step 4")
    slurm("scancel", job.number)
    job.wait("CANCELLED")
    time.sleep(8)
    assert job.state() == "CANCELLED"
    assert "SIGTERM: checkpoint of step" in job.said() and "requeued" not in job.said()


def test_tensorboard_runs_as_a_job_and_says_how_to_reach_it(job, slurm, toy):
    toy_runs.train(toy, job.workdir, "train.epochs=1")
    job.run(SCRIPT.with_name("tensorboard.sbatch"), str(job.workdir))
    job.wait_for("Press CTRL+C to quit")
    (port,) = re.search(r"on your own machine:  ssh -J \S+@\S+ -L 6006:localhost:(\d+) \S+@\S+", job.said()).groups()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://127.0.0.1:{port}/data/plugin/scalars/tags", timeout=60) as answer:
        assert "loss" in json.load(answer)["tensorboard/train"]
    slurm("scancel", job.number)
    job.wait("CANCELLED")


def test_tensorboard_of_nothing_says_so(job, tmp_path):
    job.run(SCRIPT.with_name("tensorboard.sbatch"), str(tmp_path / "nowhere"))
    job.wait_for(f"expected a run directory or a folder of them behind the script, found: {tmp_path / 'nowhere'}")
