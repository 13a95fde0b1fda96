"""What passes the inventory can be built; what does not is refused by name; what changed since is told in sentences."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexseg.errors import UserError
from flexseg.files.cases import discover
from flexseg.files.inventory import Inventory, take_inventory
from flexseg.files.label_map import LabelMap
from flexseg.files.manifest import Manifest, SplitTable
from flexseg.files.split import Split

BINARY = {"rgb_map": {(0, 0, 0): 0, (255, 255, 255): 1}}


def image(seed: int, *, size: tuple[int, int] = (6, 9), channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3) if channels == 3 else size, np.uint8)


def mask(foreground: int, *, size: tuple[int, int] = (6, 9), value: int = 255) -> np.ndarray:
    """`foreground` pixels of `value`, the rest 0."""
    return np.where(np.arange(size[0] * size[1]) < foreground, value, 0).astype(np.uint8).reshape(size)


def write(folder: Path, split: str, stem: str, picture: np.ndarray, truth: np.ndarray, ending: str = ".png") -> None:
    for kind, pixels in (("images", picture), ("masks", truth)):
        (folder / split / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / split / kind / f"{stem}{ending if kind == 'images' else '.png'}")


@pytest.fixture
def source(tmp_path) -> Path:
    """Three training cases (one empty), one of validation; binary masks."""
    for number, foreground in enumerate((10, 0, 54)):
        write(tmp_path, "train", f"t{number}", image(number), mask(foreground))
    write(tmp_path, "valid", "v0", image(9), mask(4))
    return tmp_path


def inventory(folder: Path, **options) -> Inventory:
    split = options.pop("split", Split())
    return take_inventory(split.assign(discover(folder).cases), **{"label_map": None} | options)


def refusal(folder: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        inventory(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("label_map", [None, LabelMap(**BINARY)])
def test_classes_and_empty_masks_are_counted_in_each_split(source, label_map):
    found = inventory(source, label_map=label_map)
    assert found.class_pixels == {"train": {"background": 98, "foreground": 64}, "valid": {"background": 50, "foreground": 4}}
    assert found.empty_masks == {"train": 1, "valid": 0}
    assert [entry.case.case_id for entry in found.cases["train"]] == ["t0", "t1", "t2"]
    assert (found.channels, found.window, found.converted, found.leaked, found.warnings) == (1, None, 0, False, [])
    entry = found.cases["valid"][0]
    assert (entry.height, entry.width, entry.case.split, entry.case.group) == (6, 9, "valid", "v0")


def test_ignored_pixels_are_counted_apart_and_make_no_foreground(source):
    write(source, "train", "t3", image(3), mask(7, value=128))
    found = inventory(source, label_map=LabelMap(**BINARY, ignore=(128,)))
    assert found.class_pixels["train"] == {"background": 98 + 47, "foreground": 64, "ignore": 7} and found.empty_masks["train"] == 2


def test_grey_and_colour_masks_of_one_meaning_are_counted_together(source):
    write(source, "train", "t3", image(3), np.stack([mask(5)] * 3, axis=-1))
    assert inventory(source).class_pixels["train"] == {"background": 98 + 49, "foreground": 64 + 5}


def test_one_coloured_image_makes_three_channels(source):
    write(source, "valid", "v1", image(1, channels=3), mask(4))
    assert inventory(source).channels == 3


def test_the_window_is_that_of_the_deep_training_images(source):
    for split, stem, low, high in (("train", "d0", 300, 900), ("train", "d1", 200, 700), ("valid", "d2", 5, 60_000)):
        write(source, split, stem, np.linspace(low, high, 54).astype(np.uint16).reshape(6, 9), mask(4), ".tif")
    found = inventory(source)
    assert found.window == (200.0, 900.0) and found.converted == 3
    for stem in ("d0", "d1"):
        (source / "train" / "images" / f"{stem}.tif").unlink()
        (source / "train" / "masks" / f"{stem}.png").unlink()
    assert inventory(source).window == (5.0, 60_000.0)


def test_sizes_are_compared_after_the_exif_turn_and_both_are_named(source):
    exif = Image.Exif()
    exif[274] = 6  # turned by 90 degrees
    Image.fromarray(image(1)).save(source / "train" / "images" / "t0.png", exif=exif)
    message = refusal(source)
    assert "masks/t0.png" in message and "9 x 6" in message and "6 x 9" in message
    write(source, "train", "t0", image(1), mask(10, size=(9, 6)))
    Image.fromarray(image(1)).save(source / "train" / "images" / "t0.png", exif=exif)
    found = inventory(source)
    assert (found.cases["train"][0].height, found.cases["train"][0].width, found.converted) == (9, 6, 1)


@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
def test_a_mask_that_is_a_pixel_off_is_refused(source, size):
    write(source, "valid", "v1", image(1), mask(12, size=size))
    assert f"{size[0]} x {size[1]}" in refusal(source)


def test_a_value_off_the_given_map_is_refused_with_file_value_and_count(source):
    write(source, "valid", "v1", image(1), mask(12, value=76))
    message = refusal(source, label_map=LabelMap(**BINARY))
    assert "valid/masks/v1.png" in message and "76 (12 pixels)" in message


def test_values_from_which_no_map_is_inferred_are_refused_with_a_binding_and_an_example(source):
    write(source, "train", "t3", image(3), mask(12, value=76))
    message = refusal(source)
    assert "label_map." in message and "76" in message and str(source / "train" / "masks") in message


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_truncated_file_is_refused_by_name(source, kind):
    path = source / "train" / kind / "t1.png"
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{kind}/t1.png" in refusal(source)


def test_an_image_of_too_many_pixels_is_refused_from_its_header(source):
    assert "at most 50 pixels" in refusal(source, max_pixels=50)


def test_the_first_bad_file_is_named_and_the_others_counted_up_to_twenty(source):
    for number in range(3):
        (source / "train" / "images" / f"t{number}.png").write_bytes(b"no image")
    message = refusal(source)
    assert "images/t0.png" in message and "2 others refused: images/t1.png, images/t2.png" in message and "at least" not in message
    for number in range(30):
        write(source, "train", f"x{number:02}", image(1), mask(1))
        (source / "train" / "images" / f"x{number:02}.png").write_bytes(b"no image")
    assert "at least 19 others" in refusal(source)


def test_progress_is_reported_after_every_case(source):
    calls = []
    inventory(source, progress=lambda done, number: calls.append((done, number)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_same_image_in_two_splits_brings_a_warning(source):
    shutil.copy(source / "train" / "images" / "t0.png", source / "valid" / "images" / "v0.png")
    (warning,) = inventory(source).warnings
    assert "train/t0.png = valid/v0.png" in warning


def test_an_allowed_leak_is_known_as_one(source):
    write(source, "valid", "t0", image(8), mask(3))
    assert inventory(source, split=Split(allow_leak=True)).leaked


def manifest_of(found: Inventory) -> Manifest:
    def table(entries) -> SplitTable:
        number = len(entries)
        return SplitTable(
            files=("a",),
            case_id=[e.case.case_id for e in entries],
            group_id=[e.case.group for e in entries],
            shard=[0] * number,
            offset=[0] * number,
            length=[0] * number,
            height=[e.height for e in entries],
            width=[e.width for e in entries],
            image_sha256=[e.image_sha256 for e in entries],
            mask_sha256=[e.mask_sha256 for e in entries],
        )

    return Manifest(
        dataset="d",
        version="1.0.0",
        channels=found.channels,
        window=found.window,
        converted=found.converted,
        leaked=found.leaked,
        split={},
        label_map=found.label_map.to_json(),
        fingerprint=found.fingerprint(),
        class_pixels=found.class_pixels,
        empty_masks=found.empty_masks,
        splits={name: table(entries) for name, entries in found.cases.items()},
    )


def test_the_fingerprint_is_that_of_the_contents_not_of_place_or_order(source, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy") / "elsewhere"
    shutil.copytree(source, copy)
    found = inventory(source)
    assert inventory(copy).fingerprint() == found.fingerprint()
    backwards = dataclasses.replace(found, cases={name: part[::-1] for name, part in reversed(found.cases.items())})
    assert backwards.fingerprint() == found.fingerprint()
    assert inventory(source, label_map=LabelMap(**BINARY)).fingerprint() == found.fingerprint()  # the map that was inferred, spelt out


def test_an_unchanged_source_differs_in_nothing(source, tmp_path):
    manifest_of(inventory(source)).save(tmp_path / "manifest.json")
    assert inventory(source).difference(Manifest.load(tmp_path / "manifest.json")) == []


def test_what_changed_is_told_in_sentences(source, tmp_path):
    manifest_of(inventory(source)).save(tmp_path / "manifest.json")
    built = Manifest.load(tmp_path / "manifest.json")
    for kind in ("images", "masks"):
        (source / "train" / kind / "t0.png").rename(source / "valid" / kind / "t0.png")
        (source / "train" / kind / "t1.png").unlink()
    write(source, "valid", "n0", image(20), mask(1))
    Image.fromarray(mask(5)).save(source / "valid" / "masks" / "v0.png")
    (source / "groups.csv").write_text("image,group\nt0,t0\nt2,p\nv0,v0\nn0,n0\n")
    found = inventory(source, label_map=LabelMap(**BINARY, off_map="nearest"))
    assert found.fingerprint() != built.fingerprint
    assert found.difference(built) == [
        "1 case added: n0",
        "1 case removed: t1",
        "1 case in another split: t0",
        "1 case in another group: t2",
        "1 case with another mask: v0",
        "label_map.off_map was refuse, is nearest",
    ]
