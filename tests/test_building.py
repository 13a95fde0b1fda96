"""A dataset is there whole or not at all: built once, never half, never replaced unasked."""

import contextlib
import os
from pathlib import Path

import pytest
import toys
from tensorflow_datasets.core import shuffle

from flexseg.data.dataset import built_datasets
from flexseg.datasets import contents as contents_module


@pytest.fixture
def source(tmp_path) -> Path:
    """Four sound cases in three splits."""
    return toys.write_folder(tmp_path / "source", toys.FOUR)


def test_the_same_build_again_writes_nothing(tmp_path, source):
    toys.build(tmp_path, source=source, name="toy")
    before = toys.snapshot(tmp_path)
    moved = source.rename(tmp_path / "moved")  # the contents count, not the place
    again = toys.build(tmp_path, source=moved, name="toy")
    assert toys.snapshot(tmp_path) == before and again.directory == tmp_path / "data" / "image_mask_folder" / "toy" / "1.0.0"


CHANGES = {
    "1 case with another image: a": lambda source: toys.repaint(source / "train/images/a.png", 1),
    "1 case with another mask: a": lambda source: toys.repaint(source / "train/masks/a.png", 255),
    "1 case added: e": lambda source: toys.write_folder(source, ["train/e"]),
    "1 case removed: b": lambda source: [(source / f"train/{kind}/b.png").unlink() for kind in ("images", "masks")],
    "4 cases in another group: a, b, c, d": lambda source: (source / "groups.csv").write_text("image,group\na,1\nb,1\nc,3\nd,4\n"),
    "1 case in another split: c": lambda source: [toys.write_folder(source, ["valid/e"]), *((source / f"valid/{kind}/c.png").rename(
        source / f"train/{kind}/c.png") for kind in ("images", "masks"))],
}  # fmt: skip


@pytest.mark.parametrize("difference", CHANGES)
def test_a_changed_source_under_a_used_name_is_refused_with_the_difference(tmp_path, source, difference):
    toys.build(tmp_path, source=source, name="toy")
    CHANGES[difference](source)
    error = toys.refusal(tmp_path, source=source, name="toy")
    assert difference in error.found and "--overwrite" in error.cure and "--name" in error.cure


def test_another_label_map_under_a_used_name_is_refused(tmp_path, source):
    toys.build(tmp_path, source=source, name="toy")
    error = toys.refusal(tmp_path, source=source, name="toy", gin_param=["label_map.values={0:0,255:1}", "label_map.class_names=('no','yes')"])
    assert "label_map.class_names was ['background', 'foreground'], is ['no', 'yes']" in error.found


def test_overwrite_swaps_the_dataset(tmp_path, source):
    toys.build(tmp_path, source=source, name="toy")
    toys.repaint(source / "train/images/a.png", (1, 2, 3))
    new = toys.build(tmp_path, source=source, name="toy", overwrite=True, num_shards=1)
    assert toys.pixels(new, "a")[0][0, 0].tolist() == [1, 2, 3]
    assert os.listdir(tmp_path / "data") == ["image_mask_folder"]


class Interrupted(BaseException):
    """Like KeyboardInterrupt, which pytest would take for its own."""


@contextlib.contextmanager
def interruption(monkeypatch, *, case: int):
    """The image of the `case`-th example cannot be read any more: the build is in the middle of a split."""
    real, calls = contents_module.stored_bytes, []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == case:
            raise Interrupted
        return real(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(contents_module, "stored_bytes", failing)
        yield


@pytest.mark.parametrize("case", [1, 2, 4])
def test_an_interrupted_build_leaves_the_old_dataset_whole_and_starts_again(tmp_path, source, monkeypatch, case):
    with interruption(monkeypatch, case=case):
        toys.build(tmp_path, source=source, name="toy")
    assert toys.snapshot(tmp_path) == {} and built_datasets(tmp_path / "data") == {}
    toys.build(tmp_path, source=source, name="toy")
    before = toys.snapshot(tmp_path)
    toys.repaint(source / "train/images/a.png", (1, 2, 3))
    with interruption(monkeypatch, case=case):
        toys.build(tmp_path, source=source, name="toy", overwrite=True)
    assert toys.snapshot(tmp_path) == before
    assert toys.pixels(toys.build(tmp_path, source=source, name="toy", overwrite=True), "a")[0][0, 0].tolist() == [1, 2, 3]


def test_a_swap_that_fails_puts_the_old_dataset_back(tmp_path, source, monkeypatch):
    old = toys.build(tmp_path, source=source, name="toy").directory
    before = toys.snapshot(tmp_path)
    toys.repaint(source / "train/images/a.png", (1, 2, 3))
    real = Path.rename

    def failing(self, target):
        if Path(target) == old and ".building" in str(self) and self.name != "old":
            raise Interrupted
        return real(self, target)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Path, "rename", failing)
        toys.build(tmp_path, source=source, name="toy", overwrite=True)
    assert toys.snapshot(tmp_path) == before


