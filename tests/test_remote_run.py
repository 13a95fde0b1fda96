"""Runs in buckets: real servers of both kinds, a death after every single operation of a push, and what two trainers do to each other."""

import itertools
import shutil
import types

import boto3
import numpy as np
import pytest
import toy_runs
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

from flexseg.errors import UserError
from flexseg.files.bucket import Bucket
from flexseg.inference.weights import damage, read_facts, read_folder, write_folder
from flexseg.launch.local import free_addresses
from flexseg.training.best_weights import BestWeights
from flexseg.training.remote_run import RemoteRun, run_directory
from flexseg.training.run_directory import RunDirectory

PARAMS = ("train.epochs=4", "train.checkpoint_steps=3", "train.deterministic=True", "epoch_change_infer.num_infer_images=1")


@pytest.fixture(scope="module")
def stores():
    """{kind: address of a bucket}, with what the libraries need to know in the environment."""
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    gs_port = int(free_addresses(1)[0].rpartition(":")[2])
    gs = create_server("127.0.0.1", gs_port, in_memory=True, default_bucket="lab")
    gs.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{gs_port}",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="lab")
        yield {"s3": "s3://lab", "gs": "gs://lab"}
    gs.stop()
    s3.stop()


@pytest.fixture(params=["s3", "gs"])
def url(request, stores, tmp_path):
    return f"{stores[request.param]}/{tmp_path.name}/run"


@pytest.fixture
def s3_url(stores, tmp_path):
    return f"{stores['s3']}/{tmp_path.name}/run"


def bring(url, to):
    """Everything that lies in a bucket, as a folder."""
    bucket = Bucket(url, flag="--workdir")
    shutil.rmtree(to, ignore_errors=True)
    for name in bucket.files():
        bucket.download(name, to / name)
    return to


# The bucket


def test_files_come_back_as_they_went(url, tmp_path):
    bucket, here = Bucket(url, flag="--workdir"), tmp_path / "a.bin"
    here.write_bytes(bytes(range(256)) * 5000)
    assert bucket.files() == {} and bucket.read("a") is None
    bucket.upload(here, "deep/er/a.bin")
    bucket.copy("deep/er/a.bin", ".copy")
    bucket.write("small", b"1")
    bucket.write("small", b"22")
    assert bucket.files() == {"deep/er/a.bin": 1_280_000, ".copy": 1_280_000, "small": 2} and bucket.read("small") == b"22"
    bucket.download(".copy", tmp_path / "new" / "b.bin")
    assert (tmp_path / "new" / "b.bin").read_bytes() == here.read_bytes()
    bucket.remove(["small", "never"])
    assert set(bucket.files()) == {"deep/er/a.bin", ".copy"}


@pytest.mark.parametrize("name", ["../other/run/config.gin", "/etc/passwd", "a/../../b", ""])
def test_a_name_that_leads_out_of_the_folder_is_refused(s3_url, tmp_path, name):
    for act in (lambda bucket: bucket.download(name, tmp_path / "x"), lambda bucket: bucket.write(name, b"x")):
        with pytest.raises(UserError, match="names of files below it"):
            act(Bucket(s3_url, flag="--workdir"))


def test_what_is_no_bucket_or_does_not_answer_is_said_in_one_line(stores):
    for address, words in (("hdfs://a/b", "gs://bucket/folder or s3"), ("s3://lab", "another address"), ("s3://none/run", "does not exist")):
        with pytest.raises(UserError, match=words) as caught:
            Bucket(address, flag="--workdir").files()
        assert "\n" not in str(caught.value)


# A push


class _DeadError(BaseException):
    """The process is gone."""


class Dying(Bucket):
    """A bucket whose user dies at a given change of it, before or after it came through."""

    left = 10**9

    def _act(self, act, *arguments):
        if self.left == 0:
            raise _DeadError
        self.left -= 1
        act(*arguments)

    def upload(self, path, name):
        self._act(super().upload, path, name)

    def copy(self, name, to):
        self._act(super().copy, name, to)

    def remove(self, names):
        for name in names:
            self._act(super().remove, [name])

    def write(self, name, content):
        self._act(super().write, name, content)


def arrays(number):
    return {"model": {"0000 a/kernel": np.full((8,), number)}}


def step(run, number, *, best):
    """What a trainer does to a run directory at a checkpoint, with new best weights before it or not."""
    if best:
        write_folder(run.best, arrays(number), {"step": number}, keep_replaced=True)
    run.losses_csv.write_text("epoch\n" * number)
    write_folder(run.checkpoints / f"step_{number:09d}", arrays(number), {"step": number})
    shutil.rmtree(run.checkpoints / f"step_{number - 2:09d}", ignore_errors=True)
    best_weights(run).checkpointed()


def best_weights(run):
    return BestWeights(run.best, types.SimpleNamespace(is_chief=True), None)


def begin(url, here, *, left=10**9):
    bucket = Dying(url, flag="--workdir")
    remote = RemoteRun(bucket, here)
    remote.fetch()
    here.mkdir(parents=True, exist_ok=True)
    bucket.left = left
    return remote, RunDirectory(here, remote=remote)


