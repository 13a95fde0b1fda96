"""Pushes of a run to its bucket: a death after every single operation leaves a whole checkpoint and its best weights."""

import contextlib
import shutil

import pytest
from remote_stores import DeadError, assert_whole, begun, bring, step, store_that_is_away, training, two_steps

from flexseg.runs.bucket import Bucket
from flexseg.runs.checkpoint_format import damage, read_checkpoint

OPERATIONS = 34  # of a start that makes two steps


@pytest.mark.parametrize("operations", [*range(0, OPERATIONS, 5), OPERATIONS])
def test_a_start_after_a_death_within_a_push_finds_a_whole_checkpoint_and_its_best_weights(s3_url, tmp_path, operations):
    begun(s3_url, tmp_path / "first")
    assert two_steps(s3_url, tmp_path / "second", left=operations) == (operations < OPERATIONS)
    with training(s3_url, tmp_path / "third") as (_, run, at):
        assert_whole(run, at, operations)
        assert at in (3, 4, 5)
    there = Bucket(s3_url, flag="--workdir").files()
    gone = (".best.old", "run.owner", "checkpoints/step_000000003")
    assert operations < OPERATIONS or not any(name.startswith(gone) for name in there), "what is gone here is gone there"


def test_nor_does_a_second_death_at_any_operation_change_that(stores, tmp_path):
    """Every first death with every eleventh second one, in a folder that stands for the bucket."""
    begun("s3://lab/run", tmp_path / "begun_here", files=tmp_path / "begun")
    for first in range(OPERATIONS):
        for second in range(first % 11, OPERATIONS + 6, 11):
            files = tmp_path / f"{first}_{second}"
            shutil.copytree(tmp_path / "begun", files)
            assert two_steps("s3://lab/run", files / "here", left=first, files=files)
            two_steps("s3://lab/run", files / "there", left=second, files=files)
            with training("s3://lab/run", files / "last", files=files) as (_, run, at):
                assert_whole(run, at, (first, second))
            shutil.rmtree(files)


def test_a_run_that_was_killed_within_its_first_pushes_is_never_refused(tmp_path):
    died, operation = True, 0
    while died:
        files = tmp_path / f"{operation}"
        try:
            with training("s3://lab/run", files / "here", left=operation, files=files / "bucket") as (remote, run, _):
                for name in (*run.beginning, run.config.name):
                    (run.path / name).write_text("{}")
                for number in (1, 2):
                    step(run, number, best=True)
                    remote.push()
            died = False
        except DeadError:
            operation += 1
        with training("s3://lab/run", files / "again", files=files / "bucket") as (_, run, _):
            assert all(not damage(folder) for folder in run.checkpoints.glob("*")), operation
        shutil.rmtree(files)
    assert operation > 20


def test_a_checkpoint_that_is_written_twice_is_whole_after_a_death_at_any_operation(tmp_path):
    """As at the end of an epoch that `train.checkpoint_steps` divides; and after a second death while that is repaired."""
    begun("s3://lab/run", tmp_path / "begun_here", files=tmp_path / "begun")
    with training("s3://lab/run", tmp_path / "only", files=tmp_path / "begun") as (_, run, _):
        shutil.rmtree(run.checkpoints / "step_000000002")
    for first in range(22):
        for second in (*range(first % 4, 20, 4), 10**9):
            files = tmp_path / f"{first}_{second}"
            shutil.copytree(tmp_path / "begun", files / "bucket")
            for left, value in ((first, 31), (second, 32)):
                with (
                    contextlib.suppress(DeadError),
                    training("s3://lab/run", files / f"{value}", left=left, files=files / "bucket") as (remote, run, at),
                ):
                    assert at == 3
                    step(run, 3, best=False, value=value)
                    remote.push()
            with training("s3://lab/run", files / "last", files=files / "bucket") as (_, run, at):
                assert_whole(run, at, (first, second))
                assert at == 3 and read_checkpoint(run.checkpoints / "step_000000003")[0]["model"]["0000 a/kernel"][0] in (3, 31, 32)
                assert [folder.name for folder in run.checkpoints.iterdir()] == ["step_000000003"]
            names = [path.name for path in (files / "bucket" / "lab" / "run" / "checkpoints").iterdir() if any(path.iterdir())]
            assert names == ["step_000000003"], "what was kept meanwhile goes there too"
            shutil.rmtree(files)


def test_of_a_checkpoint_that_a_push_was_cut_off_in_nothing_stays(s3_url, tmp_path):
    begun(s3_url, tmp_path / "first")
    Bucket(s3_url, flag="--workdir").write("checkpoints/step_000000004/model.npz", b"half")
    with training(s3_url, tmp_path / "second") as (_, run, at):
        assert at == 3 and not (run.checkpoints / "step_000000004").exists()
    assert not any("step_000000004" in name for name in Bucket(s3_url, flag="--workdir").files())


def test_nothing_of_the_users_is_removed(s3_url, tmp_path):
    begun(s3_url, tmp_path / "first")
    bucket = Bucket(s3_url, flag="--workdir")
    theirs = {
        ".notes.txt",
        "analysis/.ipynb_checkpoints/x.ipynb",
        "analysis/x.ipynb",
        "break_training_when.md",
        "run.locks",
        "run.lock.md",
        "checkpoints/.why",
    }
    for name in theirs:
        bucket.write(name, b"mine")
    with training(s3_url, tmp_path / "second") as (remote, run, _):
        step(run, 4, best=True)
        remote.push()
    assert {name for name in theirs if bucket.read(name) == b"mine"} == theirs


def test_an_error_stands_in_the_log_that_is_brought_there(s3_url, tmp_path):
    with pytest.raises(ZeroDivisionError), training(s3_url, tmp_path / "here") as (_, run, _):
        run.config.write_text("")
        run.log.write_text("a line of the run\n")
        1 / 0  # noqa: B018
    log = Bucket(s3_url, flag="--workdir").read("log.txt").decode()
    assert log.startswith("a line of the run\nTraceback") and "ZeroDivisionError: division by zero" in log


def test_a_push_tells_that_it_moves_at_every_change(s3_url, tmp_path):
    begun(s3_url, tmp_path / "first")
    with training(s3_url, tmp_path / "second") as (remote, run, _):
        step(run, 4, best=True)
        before, moved = remote._bucket.left, []
        remote.push(moved=lambda: moved.append(1))
        changes = before - remote._bucket.left
    assert len(moved) >= changes > 10, "copies and removals as well as uploads"


def test_a_bucket_that_is_away_for_a_while_costs_nothing_but_a_line(s3_url, tmp_path, monkeypatch, capsys):
    with training(s3_url, tmp_path / "here") as (remote, run, _):
        run.config.write_text("")
        step(run, 1, best=True)
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
            away = Bucket(s3_url, flag="--workdir")
            away._store = store_that_is_away(away)
            patch.setattr(remote, "_bucket", away)
            remote.push(patient=True)
            assert "The next checkpoint tries again" in capsys.readouterr().out
            with pytest.raises(OSError, match="a bucket that answers"):
                remote.push()
        remote.push(patient=True)
    assert not damage(bring(s3_url, tmp_path / "there") / "best")
