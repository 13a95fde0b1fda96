"""Runs in buckets: real servers of both kinds, a death after every single operation of a push, and what two trainers do to each other."""

import contextlib
import errno
import shutil
import types

import boto3
import numpy as np
import pytest
import s3fs
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
from flexseg.training.watchdog import Watchdog

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
    assert set(bucket.files()) == {"deep/er/a.bin", ".copy", "small"} and bucket.read("small") == b"22"
    bucket.download(".copy", tmp_path / "new" / "b.bin")
    assert (tmp_path / "new" / "b.bin").read_bytes() == here.read_bytes()
    bucket.remove(["small", "never"])
    assert set(bucket.files()) == {"deep/er/a.bin", ".copy"}


def test_another_version_of_a_file_is_told_from_the_one_before_though_it_is_as_long(url):
    bucket, versions = Bucket(url, flag="--workdir"), []
    for content in (b"1", b"2"):
        bucket.write("a", content)
        versions += [bucket.files()["a"], bucket.files()["a"]]
    assert versions[0] == versions[1] != versions[2] == versions[3]


def test_an_upload_tells_that_it_moves_before_it_ends(s3_url, tmp_path, monkeypatch):
    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda *_, **__: 5 * 2**20)  # the least that S3 takes, else fifty megabytes
    (tmp_path / "large").write_bytes(bytes(16 * 2**20))
    moved = []
    Bucket(s3_url, flag="--workdir").upload(tmp_path / "large", "large", moved=lambda: moved.append(1))
    assert len(moved) >= 4


def test_a_disk_that_is_full_here_is_not_the_buckets_fault(url, tmp_path):
    bucket = Bucket(url, flag="--workdir")
    bucket.write("a", bytes(100_000))
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        bucket.download("a", tmp_path / "full")
    assert caught.value.errno == errno.ENOSPC

    def failing(*_):
        raise OSError(errno.EIO, "An error occurred (Unheard) when calling the GetObject operation")  # what s3fs makes of one it does not know

    bucket._store = types.SimpleNamespace(cat_file=failing)
    with pytest.raises(UserError, match="a bucket that answers"):
        bucket.read("a")


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

    def _act(self, act, *arguments, **more):
        if self.left == 0:
            raise _DeadError
        self.left -= 1
        act(*arguments, **more)

    def upload(self, path, name, **more):
        self._act(super().upload, path, name, **more)

    def copy(self, name, to):
        self._act(super().copy, name, to)

    def remove(self, names):
        for name in names:
            self._act(super().remove, [name])

    def write(self, name, content):
        self._act(super().write, name, content)


def arrays(number):
    return {"model": {"0000 a/kernel": np.full((8,), number)}}


def step(run, number, *, best, value=None):
    """What a trainer does to a run directory at a checkpoint, with new best weights before it or not; `value` stands in the checkpoint."""
    if best:
        write_folder(run.best, arrays(number), {"step": number}, keep_replaced=True)
    run.losses_csv.write_text("epoch\n" * number)
    write_folder(run.checkpoints / f"step_{number:09d}", arrays(number if value is None else value), {"step": number})
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
        except _DeadError:
            operation += 1
        with training("s3://lab/run", files / "again", files=files / "bucket") as (_, run, _):
            assert all(not damage(folder) for folder in run.checkpoints.glob("*")), operation
        shutil.rmtree(files)
    assert operation > 20


def test_a_checkpoint_that_is_written_twice_is_whole_after_a_death_at_any_operation(tmp_path):
    """As at the end of an epoch that `train.checkpoint_steps` divides; and after a second death while that is mended."""
    begun("s3://lab/run", tmp_path / "begun_here", files=tmp_path / "begun")
    with training("s3://lab/run", tmp_path / "only", files=tmp_path / "begun") as (_, run, _):
        shutil.rmtree(run.checkpoints / "step_000000002")
    for first in range(22):
        for second in (*range(first % 4, 20, 4), 10**9):
            files = tmp_path / f"{first}_{second}"
            shutil.copytree(tmp_path / "begun", files / "bucket")
            for left, value in ((first, 31), (second, 32)):
                with contextlib.suppress(_DeadError), training("s3://lab/run", files / f"{value}", left=left, files=files / "bucket") as (remote, run, at):
                    assert at == 3
                    step(run, 3, best=False, value=value)
                    remote.push()
            with training("s3://lab/run", files / "last", files=files / "bucket") as (_, run, at):
                assert_whole(run, at, (first, second))
                assert at == 3 and read_folder(run.checkpoints / "step_000000003")[0]["model"]["0000 a/kernel"][0] in (3, 31, 32)
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
    theirs = {".notes.txt", "analysis/.ipynb_checkpoints/x.ipynb", "analysis/x.ipynb", "break_training_when.md", "run.locks", "run.lock.md", "checkpoints/.why"}
    for name in theirs:
        bucket.write(name, b"mine")
    with training(s3_url, tmp_path / "second") as (remote, run, _):
        step(run, 4, best=True)
        remote.push()
    assert {name for name in theirs if bucket.read(name) == b"mine"} == theirs


