"""Runs in buckets: real servers of both kinds, a death after every single operation of a push, and what two trainers do to each other."""

import contextlib
import shutil
import types

import boto3
import numpy as np
import pytest
import toy_runs
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

from flexseg.errors import UserError
from flexseg.files.bucket import Bucket
from flexseg.inference.weights import damage, read_facts, read_folder, write_folder
from flexseg.launch.local import free_addresses
from flexseg.training import remote_run
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


@contextlib.contextmanager
def training(url, here, *, left=10**9, files=None):
    """What `flexseg train` does around a run: fetch, own, restore; yields (remote, run, step that it stands at); `files` holds buckets in a folder."""
    bucket = Dying(url, flag="--workdir")
    if files is not None:
        bucket._store = DirFileSystem(str(files), LocalFileSystem(auto_mkdir=True))
    remote = RemoteRun(bucket, here)
    run = RunDirectory(here, remote=remote)
    remote.fetch(leave=remote.large)
    here.mkdir(parents=True, exist_ok=True)
    bucket.left = left
    with remote.owned():
        yield remote, run, restored(run)


def restored(run) -> int:
    whole = [folder for folder in sorted(run.checkpoints.glob("step_*")) if not damage(folder)]
    at = read_facts(whole[-1])["step"] if whole else 0
    best_weights(run).restored(step=at)
    return at


def assert_whole(run, at, after):
    assert run.config.is_file()
    last_best = {3: 2, 4: 4, 5: 5, 6: 6, 7: 7}[at]
    assert read_facts(run.best)["step"] == last_best, f"after {after} operations"
    assert read_folder(run.best)[0]["model"]["0000 a/kernel"][0] == last_best
    assert len(run.losses_csv.read_text().splitlines()) >= at, "the tables are never behind the checkpoint"


def begun(url, here, **given):
    """A run that stands at step 3, with the best weights of step 2."""
    with training(url, here, **given) as (remote, run, at):
        assert at == 0
        for name in (*run.beginning, run.config.name):
            (run.path / name).write_text("{}")
        for number in (1, 2, 3):
            step(run, number, best=number == 2)
            remote.push()


def two_steps(url, here, *, left, **given) -> bool:
    """A start that makes two steps, both the best so far; whether it died."""
    try:
        with training(url, here, left=left, **given) as (remote, run, at):
            assert_whole(run, at, left)
            for number in (at + 1, min(at + 2, 7)):
                step(run, number, best=True)
                remote.push()
    except _DeadError:
        return True
    return False


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


def store_that_is_away(bucket):
    """The S3 client of a bucket for a port where nobody listens; the library's own patience cut."""
    store = type(bucket._store)(skip_instance_cache=True, endpoint_url="http://127.0.0.1:1", config_kwargs={"retries": {"max_attempts": 0}})
    store.retries = 1
    return store


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


def test_of_two_trainers_the_later_wins_and_the_other_overwrites_nothing(s3_url, tmp_path, capsys):
    with pytest.raises(UserError, match="to be the one that writes.*process"), training(s3_url, tmp_path / "first") as (first, run, _):
        run.config.write_text("")
        step(run, 1, best=True)
        first.push()
        with training(s3_url, tmp_path / "second") as (second, other, at):
            assert at == 1 and "it is taken over" in capsys.readouterr().out
            step(other, 2, best=True)
            second.push()
            step(run, 3, best=True)
            first.push(patient=True)
    names = Bucket(s3_url, flag="--workdir").files()
    assert any("step_000000002" in name for name in names) and not any("step_000000003" in name or name == "run.owner" for name in names)


def test_a_trainer_that_is_taken_over_within_a_push_writes_no_further_file(s3_url, tmp_path):
    with pytest.raises(UserError, match="to be the one that writes"), training(s3_url, tmp_path / "here") as (remote, run, _):
        run.config.write_text("")
        step(run, 1, best=True)
        remote.push()
        step(run, 2, best=True)
        upload, sent = remote._bucket.upload, []

        def taken_over(path, name):
            upload(path, name)
            sent.append(name)
            Bucket(s3_url, flag="--workdir").write("run.owner", b"{}")

        remote._bucket.upload = taken_over
        remote.push()
    assert len(sent) == 1 and Bucket(s3_url, flag="--workdir").read("run.owner") == b"{}", "the other one's mark stays"


