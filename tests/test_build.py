"""`flexseg build`: what is wrong is refused in one line and leaves nothing behind; what is right is built whole, once."""

import contextlib
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
import toys
from PIL import Image

from flexseg.data.dataset import BuiltDataset, built_datasets, open_dataset
from flexseg.datasets import contents as contents_module
from flexseg.errors import UserError

CASES = {"train/a": (16, 16), "train/b": (12, 20), "valid/c": (16, 16), "test/d": (9, 30)}


@pytest.fixture
def source(tmp_path) -> Path:
    """Four sound cases in three splits."""
    return toys.write_folder(tmp_path / "source", CASES)


def snapshot(place: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below the data_dir with its inode and bytes, folders too."""
    paths = sorted((place / "data").rglob("*"))
    return {str(path.relative_to(place)): (path.stat().st_ino, path.read_bytes() if path.is_file() else b"") for path in paths}


def refusal(place: Path, **options) -> UserError:
    """Builds; it must be refused in one line, and the data_dir must be as it was."""
    before = snapshot(place)
    with pytest.raises(UserError) as caught:
        toys.build(place, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) > 40
    assert snapshot(place) == before
    return caught.value


def printed_bindings(text: str) -> list[str]:
    """The values of the --gin_param flags in a message, as a shell would read them."""
    return [shlex.split(flag)[0].partition("=")[2] for flag in re.findall(r'--gin_param="(?:[^"\\]|\\.)*"', text)]


def pixels(dataset: BuiltDataset, case_id: str) -> tuple[np.ndarray, np.ndarray]:
    """(image, class ids) of a case, whatever split it is in."""
    for split, table in dataset.manifest.splits.items():
        if case_id in table.case_id:
            return dataset.records(split).example(table.case_id.index(case_id))
    raise KeyError(case_id)


def groups(dataset: BuiltDataset) -> dict[str, str]:
    return {case: group for table in dataset.manifest.splits.values() for case, group in zip(table.case_id, table.group_id, strict=True)}


def cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def repaint(path: Path, value) -> None:
    """Changes one pixel."""
    pixels_ = np.array(Image.open(path))
    pixels_[0, 0] = value
    Image.fromarray(pixels_).save(path)


# What is wrong is refused


def empty(source):
    shutil.rmtree(source)
    (source / "images").mkdir(parents=True)
    (source / "masks").mkdir()


MISTAKES = {
    "an image without mask": (lambda source: (source / "train/masks/a.png").unlink(), ["1 of 2 images without one: a.png"]),
    "a mask without image": (lambda source: (source / "train/images/a.png").unlink(), ["1 of 2 masks without one: a.png"]),
    "different sizes": (lambda source: Image.new("L", (20, 13)).save(source / "train/masks/b.png"), ["masks/b.png", "12 x 20", "13 x 20"]),
    "transposed sizes": (lambda source: Image.new("L", (12, 20)).save(source / "train/masks/b.png"), ["masks/b.png", "12 x 20", "20 x 12"]),
    "an empty folder": (empty, ["source/images", "found none"]),
    "no folder": (shutil.rmtree, ["--source", "no folder"]),
    "a truncated image": (lambda source: cut(source / "test/images/d.png", 0.7), ["images/d.png", "complete PNG"]),
    "a truncated mask": (lambda source: cut(source / "valid/masks/c.png", 0.7), ["masks/c.png", "complete PNG"]),
    "an empty file": (lambda source: (source / "train/images/a.png").write_bytes(b""), ["images/a.png", "empty file"]),
    "a text file": (lambda source: (source / "train/images/a.png").write_text("no image"), ["images/a.png", "PNG, JPEG, TIFF or BMP"]),
    "two files of one stem": (lambda source: Image.new("RGB", (16, 16)).save(source / "train/images/a.jpg"), ["a.jpg and a.png"]),
    "a value off the map": (lambda source: repaint(source / "train/masks/a.png", 76), ["0 (", "76 (1 pixels)"]),
    "only background": (
        lambda source: [Image.new("L", CASES[name][::-1]).save(source / f"{Path(name).parent}/masks/{Path(name).name}.png") for name in CASES],
        ["at least two classes"],
    ),
    "a group in two splits": (
        lambda source: (source / "groups.csv").write_text("image,group\na.png,1\nb.png,2\nc.png,1\nd.png,3\n"),
        ["1 group in two or more (a leak)", "group 1", "train/images/a.png", "valid/images/c.png", "split.resplit=True", "split.allow_leak=True"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_source_that_cannot_be_built_is_refused_in_one_line_and_nothing_is_written(tmp_path, source, mistake):
    make, words = MISTAKES[mistake]
    make(source)
    error = str(refusal(tmp_path, source=source, name="toy"))
    assert all(word in error for word in words), error
    assert not (tmp_path / "data").exists()


OPTIONS = {
    "a slash": ({"name": "../toy"}, "--name"),
    "a hidden name": ({"name": ".toy"}, "--name"),
    "no such dataset": ({"dataset": "imagenet"}, "--dataset"),
    "a flag without meaning": ({"dataset": "synthetic_nuclei"}, "--source"),
    "another layout": ({"dataset": "tnbc"}, "--source"),
    "a flag of another dataset": ({"dataset": "tnbc", "mask_pattern": "{case}_mask"}, "--mask_pattern"),
    "more shards than cases": ({"num_shards": 2}, "--num_shards"),
    "an unknown group": ({"gin_param": ["split.resplit=True", "split.train_groups=('z',)"]}, "split.train_groups"),
    "a class left out": ({"gin_param": ["label_map.values={0:0,1:1}"]}, "masks/a.png"),
    "a pattern that finds no group": ({"group_pattern": "([0-9]+)"}, "--group_pattern"),
    "a small limit": ({"max_image_pixels": 100}, "images/a.png"),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_options_that_make_no_sense_are_refused_by_name(tmp_path, source, what):
    options, where = OPTIONS[what]
    assert refusal(tmp_path, **{"source": source, "name": "toy"} | options).where.split("=")[0].endswith(where)
    assert not (tmp_path / "data").exists()


def grey_png(path: Path, side: int) -> None:
    """A sound PNG of `side` x `side` black pixels of one bit, a few kilobytes long."""
    packed = zlib.compress(bytes(side * (1 + side // 8)), 9)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's account of memory")
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_20000_by_20000_pixels_are_refused_before_they_are_decoded(tmp_path, source, kind):
    toys.build(tmp_path, source=source, name="toy")  # what a first build loads is not counted
    grey_png(source / "train" / kind / "a.png", 20_000)
    assert (source / "train" / kind / "a.png").stat().st_size < 100_000
    before = resident("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    error = refusal(tmp_path, source=source, name="toy")
    assert resident("VmHWM:") - before < 100  # 400 MiB and more when decoded
    assert error.where.endswith(f"{kind}/a.png") and "400000000" in error.found and "--max_image_pixels=400000000" in error.cure


def resident(name: str) -> float:
    """MiB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)) / 1024


