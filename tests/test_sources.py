"""What a dataset holds of its source: the three datasets, formats and modes, groups and splits."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
import toys
from PIL import Image

from flexseg.commands import build

SMALL_NUCLEI = ["synthetic_nuclei.slides=(1,1,0)", "synthetic_nuclei.images_per_slide=2", "synthetic_nuclei.image_size=(32,48)"]


# The three datasets


def test_synthetic_nuclei_are_built_by_slide_with_instances(tmp_path):
    dataset = toys.build(tmp_path, source=None, dataset="synthetic_nuclei", gin_param=SMALL_NUCLEI)
    assert dataset.name == "synthetic_nuclei" and toys.groups(dataset) == {
        "slide_00_000": "slide_00", "slide_00_001": "slide_00", "slide_01_000": "slide_01", "slide_01_001": "slide_01"
    }  # fmt: skip
    for example in tfds.builder_from_directory(str(dataset.directory)).as_dataset(split="train").as_numpy_iterator():
        assert example["instances"].dtype == np.uint16 and example["instances"].shape == (32, 48, 1)
        np.testing.assert_array_equal(example["instances"] > 0, example["mask"] == 1)
    before = toys.snapshot(tmp_path)
    toys.build(tmp_path, source=None, dataset="synthetic_nuclei", gin_param=SMALL_NUCLEI)
    assert toys.snapshot(tmp_path) == before
    error = toys.refusal(tmp_path, source=None, dataset="synthetic_nuclei", gin_param=[*SMALL_NUCLEI, "synthetic_nuclei.seed=1"])
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
    assert toys.groups(dataset) == {"01_1": "1", "01_2": "1", "02_1": "2", "10_1": "10", "10_2": "10"}
    assert {split: table.case_id for split, table in dataset.manifest.splits.items()} == {
        "train": ["01_1", "01_2"], "valid": ["10_1", "10_2"], "test": ["02_1"]
    }  # fmt: skip
    assert dataset.label_map.class_names == ("background", "nucleus") and dataset.label_map.background == 0
    np.testing.assert_array_equal(toys.pixels(dataset, "10_2")[0], toys.picture("10_2", (20, 20)))
    np.testing.assert_array_equal(toys.pixels(dataset, "10_2")[1], toys.binary_mask("10_2", (20, 20)) // 255)


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
    "a grey mask": (lambda slides: toys.repaint(slides / "GT_01/01_1.png", 76), ["GT_01/01_1.png", "76 (1 pixels)"]),
    "no slides": (lambda slides: [shutil.rmtree(slides / f"Slide_{patient}") for patient in ("01", "02", "10")], ["no Slide_*"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", TNBC_MISTAKES)
def test_a_tnbc_folder_that_is_not_the_publishers_is_refused(tmp_path, slides, mistake):
    make, words = TNBC_MISTAKES[mistake]
    make(slides)
    error = str(toys.refusal(tmp_path, source=slides, dataset="tnbc"))
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
        stored_image, truth = toys.pixels(dataset, case_id)
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
    np.testing.assert_array_equal(toys.pixels(dataset, "a")[0][..., 0], toys.picture("train/a", (16, 16), 1))


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
    assert toys.groups(dataset) == {name: name[1] for name in NAMES}
    of_split = {split: set(table.group_id) for split, table in dataset.manifest.splits.items()}
    assert of_split.keys() == {"train", "valid", "test"} and sum(map(len, of_split.values())) == 5


def test_another_seed_of_the_split_is_another_dataset(tmp_path):
    source = toys.write_folder(tmp_path / "source", NAMES)
    dataset = toys.build(tmp_path, source=source, name="toy", gin_param=["split.seed=0"])
    assert dataset.manifest.split["seed"] == 0
    error = toys.refusal(tmp_path, source=source, name="toy", gin_param=["split.seed=1"])
    assert "in another split" in error.found


def test_without_groups_the_leak_that_nobody_can_see_is_warned_of(tmp_path, capsys):
    source = toys.write_folder(tmp_path / "source", NAMES)
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
    cure = toys.refusal(tmp_path, source=source, name="toy").cure
    flags = dict(re.findall(r"--(image_pattern|mask_pattern)='([^']*)'", cure))
    assert flags == {"image_pattern": "img_{case}", "mask_pattern": "{case}_mask"}
    dataset = toys.build(tmp_path, source=source, name="toy", gin_param=["split.proportions=(0.5,0.5,0)"], **flags)
    np.testing.assert_array_equal(toys.pixels(dataset, "x")[0], toys.picture("x", (8, 8)))


def write_derived(folder: Path, names: dict[str, list[str]]) -> Path:
    """The reference system's layout: {split: stems}."""
    for split, stems in names.items():
        for stem in stems:
            mask = toys.binary_mask(stem, (20, 20)).astype(int)
            toys.write_case(
                folder, f"{split}/{stem}", toys.picture(stem, (20, 20)), np.clip(mask + np.where(mask > 0, -9, 9), 0, 255).astype(np.uint8)
            )
    return folder


def test_tnbc_knows_the_patients_behind_the_reference_s_numbers(tmp_path):
    names = {"train": ["1001", "hflipped_1008", "barrdistorted_1001_0.3_0.3_1034"], "valid": ["1010", "rotated_90_1023"], "test": ["1050"]}
    source = write_derived(tmp_path / "dataset" / "TNBC", names)
    error = toys.refusal(tmp_path, source=source, dataset="tnbc")
    assert "group 2 (train/images/hflipped_1008.png, valid/images/1010.png)" in error.found and "split.resplit" in error.cure
    dataset = toys.build(tmp_path, source=source, dataset="tnbc", gin_param=["split.resplit=True"])
    assert toys.groups(dataset) == {
        "1001": "1", "hflipped_1008": "2", "1010": "2", "rotated_90_1023": "4", "barrdistorted_1001_0.3_0.3_1034": "8", "1050": "11",
    }  # fmt: skip
    for split, table in dataset.manifest.splits.items():
        for number, case in enumerate(table.case_id):
            np.testing.assert_array_equal(dataset.records(split).truth(number), toys.binary_mask(case, (20, 20)) > 0)
    toys.write_case(source, "train/1051", toys.picture("x", (20, 20)), toys.binary_mask("x", (20, 20)))
    assert "1001 to 1050" in toys.refusal(tmp_path, source=source, dataset="tnbc", name="other").expected
