"""breastdm and malignant_breastdm, from dummy files in the release's layout: JPEG masks, patients in two splits, phases, empty slices."""

import zlib

import cv2
import numpy as np
import pytest
import toys

from flexseg.commands import build
from flexseg.errors import UserError

RESPLIT = "split.resplit=True"


def picture(seed):
    return cv2.resize(np.random.default_rng(seed).integers(0, 255, (6, 6), np.uint8), (40, 40))


def tumour(number):
    """Empty for every third slice; else a disc."""
    y, x = np.mgrid[:40, :40]
    return np.where((number % 3 != 0) & ((y - 20) ** 2 + (x - 10 - number) ** 2 < 36), 255, 0).astype(np.uint8)


def write(source, split, patient, *, phases=("SUB1", "SUB2"), slices=3, mask_suffix=".png"):
    for phase in phases:
        for number in range(slices):
            for kind, pixels, suffix in (
                ("images", picture(zlib.crc32(f"{patient}{phase}{number}".encode())), ".jpg"),
                ("labels", tumour(number), mask_suffix),
            ):
                path = source / "seg" / split / kind / patient / phase / f"p-{number:03d}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 60])


@pytest.fixture
def release(tmp_path):
    """Six patients of both kinds; one of them in two of the release's splits, and its masks JPEG files."""
    source = tmp_path / "BreaDM"
    for split, patients in {
        "train": ("BreaDM-Ma-1801", "BreaDM-Ma-1802", "BreaDM-Be-1701", "BreaDM-Be-1702"),
        "val": ("BreaDM-Ma-1803",),
        "test": ("BreaDM-Be-1703",),
    }.items():
        for patient in patients:
            write(source, split, patient)
    write(source, "test", "BreaDM-Ma-1801", phases=("SUB3",), mask_suffix=".jpg")
    return source


def masks_of(dataset):
    return {
        case: dataset.records(split).truth(number) for split, table in dataset.manifest.splits.items() for number, case in enumerate(table.case_id)
    }


def test_three_classes_by_the_patient_s_kind_and_the_patient_is_the_group(tmp_path, release):
    dataset = toys.build(tmp_path, source=release, dataset="breastdm", gin_param=[RESPLIT])
    assert dataset.label_map.class_names == ("background", "benign", "malignant")
    masks, groups = masks_of(dataset), toys.groups(dataset)
    assert len(masks) == 7 * 6 - 3 and groups["train_BreaDM-Ma-1801_SUB2_p-001"] == groups["test_BreaDM-Ma-1801_SUB3_p-001"] == "BreaDM-Ma-1801"
    for case, mask in masks.items():
        expected = tumour(int(case[-3:])) > 0
        class_id = 2 if "-Ma-" in case else 1
        if "SUB3" in case:  # its mask was a JPEG: what is not black is not yet tumour
            assert set(np.unique(mask)) <= {0, class_id} and np.mean((mask == class_id) != expected) < 0.02
        else:
            np.testing.assert_array_equal(mask, np.where(expected, class_id, 0))
    for split, table in dataset.manifest.splits.items():
        others = {group for name, other in dataset.manifest.splits.items() if name != split for group in other.group_id}
        assert not set(table.group_id) & others
    pixels = dataset.manifest.class_pixels
    assert sum(part["malignant"] for part in pixels.values()) == sum(int((mask == 2).sum()) for mask in masks.values())
    assert sum(dataset.manifest.empty_masks.values()) == sum(not mask.any() for mask in masks.values()) == 13


def test_a_patient_in_two_of_the_release_s_splits_is_refused_by_name(tmp_path, release):
    error = toys.refusal(tmp_path, source=release, dataset="breastdm")
    assert "BreaDM-Ma-1801" in error.found and "split.resplit=True" in error.cure


def test_the_malignant_ones_are_two_classes(tmp_path, release):
    dataset = toys.build(tmp_path, source=release / "seg", dataset="malignant_breastdm", gin_param=[RESPLIT])
    assert dataset.label_map.class_names == ("background", "malignant") and all("-Ma-" in case for case in masks_of(dataset))
    assert {int(value) for mask in masks_of(dataset).values() for value in np.unique(mask)} == {0, 1}


def test_settings_choose_splits_phases_cases_and_leave_empty_slices_out(tmp_path, release, capsys):
    params = ["malignant_breastdm.source_splits=('train',)", "malignant_breastdm.phases=('SUB1',)", RESPLIT, "split.proportions=(0.5,0.5,0)"]
    arguments = {"source": str(release), "dataset": "malignant_breastdm", "data_dir": str(tmp_path / "data")}
    build.run(**arguments, name="one", gin_param=params)
    capsys.readouterr()
    dataset = toys.build(tmp_path, source=release, dataset="malignant_breastdm", name="two", gin_param=params)
    assert sorted(masks_of(dataset)) == [f"BreaDM-Ma-{patient}_SUB1_p-{number:03d}" for patient in (1801, 1802) for number in range(3)]
    build.run(**arguments, name="three", gin_param=[*params, "malignant_breastdm.keep_empty=False"])
    assert "2 of 6 slices without tumour are left out" in capsys.readouterr().out
    dataset = toys.build(tmp_path, source=release, dataset="malignant_breastdm", name="four", gin_param=[*params, "malignant_breastdm.most_cases=4"])
    assert len(masks_of(dataset)) == 4


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda seg: next(seg.glob("train/labels/*/*/p-000.png")).unlink(), "a mask below labels/"),
        (lambda seg: next(seg.glob("train/images/*/*/p-000.jpg")).unlink(), "an image below images/"),
        (lambda seg: (seg / "val" / "images" / "BreaDM-Ma-1803").rename(seg / "val" / "images" / "BreaDM-Xx-1803"), "a patient called"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path, release, spoil, words):
    spoil(release / "seg")
    assert words in toys.refusal(tmp_path, source=release, dataset="breastdm", gin_param=[RESPLIT]).expected


@pytest.mark.parametrize(("binding", "words"), [("source_splits=('trian',)", "'train', 'val', 'test'"), ("most_cases=-1", r"0 \(all\) or more")])
def test_a_setting_that_cannot_work_is_refused(tmp_path, release, binding, words):
    with pytest.raises(UserError, match=words):
        build.run(source=str(release), dataset="breastdm", data_dir=str(tmp_path / "data"), gin_param=[f"breastdm.{binding}"])


def test_another_folder_is_told_the_layout(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "seg/train" in toys.refusal(tmp_path, source=tmp_path / "empty", dataset="breastdm").expected