# The printed cure builds


def test_a_colour_off_the_map_is_cured_by_what_is_printed(tmp_path, source):
    for name in CASES:
        path = source / Path(name).parent / "masks" / f"{Path(name).name}.png"
        mask = np.array(Image.open(path))
        Image.fromarray(np.stack([mask, mask // 255 * 128, mask * 0], axis=-1)).save(path)
    without_map = refusal(tmp_path, source=source, name="toy")
    assert "(255,128,0)" in without_map.found
    with_map = refusal(tmp_path, source=source, name="toy", gin_param=["label_map.rgb_map={(0,0,0):0,(255,255,255):1}"])
    assert with_map.where.endswith("masks/a.png") and "(255,128,0)" in with_map.found
    dataset = toys.build(tmp_path, source=source, name="toy", gin_param=printed_bindings(without_map.cure))
    assert dataset.label_map.colors == [(0, 0, 0), (255, 128, 0)]
    np.testing.assert_array_equal(pixels(dataset, "a")[1], toys.binary_mask("train/a", (16, 16)) // 255)
    three = toys.build(tmp_path, source=source, name="three", gin_param=printed_bindings(with_map.cure))
    assert three.label_map.num_classes == 3 and set(np.unique(pixels(three, "a")[1])) == {0, 2}


def test_greys_of_resampling_are_cured_by_what_is_printed(tmp_path, source):
    path = source / "train/masks/a.png"
    mask = np.array(Image.open(path))
    mask[0, :3] = [3, 120, 250]
    Image.fromarray(mask).save(path)
    error = refusal(tmp_path, source=source, name="toy", gin_param=["label_map.values={0:0,255:1}"])
    bindings = [binding for binding in printed_bindings(error.cure) if "off_map" in binding]
    dataset = toys.build(tmp_path, source=source, name="toy", gin_param=["label_map.values={0:0,255:1}", *bindings])
    assert pixels(dataset, "a")[1][0, :3].tolist() == [0, 0, 1]


def test_a_leak_is_cured_by_what_is_printed(tmp_path, source, capsys):
    (source / "groups.csv").write_text("image,group\na.png,1\nb.png,2\nc.png,1\nd.png,3\n")
    resplit, allow = printed_bindings(refusal(tmp_path, source=source, name="toy").cure)
    dataset = toys.build(tmp_path, source=source, name="apart", gin_param=[resplit])
    of_split = {split: set(table.group_id) for split, table in dataset.manifest.splits.items()}
    assert set.union(*of_split.values()) == {"1", "2", "3"} and sum(map(len, of_split.values())) == 3 and not dataset.manifest.leaked
    leaked = toys.build(tmp_path, source=source, name="leaked", gin_param=[allow])
    assert leaked.manifest.leaked and {split: table.case_id for split, table in leaked.manifest.splits.items()} == {
        "train": ["a", "b"], "valid": ["c"], "test": ["d"]
    }  # fmt: skip


def test_what_was_built_is_told_and_a_leak_is_stamped(tmp_path, source, capsys):
    from flexseg.commands import build

    (source / "groups.csv").write_text("image,group\na.png,1\nb.png,2\nc.png,1\nd.png,3\n")
    directory = build.run(source=str(source), name="toy", data_dir=str(tmp_path / "data"), gin_param=["split.allow_leak=True"])
    said = capsys.readouterr().out
    assert f"built: {directory}\n  train: 2 cases in 2 groups; background " in said and "LEAKED" in said
    assert f"next: flexseg train --dataset=toy --data_dir={tmp_path / 'data'} " in said


def test_the_console_script_refuses_and_what_it_prints_can_be_pasted(tmp_path, source):
    repaint(source / "train/masks/a.png", 76)
    flexseg = Path(sys.executable).with_name("flexseg")
    line = f"'{flexseg}' build --name=toy --source='{source}' --data_dir='{tmp_path / 'data'}'"
    refused = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=120)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and refused.stderr.startswith("flexseg build: ")
    assert not (tmp_path / "data").exists()
    flags = " ".join(re.findall(r'--gin_param="[^"]*"', refused.stderr))
    built = subprocess.run(["bash", "-c", f"{line} {flags}"], capture_output=True, text=True, check=False, timeout=120)
    assert built.returncode == 0 and built.stderr == "", built.stderr
    assert "built: " in built.stdout and open_dataset("toy", tmp_path / "data").label_map.num_classes == 3


# A dataset is there whole or not at all


def test_the_same_build_again_writes_nothing(tmp_path, source):
    toys.build(tmp_path, source=source, name="toy")
    before = snapshot(tmp_path)
    moved = source.rename(tmp_path / "moved")  # the contents count, not the place
    again = toys.build(tmp_path, source=moved, name="toy")
    assert snapshot(tmp_path) == before and again.directory == tmp_path / "data" / "image_mask_folder" / "toy" / "1.0.0"


CHANGES = {
    "1 case with another image: a": lambda source: repaint(source / "train/images/a.png", 1),
    "1 case with another mask: a": lambda source: repaint(source / "train/masks/a.png", 255),
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
    error = refusal(tmp_path, source=source, name="toy")
    assert difference in error.found and "--overwrite" in error.cure and "--name" in error.cure


def test_another_label_map_under_a_used_name_is_refused(tmp_path, source):
    toys.build(tmp_path, source=source, name="toy")
    error = refusal(tmp_path, source=source, name="toy", gin_param=["label_map.values={0:0,255:1}", "label_map.class_names=('no','yes')"])
    assert "label_map.class_names was ['background', 'foreground'], is ['no', 'yes']" in error.found


def test_overwrite_swaps_the_dataset(tmp_path, source):
    toys.build(tmp_path, source=source, name="toy")
    repaint(source / "train/images/a.png", (1, 2, 3))
    new = toys.build(tmp_path, source=source, name="toy", overwrite=True, num_shards=1)
    assert pixels(new, "a")[0][0, 0].tolist() == [1, 2, 3]
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
    assert snapshot(tmp_path) == {} and built_datasets(tmp_path / "data") == {}
    toys.build(tmp_path, source=source, name="toy")
    before = snapshot(tmp_path)
    repaint(source / "train/images/a.png", (1, 2, 3))
    with interruption(monkeypatch, case=case):
        toys.build(tmp_path, source=source, name="toy", overwrite=True)
    assert snapshot(tmp_path) == before
    assert pixels(toys.build(tmp_path, source=source, name="toy", overwrite=True), "a")[0][0, 0].tolist() == [1, 2, 3]


def test_a_swap_that_fails_puts_the_old_dataset_back(tmp_path, source, monkeypatch):
    old = toys.build(tmp_path, source=source, name="toy").directory
    before = snapshot(tmp_path)
    repaint(source / "train/images/a.png", (1, 2, 3))
    real = Path.rename

    def failing(self, target):
        if Path(target) == old and ".building" in str(self) and self.name != "old":
            raise Interrupted
        return real(self, target)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Path, "rename", failing)
        toys.build(tmp_path, source=source, name="toy", overwrite=True)
    assert snapshot(tmp_path) == before


def test_a_folder_that_flexseg_did_not_write_is_not_replaced(tmp_path, source):
    mine = tmp_path / "data" / "image_mask_folder" / "toy" / "1.0.0"
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("the work of years")
    assert "manifest" in str(refusal(tmp_path, source=source, name="toy"))


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
        error = refusal(tmp_path, source=None, dataset="synthetic_nuclei", name="toy", overwrite=overwrite, gin_param=SMALL_NUCLEI)
        assert error.where == "--name=toy" and "image_mask_folder/toy" in error.found


# The three datasets

SMALL_NUCLEI = ["synthetic_nuclei.slides=(1,1,0)", "synthetic_nuclei.images_per_slide=2", "synthetic_nuclei.image_size=(32,48)"]


def test_synthetic_nuclei_are_built_by_slide_with_instances(tmp_path):
    dataset = toys.build(tmp_path, source=None, dataset="synthetic_nuclei", gin_param=SMALL_NUCLEI)
    assert dataset.name == "synthetic_nuclei" and groups(dataset) == {
        "slide_00_000": "slide_00", "slide_00_001": "slide_00", "slide_01_000": "slide_01", "slide_01_001": "slide_01"
    }  # fmt: skip
    for example in tfds.builder_from_directory(str(dataset.directory)).as_dataset(split="train").as_numpy_iterator():
        assert example["instances"].dtype == np.uint16 and example["instances"].shape == (32, 48, 1)
        np.testing.assert_array_equal(example["instances"] > 0, example["mask"] == 1)
    before = snapshot(tmp_path)
    toys.build(tmp_path, source=None, dataset="synthetic_nuclei", gin_param=SMALL_NUCLEI)
    assert snapshot(tmp_path) == before
    error = refusal(tmp_path, source=None, dataset="synthetic_nuclei", gin_param=[*SMALL_NUCLEI, "synthetic_nuclei.seed=1"])
    assert "settings" in error.found


def write_slides(folder: Path, counts: dict[str, int]) -> Path:
    """The publisher's layout: {patient: number of slides}."""
    for patient, count in counts.items():
        for number in range(1, count + 1):
            for kind, make in (("Slide", toys.picture), ("GT", toys.binary_mask)):
                path = folder / f"{kind}_{patient}" / f"{patient}_{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(make(path.stem, (20, 20))).save(path)
    return folder


@pytest.fixture
def slides(tmp_path) -> Path:
    """Three patients."""
    return write_slides(tmp_path / "slides", {"01": 2, "02": 1, "10": 2})


def test_tnbc_is_built_with_patients_as_groups(tmp_path, slides):
    division = ["split.train_groups=(1,)", "split.valid_groups=(10,)", "split.test_groups=(2,)"]
    dataset = toys.build(tmp_path, source=slides, dataset="tnbc", gin_param=division)
    assert groups(dataset) == {"01_1": "1", "01_2": "1", "02_1": "2", "10_1": "10", "10_2": "10"}
    assert {split: table.case_id for split, table in dataset.manifest.splits.items()} == {
        "train": ["01_1", "01_2"], "valid": ["10_1", "10_2"], "test": ["02_1"]
    }  # fmt: skip
    assert dataset.label_map.class_names == ("background", "nucleus") and dataset.label_map.background == 0
    np.testing.assert_array_equal(pixels(dataset, "10_2")[0], toys.picture("10_2", (20, 20)))
    np.testing.assert_array_equal(pixels(dataset, "10_2")[1], toys.binary_mask("10_2", (20, 20)) // 255)


def test_the_shipped_division_of_tnbc_is_by_patient(tmp_path):
    eleven = write_slides(tmp_path / "slides", {f"{patient:02d}": 1 for patient in range(1, 12)})
    manifest = toys.build(tmp_path, source=eleven, dataset="tnbc", gin_file=["tnbc_split.gin"]).manifest
    patients = {split: sorted(map(int, table.group_id)) for split, table in manifest.splits.items()}
    assert patients == {"train": [1, 2, 3, 4], "valid": [5], "test": [6, 7, 8, 9, 10, 11]}


TNBC_MISTAKES = {
    "a missing mask": (lambda slides: (slides / "GT_01/01_2.png").unlink(), ["a mask in GT_XX", "01_2"]),
    "a missing image": (lambda slides: (slides / "Slide_01/01_2.png").unlink(), ["an image in Slide_XX", "01_2"]),
    "all masks of a patient": (lambda slides: shutil.rmtree(slides / "GT_10"), ["10_1, 10_2 (2 in all)"]),
    "a mask of another patient": (lambda slides: (slides / "GT_02/02_1.png").rename(slides / "GT_01/02_1.png"), ["GT_01/02_1.png", "Slide_02/"]),
    "two files of one name": (
        lambda slides: [shutil.copy(slides / f"{kind}_01/01_1.png", slides / f"{kind}_02/01_1.png") for kind in ("Slide", "GT")],
        ["Slide_01/01_1.png and", "Slide_02/01_1.png"],
    ),
    "a grey mask": (lambda slides: repaint(slides / "GT_01/01_1.png", 76), ["GT_01/01_1.png", "76 (1 pixels)"]),
    "no slides": (lambda slides: [shutil.rmtree(slides / f"Slide_{patient}") for patient in ("01", "02", "10")], ["no Slide_*"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", TNBC_MISTAKES)
def test_a_tnbc_folder_that_is_not_the_publishers_is_refused(tmp_path, slides, mistake):
    make, words = TNBC_MISTAKES[mistake]
    make(slides)
    error = str(refusal(tmp_path, source=slides, dataset="tnbc"))
    assert all(word in error for word in words), error


# Whatever form the files have


def test_formats_and_modes_may_be_mixed_in_one_folder(tmp_path):
    source, size = tmp_path / "source", (24, 40)
    smooth = np.array(Image.fromarray(toys.picture("smooth", (6, 10))).resize((40, 24), Image.Resampling.BICUBIC))
    mask = {name: toys.binary_mask(name, size) for name in ("deep", "turned", "rgba", "plain", "bmp")}
    deep = np.random.default_rng(1).integers(100, 4000, size, np.uint16)
    turn = Image.Exif()
    turn[0x0112] = 6  # shown turned by 90 degrees clockwise
    palette = Image.fromarray((mask["rgba"] == 0).astype(np.uint8))  # entry 0 is white, the foreground: indices are not ids
    palette.putpalette([255, 255, 255, 0, 0, 0])
    rgba = np.dstack([toys.picture("rgba", size), toys.picture("alpha", size, 1)])
    toys.write_case(source, "deep", deep, mask["deep"], ".tif")
    toys.write_case(source, "turned", np.rot90(smooth), mask["turned"], ".jpg", exif=turn, quality=95)
    toys.write_case(source, "rgba", rgba, palette)
    toys.write_case(source, "plain", smooth, np.stack([mask["plain"]] * 3, axis=-1), ".jpeg", quality=80)
    toys.write_case(source, "bmp", toys.picture("bmp", size), mask["bmp"], ".bmp")
    dataset = toys.build(tmp_path, source=source, name="mixed", gin_param=["split.proportions=(1,0,0)"])

    with Image.open(source / "images/turned.jpg") as stored:
        turned = np.rot90(np.array(stored), -1)
    expected = {
        "deep": np.rint((deep.astype(np.float64) - deep.min()) * 255 / (int(deep.max()) - deep.min()))[..., None].repeat(3, axis=-1),
        "turned": turned,
        "rgba": rgba[..., :3],
        "plain": np.array(Image.open(source / "images/plain.jpeg")),
        "bmp": toys.picture("bmp", size),
    }
    for case_id, image in expected.items():
        stored_image, truth = pixels(dataset, case_id)
        np.testing.assert_array_equal(stored_image, image, err_msg=case_id)
        np.testing.assert_array_equal(truth, mask[case_id] // 255, err_msg=case_id)
    assert dataset.manifest.converted == 4 and dataset.manifest.window == (deep.min(), deep.max())


def test_plain_files_are_stored_as_the_bytes_they_are(tmp_path):
    source = tmp_path / "source"
    toys.write_case(source, "a", toys.picture("a", (16, 16)), toys.binary_mask("a", (16, 16)), ".jpg", quality=70)
    toys.write_case(source, "b", toys.picture("b", (16, 16)), toys.binary_mask("b", (16, 16)))
    dataset = toys.build(tmp_path, source=source, name="toy", gin_param=["split.proportions=(1,0,0)"])
    for index, name in enumerate(("a.jpg", "b.png")):
        example = tf.train.Example.FromString(dataset.records("train").read(tf.constant(index, tf.int64)).numpy())
        assert example.features.feature["image"].bytes_list.value == [(source / "images" / name).read_bytes()]


def test_grey_images_make_a_dataset_of_one_channel(tmp_path):
    source = toys.write_folder(tmp_path / "source", ["train/a", "valid/b"], channels=1)
    dataset = toys.build(tmp_path, source=source, name="grey")
    assert dataset.manifest.channels == 1
    np.testing.assert_array_equal(pixels(dataset, "a")[0][..., 0], toys.picture("train/a", (16, 16), 1))


# Groups and splits

NAMES = [f"p{patient}_{number}" for patient in range(5) for number in range(3)]


@pytest.mark.parametrize("given", ["groups.csv", "another column", "--group_pattern"])
def test_groups_come_from_a_table_or_a_pattern_and_never_straddle_splits(tmp_path, given):
    source = toys.write_folder(tmp_path / "source", NAMES)
    options = {"groups.csv": {}, "another column": {"group_column": "patient"}, "--group_pattern": {"group_pattern": "^p([0-9])_"}}[given]
    if given != "--group_pattern":
        rows = [f"{name}.png,{name[1]}" for name in NAMES]
        (source / "groups.csv").write_text("\n".join([f"image,{'patient' if options else 'group'}", *rows]))
    dataset = toys.build(tmp_path, source=source, name="toy", **options)
    assert groups(dataset) == {name: name[1] for name in NAMES}
    of_split = {split: set(table.group_id) for split, table in dataset.manifest.splits.items()}
    assert of_split.keys() == {"train", "valid", "test"} and sum(map(len, of_split.values())) == 5


def test_another_seed_of_the_split_is_another_dataset(tmp_path):
    source = toys.write_folder(tmp_path / "source", NAMES)
    dataset = toys.build(tmp_path, source=source, name="toy", gin_param=["split.seed=0"])
    assert dataset.manifest.split["seed"] == 0
    error = refusal(tmp_path, source=source, name="toy", gin_param=["split.seed=1"])
    assert "in another split" in error.found


def test_without_groups_the_leak_that_nobody_can_see_is_warned_of(tmp_path, source, capsys):
    from flexseg.commands import build

    build.run(source=str(source), name="toy", data_dir=str(tmp_path / "data"))
    said = capsys.readouterr().out
    assert said.startswith("warning: no groups are known") and said.count("warning") == 1 and "--group_pattern" in said


def test_patterns_pair_masks_of_other_names(tmp_path):
    source = tmp_path / "source"
    for kind, affix in (("images", "img_{}"), ("masks", "{}_mask")):
        (source / kind).mkdir(parents=True)
        for name in ("x", "y"):
            value = toys.picture(name, (8, 8)) if kind == "images" else toys.binary_mask(name, (8, 8))
            Image.fromarray(value).save(source / kind / f"{affix.format(name)}.png")
    cure = refusal(tmp_path, source=source, name="toy").cure
    flags = dict(re.findall(r"--(image_pattern|mask_pattern)='([^']*)'", cure))
    assert flags == {"image_pattern": "img_{case}", "mask_pattern": "{case}_mask"}
    dataset = toys.build(tmp_path, source=source, name="toy", gin_param=["split.proportions=(0.5,0.5,0)"], **flags)
    np.testing.assert_array_equal(pixels(dataset, "x")[0], toys.picture("x", (8, 8)))