def test_what_the_bucket_did_not_take_at_the_end_stays_here_and_is_named(s3_url):
    with pytest.raises(OSError, match="--workdir=.*goes on with it") as caught, run_directory(s3_url) as run:
        run.remote.fetch()
        run.path.mkdir()
        with run.remote.owned():
            run.config.write_text("")
            step(run, 1, best=True)
            run.remote._bucket._store = store_that_is_away(run.remote._bucket)
    assert f"--workdir={run.path} " in str(caught.value) and not damage(run.checkpoints / "step_000000001")
    shutil.rmtree(run.path.parent)
    Bucket(s3_url, flag="--workdir").remove(["run.owner"])
    with run_directory(s3_url) as run:
        run.remote.fetch()
        run.path.mkdir()
    assert not run.path.exists(), "else the copy goes"


def test_a_reader_looks_again_when_the_trainer_is_halfway_through(s3_url, tmp_path, monkeypatch):
    with training(s3_url, tmp_path / "trainer") as (trainer, run, _):
        run.config.write_text("")
        step(run, 1, best=True)
        step(run, 2, best=False)
        trainer.push()
        looks = []

        class Busy(Bucket):
            def download(self, name, to):
                if name.startswith("checkpoints/step_000000001"):
                    looks.append(name)
                    if len(looks) == 1:  # between its listing and its download a file goes
                        step(run, 3, best=True)
                        trainer.push()
                super().download(name, to)

        monkeypatch.setattr(remote_run, "_LOOK_AGAIN_SECONDS", 0.0)
        reader = RemoteRun(Busy(s3_url, flag="--workdir"), tmp_path / "reader")
        reader.fetch()
        read = RunDirectory(tmp_path / "reader")
        assert len(looks) == 1 and read_facts(read.best)["step"] == 3 and not damage(read.best)
        assert sorted(folder.name for folder in read.checkpoints.iterdir() if not damage(folder)) == ["step_000000002", "step_000000003"]


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


def test_a_stop_file_in_the_bucket_ends_the_run_and_is_removed(toy, s3_url, monkeypatch):
    with run_directory(s3_url) as run:
        Bucket(s3_url, flag="--workdir").write(run.stop_file.name, b"")
    with pytest.raises(UserError, match="other files and no config.gin"):
        toy_runs.train(toy, s3_url, *PARAMS)
    Bucket(s3_url, flag="--workdir").remove(["break_training"])
    push, pushes = RemoteRun.push, []

    def with_a_stop_file_at_the_second(remote, **given):
        pushes.append(remote)
        if len(pushes) == 2:
            Bucket(s3_url, flag="--workdir").write("break_training", b"")
        push(remote, **given)

    monkeypatch.setattr(RemoteRun, "push", with_a_stop_file_at_the_second)
    assert "break_training was found" in toy_runs.train(toy, s3_url, *PARAMS, "train.epochs=50")
    assert len(pushes) < 10, "it ends at the next look for the file, which comes every second, not after 50 epochs"
    assert "break_training" not in Bucket(s3_url, flag="--workdir").files()


@pytest.mark.slow
@pytest.mark.parametrize("call", [3, 12, 25, 33])
def test_a_run_killed_within_a_push_goes_on_as_if_nothing_had_happened(toy, s3_url, tmp_path, call):
    toy_runs.train(toy, tmp_path / "disk", *PARAMS)
    assert toy_runs.process(toy, s3_url, *PARAMS, fault="upload", call=call).returncode == -9
    again = toy_runs.process(toy, s3_url, *PARAMS)
    assert again.returncode == 0 and "was not given back" in again.stdout, again.stderr
    assert toy_runs.outcome(bring(s3_url, tmp_path / "there")) == toy_runs.outcome(tmp_path / "disk")
