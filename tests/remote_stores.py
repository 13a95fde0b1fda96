"""Servers of both kinds of bucket, and the runs that tests push to them.

Usage:
    with training(s3_url, tmp_path / "here") as (remote, run, at):
        step(run, at + 1, best=True)
        remote.push()
"""

import contextlib
import shutil
import types
from collections.abc import Iterator

import boto3
import numpy as np
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

from flexseg.launch.local import free_addresses
from flexseg.runs.best_checkpoint import BestCheckpoint
from flexseg.runs.bucket import Bucket
from flexseg.runs.bucket_sync import BucketSync
from flexseg.runs.checkpoint_format import damage, read_checkpoint, read_facts, write_checkpoint
from flexseg.runs.directory import RunDirectory


@contextlib.contextmanager
def served() -> Iterator[dict[str, str]]:
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


def bring(url, to):
    """Everything that lies in a bucket, as a folder."""
    bucket = Bucket(url, flag="--workdir")
    shutil.rmtree(to, ignore_errors=True)
    for name in bucket.files():
        bucket.download(name, to / name)
    return to


class DeadError(BaseException):
    """The process is gone."""


class Dying(Bucket):
    """A bucket whose user dies at a given change of it, before or after it came through."""

    left = 10**9

    def _act(self, act, *arguments, **more):
        if self.left == 0:
            raise DeadError
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
        write_checkpoint(run.best, arrays(number), {"step": number}, keep_replaced=True)
    run.losses_csv.write_text("epoch\n" * number)
    write_checkpoint(run.checkpoints / f"step_{number:09d}", arrays(number if value is None else value), {"step": number})
    shutil.rmtree(run.checkpoints / f"step_{number - 2:09d}", ignore_errors=True)
    best_weights(run).checkpointed()


def best_weights(run):
    return BestCheckpoint(run.best, types.SimpleNamespace(is_chief=True), None)


@contextlib.contextmanager
def training(url, here, *, left=10**9, files=None):
    """What `flexseg train` does around a run: fetch, own, restore; yields (remote, run, step that it stands at); `files` holds buckets in a folder."""
    bucket = Dying(url, flag="--workdir")
    if files is not None:
        bucket._store = DirFileSystem(str(files), LocalFileSystem(auto_mkdir=True))
    remote = BucketSync(bucket, here)
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
    assert read_checkpoint(run.best)[0]["model"]["0000 a/kernel"][0] == last_best
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
    except DeadError:
        return True
    return False


def store_that_is_away(bucket):
    """The S3 client of a bucket for a port where nobody listens; the library's own patience cut."""
    store = type(bucket._store)(skip_instance_cache=True, endpoint_url="http://127.0.0.1:1", config_kwargs={"retries": {"max_attempts": 0}})
    store.retries = 1
    return store