def test_a_start_after_a_death_at_any_operation_of_a_push_finds_a_whole_checkpoint_and_its_best_weights(s3_url, tmp_path):
    died = 0
    for operations in itertools.count():
        url = f"{s3_url}_{operations}"
        remote, run = begin(url, tmp_path / f"{operations}_first")
        with remote.owned():
            for name in (*run.beginning, run.config.name):
                (run.path / name).write_text("{}")
            for number in (1, 2, 3):
                step(run, number, best=number == 2)
                remote.push()
        remote, run = begin(url, tmp_path / f"{operations}_second", left=operations)
        best_weights(run).restored(step=3)
        try:
            with remote.owned():
                step(run, 4, best=True)
                remote.push()
                step(run, 5, best=True)
                remote.push()
        except _DeadError:
            died += 1
        else:
            break
        _, run = begin(url, tmp_path / f"{operations}_third")
        whole = [folder for folder in sorted(run.checkpoints.glob("step_*")) if not damage(folder)]
        at = read_facts(whole[-1])["step"]
        best_weights(run).restored(step=at)
        assert at in (3, 4, 5) and run.config.is_file()
        assert read_facts(run.best)["step"] == {3: 2, 4: 4, 5: 5}[at], f"after {operations} operations"
        assert read_folder(run.best)[0]["model"]["0000 a/kernel"][0] == {3: 2, 4: 4, 5: 5}[at]
        assert len(run.losses_csv.read_text().splitlines()) >= at, "the tables are never behind the checkpoint"
    assert died > 30
    there = Bucket(url, flag="--workdir").files()
    assert not any(name.startswith((".best.old", "run.owner", "checkpoints/step_000000003")) for name in there), "what is gone here is gone there"


def test_a_bucket_that_is_away_for_a_while_costs_nothing_but_a_line(s3_url, tmp_path, monkeypatch, capsys):
    remote, run = begin(s3_url, tmp_path / "here")
    with remote.owned():
        run.config.write_text("")
        step(run, 1, best=True)
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
            away = Bucket(s3_url, flag="--workdir")
            away._store = type(away._store)(skip_instance_cache=True, endpoint_url="http://127.0.0.1:1")
            patch.setattr(remote, "_bucket", away)
            remote.push(patient=True)
            assert "The next checkpoint tries again" in capsys.readouterr().out
            with pytest.raises(OSError, match="a bucket that answers"):
                remote.push()
        remote.push(patient=True)
    assert not damage(bring(s3_url, tmp_path / "there") / "best")


def test_of_two_trainers_the_later_wins_and_the_other_overwrites_nothing(s3_url, tmp_path, capsys):
    first, run = begin(s3_url, tmp_path / "first")
    with pytest.raises(UserError, match="to be the one that writes.*process"), first.owned():
        run.config.write_text("")
        step(run, 1, best=True)
        first.push()
        second, other = begin(s3_url, tmp_path / "second")
        with second.owned():
            assert "it is taken over" in capsys.readouterr().out
            step(other, 2, best=True)
            second.push()
            step(run, 3, best=True)
            first.push(patient=True)
    names = Bucket(s3_url, flag="--workdir").files()
    assert any("step_000000002" in name for name in names) and not any("step_000000003" in name or name == "run.owner" for name in names)


# Runs


def test_a_run_in_a_bucket_is_the_run_on_a_disk(toy, url, tmp_path):
    toy_runs.train(toy, tmp_path / "disk", *PARAMS)
    assert f"run directory: {url}" in toy_runs.train(toy, url, *PARAMS, "train.epochs=2")
    assert "resumed after epoch 2" in toy_runs.train(toy, url, *PARAMS)
    there = bring(url, tmp_path / "there")
    assert toy_runs.outcome(there) == toy_runs.outcome(tmp_path / "disk")
    names = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert {"log.txt", "config.gin", "finished.json", "epoch_change_infer.png"} <= names and not any("lock" in name or "owner" in name for name in names)
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


def test_a_stop_file_in_the_bucket_ends_the_run_and_is_removed(toy, s3_url, tmp_path):
    with run_directory(s3_url) as run:
        Bucket(s3_url, flag="--workdir").write(run.stop_file.name, b"")
    with pytest.raises(UserError, match="other files and no config.gin"):
        toy_runs.train(toy, s3_url, *PARAMS)
    Bucket(s3_url, flag="--workdir").remove(["break_training"])
    toy_runs.train(toy, s3_url, *PARAMS, "train.epochs=1")
    Bucket(s3_url, flag="--workdir").write("break_training", b"")
    assert "break_training was found" in toy_runs.train(toy, s3_url, *PARAMS, "train.epochs=50")
    assert "break_training" not in Bucket(s3_url, flag="--workdir").files()


@pytest.mark.slow
@pytest.mark.parametrize("call", [3, 12, 25, 33])
def test_a_run_killed_within_a_push_goes_on_as_if_nothing_had_happened(toy, s3_url, tmp_path, call):
    toy_runs.train(toy, tmp_path / "disk", *PARAMS)
    assert toy_runs.process(toy, s3_url, *PARAMS, fault="upload", call=call).returncode == -9
    again = toy_runs.process(toy, s3_url, *PARAMS)
    assert again.returncode == 0 and "was not given back" in again.stdout, again.stderr
    assert toy_runs.outcome(bring(s3_url, tmp_path / "there")) == toy_runs.outcome(tmp_path / "disk")
