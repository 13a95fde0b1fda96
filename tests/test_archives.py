"""Zip files as sources: what they hold is checked before it is written, and a download is what its publisher states."""

import functools
import hashlib
import http.server
import io
import threading
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
import toys
from test_sources import write_slides

from flexseg.commands import build
from flexseg.datasets import archives
from flexseg.datasets.archives import Download, unpacked
from flexseg.datasets.tnbc import tnbc_dataset_builder
from flexseg.errors import UserError

DIVISION = ["split.train_groups=(1,)", "split.valid_groups=(10,)", "split.test_groups=(2,)"]


def pack(path: Path, folder: Path, below: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{below}{file.relative_to(folder)}")
    return path


def masks_of(dataset):
    return {case: dataset.records(split).truth(n) for split, table in dataset.manifest.splits.items() for n, case in enumerate(table.case_id)}


@pytest.mark.parametrize("below", ["", "my_set/"])
def test_a_zip_file_builds_what_its_folder_builds(tmp_path, below):
    source = toys.write_folder(tmp_path / "source", toys.FOUR)
    packed = pack(tmp_path / "set.zip", source, below)
    there, here = toys.build(tmp_path / "a", source=packed, name="one"), toys.build(tmp_path / "b", source=source, name="one")
    assert there.manifest.fingerprint == here.manifest.fingerprint
    for case, mask in masks_of(here).items():
        np.testing.assert_array_equal(masks_of(there)[case], mask)


def archive(method=zipfile.ZIP_DEFLATED, **members) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return stream.getvalue()


def link() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        member = zipfile.ZipInfo("images/a.png")
        member.external_attr = 0o120777 << 16
        packed.writestr(member, "/etc/passwd")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (archive(**{"../outside.png": b"x"}), "names below one folder.*outside"), (archive(**{"/outside.png": b"x"}), "names below one folder"),
        (archive(**{"a/..\\..\\outside.png": b"x"}), "names below one folder"), (archive(**{"C:outside.png": b"x"}), "names below one folder"),
        (link(), "a link"), (archive(), "files in it"),
        (archive(**{"images/a.png": bytes(range(256)) * 40})[:200], "a sound zip file"), (b"no zip at all", "a sound zip file"),
    ],
    ids=["parent", "absolute", "backslashes", "drive", "link", "empty", "cut", "text"],
)  # fmt: skip
def test_an_archive_that_is_not_to_be_trusted_is_refused_and_nothing_written(tmp_path, content, words):
    path = tmp_path / "inner" / "set.zip"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        unpacked(path, flag="--source")
    assert not list(tmp_path.glob("**/outside*"))


def test_what_unpacks_to_more_than_there_is_room_for_is_refused_before_a_byte_is_written(tmp_path, monkeypatch):
    (tmp_path / "set.zip").write_bytes(archive(**{"images/empty.bmp": bytes(50_000_000)}))
    assert unpacked(tmp_path / "set.zip", flag="--source"), "an empty mask shrinks a thousand times, and is a mask"
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=49_999_999))
    with pytest.raises(UserError, match="at most the 49999999 bytes that are free.*found 50000000"):
        unpacked(tmp_path / "set.zip", flag="--source")


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["stored", "deflated", "bzip2", "lzma"]
)
def test_a_file_whose_content_is_damaged_is_refused(tmp_path, method):
    rng = np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(archive(method, **{"images/a.png": bytes(rng.integers(0, 4, 20_000, np.uint8))}))
        content[int(rng.integers(60, len(content) - 200))] ^= int(rng.integers(1, 256))
        (tmp_path / "set.zip").write_bytes(content)
        with pytest.raises(UserError, match="a sound zip file"):
            unpacked(tmp_path / "set.zip", flag="--source")


def test_names_that_cannot_stand_beside_each_other_are_refused(tmp_path):
    (tmp_path / "set.zip").write_bytes(archive(**{"images": b"1", "images/a.png": b"2"}))
    with pytest.raises(UserError, match="a sound zip file"):
        unpacked(tmp_path / "set.zip", flag="--source")


def test_the_folder_goes_with_its_object(tmp_path):
    (tmp_path / "set.zip").write_bytes(archive(**{"set/images/a.png": b"1", "__MACOSX/set/a": b"2"}))
    place = unpacked(tmp_path / "set.zip", flag="--source")
    folder = place.folder
    assert folder.name == "set" and (folder / "images" / "a.png").read_bytes() == b"1"
    del place
    assert not folder.exists()


# TNBC


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The publisher's archive on a server of this machine: (its content, how often it was asked for)."""
    (tmp_path / "served").mkdir()
    slides = write_slides(tmp_path / "slides", {"01": 2, "02": 1, "10": 2})
    packed = pack(tmp_path / "served" / "TNBC_NucleiSegmentation.zip", slides, "TNBC_NucleiSegmentation/")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):  # noqa: N802  (http.server's name)
            asked.append(self.path)
            super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(packed.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    content = packed.read_bytes()
    url = f"http://127.0.0.1:{server.server_port}/{packed.name}"
    monkeypatch.setattr(tnbc_dataset_builder, "ARCHIVE", Download(url=url, bytes=len(content), md5=hashlib.md5(content).hexdigest()))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield packed, asked
    server.shutdown()


def test_tnbc_downloads_what_its_publisher_states_once(tmp_path, published):
    for name in ("one", "two"):
        dataset = toys.build(tmp_path, source=None, dataset="tnbc", name=name, gin_param=DIVISION)
    assert len(published[1]) == 1 and sorted(masks_of(dataset)) == ["01_1", "01_2", "02_1", "10_1", "10_2"]


def test_another_file_than_the_publisher_states_is_refused(tmp_path, published):
    published[0].write_bytes(published[0].read_bytes() + b"x")
    with pytest.raises(UserError, match=r"bytes, md5 .*--source=FILE\.zip"):
        build.run(dataset="tnbc", data_dir=str(tmp_path / "data"), gin_param=DIVISION)
    assert not list((tmp_path / "data").glob("tnbc*"))


def test_a_download_that_fails_says_what_to_do(tmp_path, published, monkeypatch):
    there = tnbc_dataset_builder.ARCHIVE.url
    monkeypatch.setattr(tnbc_dataset_builder, "ARCHIVE", Download(url=there.replace("TNBC", "GONE"), bytes=1, md5=""))
    with pytest.raises(UserError, match="download http.*GONE_NucleiSegmentation.zip yourself"):
        build.run(dataset="tnbc", data_dir=str(tmp_path / "data"), gin_param=DIVISION)


def test_instances_are_the_connected_regions_of_the_mask(tmp_path):
    dataset = toys.build(tmp_path, source=write_slides(tmp_path / "slides", {"01": 1, "02": 1, "10": 1}), dataset="tnbc", gin_param=DIVISION)
    for example in tfds.builder_from_directory(str(dataset.directory)).as_dataset(split="train").as_numpy_iterator():
        assert example["instances"].dtype == np.uint16 and set(np.unique(example["instances"])) == {0, 1}
        np.testing.assert_array_equal(example["instances"] > 0, example["mask"] == 1)
    mask = np.zeros((6, 6), np.uint8)
    mask[0, 0] = mask[1, 1] = mask[4:, 4:] = 1
    found = tnbc_dataset_builder.TnbcContents.instances_of(None, mask)
    assert found.max() == 3, "diagonal neighbours are two"
