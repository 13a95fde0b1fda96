"""The launcher of several workers on one host: prefixes, faults, restarts, signals. Real workers."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
import toy_runs
from test_workers import EXACT, LENGTH, assert_is, whole  # noqa: F401  (a fixture)

from flexseg.launch import local


def launcher(toy, workdir, *params, options=()):
    words = toy_runs.train_command_line(toy, workdir, *EXACT, *params)
    command = [sys.executable, "-m", "flexseg.launch.local", "--workers=2", *options, "--", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, said=""):
    rest, _ = process.communicate(timeout=300)
    return process.returncode, said + rest


def read_until(process, start: str) -> str:
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith(start):
            return said
    raise AssertionError(said)


@pytest.mark.slow
def test_a_killed_worker_is_started_again_and_the_run_ends_as_if_nothing_had_happened(toy, tmp_path, whole):  # noqa: F811
    process = launcher(toy, tmp_path / "run", *LENGTH)
    said = read_until(process, "[0] epoch 1  step 4")
    victim = next(child for child in psutil.Process(process.pid).children() if "--worker=1" in child.cmdline())
    victim.kill()
    code, said = finish(process, said)
    assert code == 0, said
    assert "[0] flexseg train: another worker was lost" in said and "local: start 2 of at most 11, from checkpoint step_" in said
    assert "[0] resumed after epoch" in said
    assert_is(tmp_path / "run", whole)


@pytest.mark.slow
def test_where_no_step_is_gained_nothing_is_started_again(toy, tmp_path):
    process = launcher(toy, tmp_path / "run", *LENGTH, "train.checkpoint_steps=0", "train.steps_per_epoch=100000")
    said = read_until(process, "[0] input ")
    psutil.Process(process.pid).children()[0].kill()
    code, said = finish(process, said)
    assert code == 75 and "no step was gained since the last start" in said


@pytest.mark.slow
def test_a_signal_is_passed_on_and_ends_the_launcher_too(toy, tmp_path):
    process = launcher(toy, tmp_path / "run", *LENGTH, "train.epochs=100000")
    said = read_until(process, "[0] epoch 1  step 4")
    process.send_signal(signal.SIGUSR1)
    code, said = finish(process, said)
    assert code == 75 and "SIGUSR1: checkpoint of step" in said and "local: start" not in said


def test_a_users_mistake_ends_all_with_1(toy, tmp_path):
    code, said = finish(launcher(toy, tmp_path / "run", *LENGTH, "train.epochs=-1"))
    assert code == 1 and said.count("train.epochs: expected at least 1") == 2
    assert {line[:4] for line in said.splitlines()} == {"[0] ", "[1] "}


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((0, 0), 0), ((75, 75), 75), ((75, 1), 1), ((-9, 75), 75), ((143, 143), 143), ((-9, -9), 75), ((75, 70), 70), ((74, 75), 74)],
)
def test_the_code_that_tells_most(codes, expected):
    assert local._decisive_code(codes) == expected


def test_gpus_are_dealt_out_evenly(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    seen = []
    monkeypatch.setattr(local.subprocess, "Popen", lambda command, env, **_: seen.append((command, env)))
    attempt = local.Attempt(["train"], 2, local.visible_gpus())
    for worker in range(2):
        attempt._start(worker, "a:1,b:2")
    assert [env["CUDA_VISIBLE_DEVICES"] for _, env in seen] == ["3,5", "6,7"]
    assert [command[-2:] for command, _ in seen] == [["--workers=a:1,b:2", "--worker=0"], ["--workers=a:1,b:2", "--worker=1"]]
    with pytest.raises(SystemExit):
        local.main(["--workers=3", "--", "train"])
    assert "does not divide the 4 visible GPUs" in capsys.readouterr().err


def test_the_newest_checkpoint_is_found_by_either_form_of_the_flag(tmp_path):
    assert local.newest_checkpoint(["train", f"--workdir={tmp_path}"]) == ""
    for step in (9, 10):
        os.makedirs(tmp_path / "checkpoints" / f"step_{step:09d}")
    for words in ([f"--workdir={tmp_path}"], ["--workdir", str(tmp_path)]):
        assert local.newest_checkpoint(["train", *words]) == "step_000000010"
