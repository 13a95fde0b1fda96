"""What ends a run early: signals, the stop file, a full disk, another trainer. Processes of their own, and their exit codes; the same command resumes."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_runs

from flexseg.commands import dispatcher
from flexseg.errors import UserError
from flexseg.runs.checkpoint_format import read_checkpoint
from flexseg.runs.interruption import Interrupted, Interruption, StopRequested
from flexseg.training.reporter import Reporter

pytestmark = pytest.mark.xdist_group("interruption")  # the undisturbed run is trained once

PARAMS = ("flex_unet.dropout_rate=0.1", "train.deterministic=True", "train.steps_per_epoch=3", "train.epochs=3", "train.checkpoint_minutes=0")


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """The outcome of a run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    toy_runs.train(toy, workdir, *PARAMS)
    return toy_runs.outcome(workdir)


@pytest.fixture(autouse=True)
def _heard():
    """The tests may have been started by a shell's `&`, which has everything behind it ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("name", "code"), [("SIGUSR1", 75), pytest.param("SIGTERM", 143, marks=pytest.mark.slow), pytest.param("SIGINT", 130, marks=pytest.mark.slow)]
)
def test_a_signal_ends_in_a_checkpoint_and_its_exit_code_and_the_same_command_goes_on(toy, tmp_path, whole, name, code):
    workdir = tmp_path / "run"
    ended = toy_runs.process(toy, workdir, *PARAMS, fault=name, call=5)
    assert ended.returncode == code, ended.stderr
    assert ended.stderr == f"flexseg train: {name}: checkpoint of step 5 written, the same command resumes from there\n"
    assert sorted(folder.name for folder in (workdir / "checkpoints").iterdir())[-1:] == ["step_000000005"]
    assert not (workdir / "run.lock").exists() and not (workdir / "finished.json").exists()
    assert "resumed after epoch 1, step 5" in toy_runs.train(toy, workdir, *PARAMS)
    assert toy_runs.outcome(workdir) == whole


@pytest.mark.slow
def test_a_signal_before_the_first_step_ends_at_once_and_leaves_what_was_there(toy, tmp_path, whole):
    workdir = tmp_path / "run"
    said = "flexseg train: SIGTERM: there is nothing new to save, the same command resumes\n"
    ended = toy_runs.process(toy, workdir, *PARAMS, fault="early", call=1)
    assert (ended.returncode, ended.stderr) == (143, said)
    assert not workdir.exists(), "of a run that was never begun nothing stays"
    toy_runs.train(toy, workdir, *PARAMS, "train.epochs=1")
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file() and path.name != "log.txt"}
    ended = toy_runs.process(toy, workdir, *PARAMS, fault="early", call=1)
    assert (ended.returncode, ended.stderr) == (143, said)
    assert before == {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file() and path.name != "log.txt"}
    toy_runs.train(toy, workdir, *PARAMS)
    assert toy_runs.outcome(workdir) == whole


def test_a_signal_after_the_last_step_comes_too_late(toy, tmp_path, monkeypatch):
    curves = Reporter.curves

    def late(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        curves(self)

    monkeypatch.setattr(Reporter, "curves", late)
    assert "ended: epochs" in toy_runs.train(toy, tmp_path / "run", *PARAMS, "train.epochs=1")
    assert (tmp_path / "run" / "finished.json").is_file() and (tmp_path / "run" / "train_losses.png").is_file()


def test_the_stop_file_ends_the_run_with_0_and_is_removed_once_its_checkpoint_is_written(toy, tmp_path, whole):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "break_training").touch()
    with pytest.raises(UserError, match="other files"):  # a folder with a file of the user's is no run yet
        toy_runs.train(toy, workdir, *PARAMS)
    (workdir / "break_training").unlink()
    toy_runs.train(toy, workdir, *PARAMS, "train.epochs=1")
    (workdir / "break_training").touch()
    said = toy_runs.train(toy, workdir, *PARAMS)
    assert "ended: break_training was found; checkpoint of step 4 written, the same command resumes from there" in said
    assert not (workdir / "break_training").exists() and (workdir / "checkpoints" / "step_000000004").is_dir()
    toy_runs.train(toy, workdir, *PARAMS)
    assert toy_runs.outcome(workdir) == whole


def test_a_signal_in_the_validation_does_not_wait_for_its_end(toy, tmp_path, monkeypatch):
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 5:  # three steps, then between the batches of the validation
            raise StopRequested(signal.SIGTERM)

    monkeypatch.setattr(Interruption, "check", lambda self: check())
    with pytest.raises(Interrupted, match="SIGTERM: checkpoint of step 3 written"):
        toy_runs.train(toy, tmp_path / "run", *PARAMS, "eval.batch_size=1")
    assert len(asked) == 5, "no batch after the request"


def test_a_signal_before_the_first_step_that_python_drops_is_found_at_the_first_look(recwarn):
    class Late:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)  # the handler runs here, and what a destructor raises is dropped

    with Interruption(Path("none")) as interruption:
        late = Late()
        del late
        with interruption.deferred(), pytest.raises(StopRequested, match="SIGTERM"):
            interruption.check()


def test_a_signal_after_the_checkpoint_changes_nothing():
    with Interruption(Path("none")) as interruption:
        with pytest.raises(Interrupted, match="SIGUSR1: checkpoint of step 3 written") as caught, interruption.deferred():
            interruption.end(signal.SIGUSR1, step=3)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
    assert caught.value.exit_code == 75


def test_a_second_ctrl_c_does_not_wait_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    with Interruption(Path("none")) as interruption, interruption.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(StopRequested):
            interruption.check()
        with pytest.raises(Interrupted, match="SIGINT twice: the steps since the last checkpoint are lost") as caught:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_a_full_disk_ends_with_74_and_the_checkpoint_before_it_restores(toy, tmp_path, whole):
    workdir = tmp_path / "run"
    params = (*PARAMS, "train.checkpoint_steps=2")
    ended = toy_runs.process(toy, workdir, *params, fault="full_disk", call=6)  # 3 archives at step 2, the best weights, step 3 or 4
    assert ended.returncode == 74 and ended.stderr.startswith("flexseg train: the disk is full or failing: "), ended.stderr
    assert os.strerror(errno.ENOSPC) in ended.stderr and ended.stderr.count("\n") == 1
    assert not list(workdir.rglob("*.writing")), "what is half-written takes the room of what is to come"
    left = sorted((workdir / "checkpoints").iterdir())
    assert left and read_checkpoint(left[-1])
    assert "resumed after" in toy_runs.train(toy, workdir, *params)
    assert toy_runs.outcome(workdir) == whole


@pytest.mark.skipif(os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="mounts a small file system, which needs root on Linux")
@pytest.mark.slow
@pytest.mark.parametrize("left", [100_000, 0])  # no checkpoint fits any more, but a line of the log does; nothing does
def test_a_file_system_that_really_is_full_loses_nothing(toy, tmp_path, whole, left):
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(place)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        workdir = place / "run"
        params = (*PARAMS, "train.checkpoint_steps=1", "train.keep=1000", "train.patience=0")
        toy_runs.train(toy, workdir, *params, "train.epochs=1")
        room = os.statvfs(place)
        (place / "filler").write_bytes(b"\0" * (room.f_bavail * room.f_frsize - left))
        ended = toy_runs.process(toy, workdir, *params)
        assert ended.returncode == 74, ended.stderr
        assert ended.stderr.startswith("flexseg train: the disk is full or failing: ") and ended.stderr.count("\n") == 1
        (place / "filler").unlink()
        toy_runs.train(toy, workdir, *params)
        assert toy_runs.outcome(workdir) == whole
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_second_trainer_is_refused_while_the_first_one_lives(toy, tmp_path, capsys):
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "flexseg.commands.dispatcher", *toy_runs.train_command_line(toy, workdir, *PARAMS, "train.epochs=100000")]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for line in first.stdout:
            if line.startswith("epoch 1 "):
                break
        rows = (workdir / "train_losses.csv").read_bytes()
        with toy_runs.command():
            assert dispatcher.run(toy_runs.train_command_line(toy, workdir, *PARAMS, "train.epochs=100000")) == 1
        said = capsys.readouterr().err
        assert "expected no other process that writes there" in said and f"process {first.pid} on " in said and said.count("\n") == 1
        assert (workdir / "train_losses.csv").read_bytes().startswith(rows)
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
        assert first.returncode == 143
    finally:
        first.kill()
        first.wait()
    assert not (workdir / "run.lock").exists()