def test_a_swap_that_was_killed_between_its_two_renames_is_undone_by_the_next_build(tmp_path, source, monkeypatch):
    old = toys.build(tmp_path, source=source, name="toy").directory
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    beside = tmp_path / "data" / ".building_image_mask_folder_toy" / "old"
    beside.parent.mkdir()
    old.rename(beside)
    with interruption(monkeypatch, case=1):  # though this build comes to nothing
        toys.repaint(source / "train/images/a.png", (1, 2, 3))
        toys.build(tmp_path, source=source, name="toy", overwrite=True)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before and not beside.exists()


def test_a_data_dir_that_cannot_be_made_is_refused(tmp_path, source):
    (tmp_path / "file").write_text("mine")
    assert "file" in toys.refusal(tmp_path, source=source, name="toy", data_dir=str(tmp_path / "file" / "data")).where


@pytest.mark.parametrize("binding", ["split.proportions=(0.5,0.25,0.25)", "split.seed=5"])
def test_shares_beside_the_folders_own_splits_are_refused(tmp_path, source, binding):
    error = toys.refusal(tmp_path, source=source, name="toy", gin_param=[binding])
    assert error.where == binding.split("=")[0] and "split.resplit=True" in error.cure
    assert toys.build(tmp_path, source=source, name="toy", gin_param=[binding, "split.resplit=True"]).manifest.split["resplit"]


@pytest.mark.parametrize("binding", ["label_map.class_names=('a','b')", "label_map.off_map='nearest'", "split.seed=1"])
def test_a_generated_dataset_takes_no_bindings_of_files(tmp_path, binding):
    assert toys.refusal(tmp_path, source=None, dataset="synthetic_nuclei", gin_param=[binding]).where == f"{binding.split('.')[0]}.*"


def test_a_threshold_that_nothing_uses_is_refused(tmp_path, source):
    assert "label_map.off_map" in toys.refusal(tmp_path, source=source, name="toy", gin_param=["label_map.threshold=60"]).expected


def test_another_number_of_shards_under_a_used_name_is_refused(tmp_path):
    source = toys.write_folder(tmp_path / "source", [f"{split}/{split}{number}" for split in ("train", "valid") for number in range(2)])
    toys.build(tmp_path, source=source, name="toy", num_shards=1)
    assert "1 shards a split instead of 2" in toys.refusal(tmp_path, source=source, name="toy", num_shards=2).found
    assert len(toys.build(tmp_path, source=source, name="toy", num_shards=2, overwrite=True).table("train").files) == 2


def test_a_folder_that_flexseg_did_not_write_is_not_replaced(tmp_path, source):
    mine = tmp_path / "data" / "image_mask_folder" / "toy" / "1.0.0"
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("the work of years")
    assert "manifest" in str(toys.refusal(tmp_path, source=source, name="toy"))


def test_what_a_killed_build_left_is_invisible_and_swept_away_by_the_next(tmp_path, source):
    left = tmp_path / "data" / ".building_image_mask_folder_toy" / "image_mask_folder" / "toy" / "1.0.0"
    left.mkdir(parents=True)
    (left / "manifest.json").write_text("half")
    assert built_datasets(tmp_path / "data") == {}
    toys.build(tmp_path, source=source, name="toy")
    assert os.listdir(tmp_path / "data") == ["image_mask_folder"]


def test_another_kind_of_dataset_under_a_used_name_is_refused(tmp_path, source):
    toys.build(tmp_path, source=source, name="toy")
    for overwrite in (False, True):
        error = toys.refusal(tmp_path, source=None, dataset="synthetic_nuclei", name="toy", overwrite=overwrite)
        assert error.where == "--name=toy" and "image_mask_folder/toy" in error.found


def test_a_build_that_exceeds_memory_spreads_over_many_files_and_writes_the_same(tmp_path, monkeypatch):
    source = toys.write_folder(tmp_path / "source", [f"train/c{number:02d}" for number in range(40)])
    whole = toys.build(tmp_path / "a", source=source, name="one")
    read, lengths = shuffle._Bucket.read_values, []
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)  # of a billion
    monkeypatch.setattr(shuffle._Bucket, "read_values", lambda bucket: lengths.append(len(bucket)) or read(bucket))
    spread = toys.build(tmp_path / "b", source=source, name="one")
    assert sum(lengths) == 40 and max(lengths) == 1, "TFDS sorts each of its files in memory"
    files = [{path.name: path.read_bytes() for path in dataset.directory.glob("*tfrecord*")} for dataset in (whole, spread)]
    assert files[0] == files[1]
