"""Bucket: files go to a bucket and come back, and what goes wrong on the way is told as what it is."""

import errno
import types

import pytest
import s3fs

from flexseg.errors import UserError
from flexseg.runs.bucket import Bucket


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