def test_what_a_trainer_that_was_taken_over_was_writing_just_then_does_not_tear_the_best_weights(s3_url, tmp_path):
    with pytest.raises(UserError, match="to be the one that writes"), training(s3_url, tmp_path / "first") as (first, run, _):
        run.config.write_text("")
        step(run, 1, best=True)
        first.push()
        step(run, 2, best=True)
        upload = first._bucket.upload

        def late(path, name, **more):
            if name != "best/facts.json":
                return upload(path, name, **more)
            with training(s3_url, tmp_path / "second") as (second, other, at):
                assert at == 1
                upload(path, name, **more)
                assert damage(bring(s3_url, tmp_path / "torn") / "best")
                step(other, 2, best=False)
                second.push()

        first._bucket.upload = late
        first.push()
    there = bring(s3_url, tmp_path / "there")
    assert not damage(there / "best") and read_facts(there / "best")["step"] == 1


def test_an_error_stands_in_the_log_that_is_brought_there(s3_url, tmp_path):
    with pytest.raises(ZeroDivisionError), training(s3_url, tmp_path / "here") as (_, run, _):
        run.config.write_text("")
        run.log.write_text("a line of the run\n")
        1 / 0  # noqa: B018
    log = Bucket(s3_url, flag="--workdir").read("log.txt").decode()
    assert log.startswith("a line of the run\nTraceback") and "ZeroDivisionError: division by zero" in log


def test_a_guest_whose_bucket_takes_nothing_is_told_so_and_where_its_work_lies(s3_url, tmp_path):
    begun(s3_url, tmp_path / "trainer")
    guest = RemoteRun(Bucket(s3_url, flag="--workdir"), tmp_path / "guest")
    guest.fetch()
    (tmp_path / "guest" / "report.json").write_text("{}")

    def denied(*_, **__):
        raise PermissionError("Access Denied")

    guest._bucket._store = types.SimpleNamespace(put_file=denied)
    with pytest.raises(UserError, match=f"Access Denied.*was written lies in {tmp_path / 'guest'}") as caught:
        guest.push()
    assert "goes on" not in str(caught.value) and guest.behind


def test_a_push_tells_that_it_moves_at_every_change(s3_url, tmp_path):
    begun(s3_url, tmp_path / "first")
    with training(s3_url, tmp_path / "second") as (remote, run, _):
        step(run, 4, best=True)
        before, moved = remote._bucket.left, []
        remote.push(moved=lambda: moved.append(1))
        changes = before - remote._bucket.left
    assert len(moved) >= changes > 10, "copies and removals as well as uploads"


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

        def taken_over(path, name, **more):
            upload(path, name, **more)
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
        assert len(looks) == len(set(looks)) > 0 and read_facts(read.best)["step"] == 3 and not damage(read.best)
        assert sorted(folder.name for folder in read.checkpoints.iterdir() if not damage(folder)) == ["step_000000002", "step_000000003"]


def test_a_file_that_goes_again_and_again_is_said_and_the_rest_comes_once(s3_url, tmp_path, monkeypatch):
    begun(s3_url, tmp_path / "trainer")
    came = []

    class Restless(Bucket):
        def files(self):
            return super().files() | {f"best/{len(came)}": "never there", "losses.csv": f"{len(came)}"}

        def download(self, name, to):
            super().download(name, to)
            came.append(name)

    Bucket(s3_url, flag="--workdir").write("losses.csv", b"new at every look")
    monkeypatch.setattr(remote_run, "_LOOK_AGAIN_SECONDS", 0.0)
    with pytest.raises(UserError, match="files that stay while they are fetched.*best/"):
        RemoteRun(Restless(s3_url, flag="--workdir"), tmp_path / "reader").fetch()
    again = [name for name in set(came) if came.count(name) > 1]
    assert {"config.gin", "environment.json"} <= set(came) and again == ["losses.csv"] and came.count("losses.csv") == 3


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


def test_a_push_within_the_training_keeps_the_watchdog_awake_at_every_file(toy, s3_url, monkeypatch):
    moved, uploads, upload, alive, push = [], [], Bucket.upload, Watchdog.alive, RemoteRun.push
    monkeypatch.setattr(Watchdog, "alive", lambda watchdog: moved.append(1) or alive(watchdog))
    monkeypatch.setattr(Bucket, "upload", lambda *given, **more: uploads.append(1) or upload(*given, **more))
    within = []
    monkeypatch.setattr(RemoteRun, "push", lambda remote, **given: (push(remote, **given), within.append((len(uploads), len(moved)))))
    toy_runs.train(toy, s3_url, *PARAMS, "train.epochs=1")
    files, beats = within[0]
    assert beats >= files > 5


@pytest.mark.slow
def test_the_stacks_of_a_run_in_which_nothing_moves_stand_in_the_bucket(toy, s3_url):
    params = ("train.watchdog_multiple=10", "train.watchdog_minutes=0.15")
    done = toy_runs.process(toy, s3_url, *PARAMS, *params, fault="hang", call=6)
    assert done.returncode == 75, done.stderr
    assert "in wait_for_ever" in Bucket(s3_url, flag="--workdir").read("log.txt").decode()


@pytest.mark.slow
@pytest.mark.parametrize("call", [3, 12, 25, 33])
def test_a_run_killed_within_a_push_goes_on_as_if_nothing_had_happened(toy, s3_url, tmp_path, call):
    toy_runs.train(toy, tmp_path / "disk", *PARAMS)
    assert toy_runs.process(toy, s3_url, *PARAMS, fault="upload", call=call).returncode == -9
    again = toy_runs.process(toy, s3_url, *PARAMS)
    assert again.returncode == 0 and "was not given back" in again.stdout, again.stderr
    assert toy_runs.outcome(bring(s3_url, tmp_path / "there")) == toy_runs.outcome(tmp_path / "disk")
