"""Two processes at one run in a bucket: of two trainers the later wins; readers get whole files whatever a trainer does meanwhile."""

import shutil
import types

import pytest
from remote_stores import begun, bring, step, store_that_is_away, training

from flexseg.errors import UserError
from flexseg.runs import bucket_sync
from flexseg.runs.bucket import Bucket
from flexseg.runs.bucket_sync import BucketSync
from flexseg.runs.checkpoint_format import damage, read_facts
from flexseg.runs.directory import RunDirectory, open_run_directory


def test_of_two_trainers_the_later_wins_and_the_other_overwrites_nothing(s3_url, tmp_path, capsys):
    with pytest.raises(UserError, match="to own.*process"), training(s3_url, tmp_path / "first") as (first, run, _):
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
    with pytest.raises(UserError, match="to own"), training(s3_url, tmp_path / "here") as (remote, run, _):
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
    with pytest.raises(OSError, match="--workdir=.*goes on with it") as caught, open_run_directory(s3_url) as run:
        run.remote.fetch()
        run.path.mkdir()
        with run.remote.owned():
            run.config.write_text("")
            step(run, 1, best=True)
            run.remote._bucket._store = store_that_is_away(run.remote._bucket)
    assert f"--workdir={run.path} " in str(caught.value) and not damage(run.checkpoints / "step_000000001")
    shutil.rmtree(run.path.parent)
    Bucket(s3_url, flag="--workdir").remove(["run.owner"])
    with open_run_directory(s3_url) as run:
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

        monkeypatch.setattr(bucket_sync, "_RETRY_SECONDS", 0.0)
        reader = BucketSync(Busy(s3_url, flag="--workdir"), tmp_path / "reader")
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
    monkeypatch.setattr(bucket_sync, "_RETRY_SECONDS", 0.0)
    with pytest.raises(UserError, match="files that stay while they are fetched.*best/"):
        BucketSync(Restless(s3_url, flag="--workdir"), tmp_path / "reader").fetch()
    again = [name for name in set(came) if came.count(name) > 1]
    assert {"config.gin", "environment.json"} <= set(came) and again == ["losses.csv"] and came.count("losses.csv") == 3


def test_what_a_trainer_that_was_taken_over_was_writing_just_then_does_not_tear_the_best_weights(s3_url, tmp_path):
    with pytest.raises(UserError, match="to own"), training(s3_url, tmp_path / "first") as (first, run, _):
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


def test_a_guest_whose_bucket_takes_nothing_is_told_so_and_where_its_work_lies(s3_url, tmp_path):
    begun(s3_url, tmp_path / "trainer")
    guest = BucketSync(Bucket(s3_url, flag="--workdir"), tmp_path / "guest")
    guest.fetch()
    (tmp_path / "guest" / "report.json").write_text("{}")

    def denied(*_, **__):
        raise PermissionError("Access Denied")

    guest._bucket._store = types.SimpleNamespace(put_file=denied)
    with pytest.raises(UserError, match=f"Access Denied.*was written lies in {tmp_path / 'guest'}") as caught:
        guest.push()
    assert "goes on" not in str(caught.value) and guest.behind
