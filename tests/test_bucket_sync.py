"""`flexseg train` with a run directory in a bucket."""

import pytest
import toy_runs
from remote_stores import bring

from flexseg.errors import UserError
from flexseg.runs.bucket import Bucket
from flexseg.runs.bucket_sync import BucketSync
from flexseg.runs.directory import open_run_directory
from flexseg.runs.watchdog import Watchdog

PARAMS = ("train.epochs=4", "train.checkpoint_steps=3", "train.deterministic=True", "epoch_change_infer.num_infer_images=1")


@pytest.mark.slow
@pytest.mark.parametrize("url", ["s3", "gs"], indirect=True)
def test_a_run_in_a_bucket_is_the_run_on_a_disk(toy, url, tmp_path):
    toy_runs.train(toy, tmp_path / "disk", *PARAMS)
    assert f"run directory: {url}" in toy_runs.train(toy, url, *PARAMS, "train.epochs=2")
    assert "resumed after epoch 2" in toy_runs.train(toy, url, *PARAMS)
    there = bring(url, tmp_path / "there")
    assert toy_runs.outcome(there) == toy_runs.outcome(tmp_path / "disk")
    names = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert {"log.txt", "config.gin", "finished.json", "epoch_change_infer.png"} <= names and not any(
        "lock" in name or "owner" in name for name in names
    )
    assert sum("tfevents" in name for name in names) >= 4, "two starts, two splits"
    with pytest.raises(UserError, match="the configuration that the run was begun with"):
        toy_runs.train(toy, url, *PARAMS, "optimizer.learning_rate=0.5")
    # what the other commands read and write there
    report, said = toy_runs.evaluate(url, split="valid")
    assert f"written: {url}/evaluation/valid" in said and report == toy_runs.evaluate(tmp_path / "disk", split="valid")[0]
    source = next((toy.directory.parents[3] / "source").rglob("images"))
    with toy_runs.command():
        masks = toy_runs.predict_command.run(workdir=url, images=[str(source)])
    assert all(mask.startswith(f"{url}/predictions/") for mask in masks)
    assert {mask.removeprefix(f"{url}/") for mask in masks} | {"evaluation/valid/report.json"} <= set(Bucket(url, flag="--workdir").files())
    said = toy_runs.train(toy, tmp_path / "next", "train.epochs=1", init_from=url)
    assert f"weights from {url}" in said


def test_a_stop_file_in_the_bucket_ends_the_run_and_is_removed(toy, s3_url, monkeypatch):
    with open_run_directory(s3_url) as run:
        Bucket(s3_url, flag="--workdir").write(run.stop_file.name, b"")
    with pytest.raises(UserError, match="other files and no config.gin"):
        toy_runs.train(toy, s3_url, *PARAMS)
    Bucket(s3_url, flag="--workdir").remove(["break_training"])
    push, pushes = BucketSync.push, []

    def with_a_stop_file_at_the_second(remote, **given):
        pushes.append(remote)
        if len(pushes) == 2:
            Bucket(s3_url, flag="--workdir").write("break_training", b"")
        push(remote, **given)

    monkeypatch.setattr(BucketSync, "push", with_a_stop_file_at_the_second)
    assert "break_training was found" in toy_runs.train(toy, s3_url, *PARAMS, "train.epochs=50")
    assert len(pushes) < 10, "it ends at the next look for the file, which comes every second, not after 50 epochs"
    assert "break_training" not in Bucket(s3_url, flag="--workdir").files()


def test_a_push_within_the_training_keeps_the_watchdog_awake_at_every_file(toy, s3_url, monkeypatch):
    moved, uploads, upload, alive, push = [], [], Bucket.upload, Watchdog.alive, BucketSync.push
    monkeypatch.setattr(Watchdog, "alive", lambda watchdog: moved.append(1) or alive(watchdog))
    monkeypatch.setattr(Bucket, "upload", lambda *given, **more: uploads.append(1) or upload(*given, **more))
    within = []
    monkeypatch.setattr(BucketSync, "push", lambda remote, **given: (push(remote, **given), within.append((len(uploads), len(moved)))))
    toy_runs.train(toy, s3_url, *PARAMS, "train.epochs=1")
    files, beats = within[0]
    assert beats >= files > 5


@pytest.mark.slow
def test_the_stacks_of_a_run_in_which_nothing_moves_stand_in_the_bucket(toy, s3_url):
    params = ("train.watchdog_multiple=10", "train.watchdog_minutes=0.15")
    done = toy_runs.process(toy, s3_url, *PARAMS, *params, fault="hang", call=6)
    assert done.returncode == 75, done.stderr
    assert "in wait_for_ever" in Bucket(s3_url, flag="--workdir").read("log.txt").decode()


@pytest.fixture(scope="module")
def on_a_disk(toy, tmp_path_factory):
    """The outcome of a run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("disk") / "run"
    toy_runs.train(toy, workdir, *PARAMS)
    return toy_runs.outcome(workdir)


@pytest.mark.slow
@pytest.mark.parametrize("call", [3, 12, 25, 33])
def test_a_run_killed_within_a_push_goes_on_as_if_nothing_had_happened(toy, s3_url, tmp_path, on_a_disk, call):
    assert toy_runs.process(toy, s3_url, *PARAMS, fault="upload", call=call).returncode == -9
    again = toy_runs.process(toy, s3_url, *PARAMS)
    assert again.returncode == 0 and "was not given back" in again.stdout, again.stderr
    assert toy_runs.outcome(bring(s3_url, tmp_path / "there")) == on_a_disk
