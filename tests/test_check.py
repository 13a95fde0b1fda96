"""`flexseg check`: every kind of finding from a folder that has it, copies in any orientation, and damages of every kind, none of which passes wrongly."""

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import toy_runs
import toys
from PIL import Image

import flexseg
from flexseg.checks.findings import changes, find
from flexseg.checks.likeness import alike, fingerprint, oriented
from flexseg.checks.survey import Surveyed, survey
from flexseg.datasets.contents import FileContents
from flexseg.errors import UserError
from flexseg.files.cases import Case, discover
from flexseg.files.inventory import take_inventory
from flexseg.files.manifest import Manifest
from flexseg.files.split import Split


def scene(seed, size=(96, 128), channels=3):
    """A picture with shapes in it, unlike any other seed's."""
    rng = np.random.default_rng(seed)
    picture = cv2.resize(rng.integers(60, 200, (5, 7, channels), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC).reshape(*size, channels)
    for _ in range(6):
        center = (int(rng.integers(size[1])), int(rng.integers(size[0])))
        cv2.circle(picture, center, int(rng.integers(5, 25)), tuple(int(v) for v in rng.integers(0, 255, channels)), -1)
    return picture


def mask_of(seed, size=(96, 128)):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.where((y - 40) ** 2 + (x - 30 - 3 * seed) ** 2 < 300, 255, 0).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Six cases in three splits, nothing wrong with them."""
    place = tmp_path / "set"
    for seed, split in enumerate(("train", "train", "train", "valid", "valid", "test")):
        put(place / split / "images" / f"case{seed}.png", scene(seed))
        put(place / split / "masks" / f"case{seed}.png", mask_of(seed))
    (place / "groups.csv").write_text("image,group\n" + "".join(f"case{seed},p{seed}\n" for seed in range(6)))
    return place


def put(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def check(folder, **flags):
    with toy_runs.command() as said:
        findings = flexseg.check(source=str(folder), output=str(folder.parent / "out"), **flags)
    return {finding.code: finding for finding in findings}, said.getvalue()


# Copies


@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize("change", ["none", "half", "jpeg", "bright", "grey", "16 bits"])
def test_a_copy_is_found_in_every_orientation_and_after_every_change(orientation, change):
    turned = np.ascontiguousarray(oriented(scene(3, (128, 128)))[orientation])
    if change == "half":
        turned = cv2.resize(turned, (64, 64), interpolation=cv2.INTER_AREA)
    elif change == "jpeg":
        turned = cv2.imdecode(cv2.imencode(".jpg", turned, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_UNCHANGED)
    elif change == "bright":
        turned = np.clip(turned * 1.15 + 8, 0, 255).astype(np.uint8)
    elif change == "grey":
        turned = cv2.cvtColor(turned, cv2.COLOR_RGB2GRAY)
    elif change == "16 bits":
        turned = turned.astype(np.uint16) * 200
    (pair,) = alike([fingerprint(scene(3, (128, 128))), fingerprint(turned)])
    if orientation == 0:
        assert pair.orientation == 0


def test_other_pictures_are_no_copies_and_empty_ones_are_not_compared():
    prints = [fingerprint(scene(seed)) for seed in range(300)]
    assert list(alike(prints)) == []
    blank = fingerprint(np.full((50, 50), 255, np.uint8))
    assert blank.flat and list(alike([blank, blank])) == []


def test_a_thousand_frames_that_are_alike_are_told_once_each():
    """And not in half a million pairs; a copy in another split is told whatever stands beside it."""
    frame = fingerprint(toys.picture("frame", (64, 64)))
    splits = ["train"] * 1000 + ["valid"]
    entries = [
        Surveyed(case=Case(f"f{number}", Path(f"f{number}.png"), Path(f"f{number}.png"), "scan", split), image_sha256=f"{number}", likeness=frame)
        for number, split in enumerate(splits)
    ]
    began = time.perf_counter()
    found = {finding.code: finding for finding in find(entries, None)}
    assert time.perf_counter() - began < 30
    assert len(found["near_copy"].names) == 999 and len(found["near_copy_across_splits"].names) == 1000


def test_copies_are_told_by_where_they_stand(folder):
    shutil.copy(folder / "train/images/case0.png", folder / "test/images/case5.png")
    shutil.copy(folder / "train/masks/case0.png", folder / "test/masks/case5.png")
    put(folder / "valid/images/case3.png", np.rot90(scene(1), 2))
    put(folder / "train/images/case2.png", scene(1)[:, ::-1])
    found, _ = check(folder)
    assert found["exact_copy_across_splits"].severity == "error" and "train/case0.png = test/case5.png" in found["exact_copy_across_splits"].names
    assert found["near_copy_across_splits"].names == ("train/case1.png = valid/case3.png", "train/case2.png = valid/case3.png")
    assert found["near_copy"].severity == "warning" and found["near_copy"].names == ("train/case1.png = train/case2.png",)


# Findings


def test_a_sound_folder_has_none(folder):
    found, said = check(folder)
    assert not found and "nothing was found" in said and "train            3       3" in said


def test_one_image_under_two_masks_and_one_mask_under_two_images(folder):
    shutil.copy(folder / "train/images/case0.png", folder / "train/images/case1.png")
    shutil.copy(folder / "valid/masks/case3.png", folder / "valid/masks/case4.png")
    found, _ = check(folder)
    assert found["two_masks"].severity == "error" and found["two_masks"].names == ("train/case0.png = train/case1.png",)
    assert found["one_mask"].names == ("valid/case3.png = valid/case4.png",)


def test_groups_in_two_splits(folder):
    table = folder / "groups.csv"
    table.write_text(table.read_text().replace("case3,p3", "case3,p0"))
    found, _ = check(folder)
    assert found["leak"].severity == "error" and found["leak"].names == ("p0",) and "split.resplit=True" in found["leak"].text


def test_empty_masks_absent_classes_sizes_and_modes(folder):
    put(folder / "train/masks/case0.png", np.zeros((96, 128), np.uint8))
    put(folder / "train/images/case1.png", scene(1, (64, 64)))
    put(folder / "train/masks/case1.png", mask_of(1, (64, 64)))
    put(folder / "train/images/case2.png", scene(2)[..., 0])
    found, _ = check(folder)
    assert found["empty_masks"].names == ("train/case0.png",) and found["empty_masks"].severity == "note"
    assert "64 x 64: 1" in found["sizes"].names and "grey, 8 bits: 1" in found["modes"].names
    params = ["label_map.rgb_map={(0,0,0):0,(255,255,255):1,(9,9,9):2}", "label_map.class_names=('a','b','c')"]
    assert check(folder, gin_param=params)[0]["absent_class"].names == ("c",)


def test_what_cannot_be_used_is_named_and_the_rest_still_looked_at(folder):
    image = folder / "train/images/case0.png"
    image.write_bytes(image.read_bytes()[:200])
    put(folder / "valid/masks/case3.png", mask_of(3, (50, 50)))
    with toy_runs.command():
        findings = flexseg.check(source=str(folder), output=str(folder.parent / "out"))
    texts = [finding.text for finding in findings if finding.code == "unusable"]
    assert len(texts) == 2 and any("case0.png" in text and "complete PNG" in text for text in texts)
    assert any("the size of case3.png, 96 x 128" in text and "50 x 50" in text for text in texts)


def test_masks_that_need_a_label_map_bring_its_binding(folder):
    for path in folder.rglob("masks/*.png"):
        colored = np.where(np.array(Image.open(path))[..., None] > 0, np.uint8([9, 200, 3]), np.uint8([60, 16, 152]))
        put(path, colored)
    found, _ = check(folder)
    assert found["labels"].severity == "error" and "label_map.rgb_map={(60,16,152):0,(9,200,3):1}" in found["labels"].text
    assert not check(folder, gin_param=["label_map.rgb_map={(60,16,152):0,(9,200,3):1}"])[0]


def test_what_does_not_pair_is_said(folder):
    (folder / "train/masks/case0.png").unlink()
    found, _ = check(folder)
    assert "case0.png" in found["pairing"].text and found["pairing"].severity == "error"


def test_the_report_holds_all_and_its_page_escapes_names(folder):
    (folder / "train/images/case0.png").rename(folder / "train/images/<b>case0.png")
    (folder / "train/masks/case0.png").rename(folder / "train/masks/<b>case0.png")
    table = folder / "groups.csv"
    table.write_text(table.read_text().replace("case0,p0", "<b>case0,p0"))
    put(folder / "train/masks/<b>case0.png", np.zeros((96, 128), np.uint8))
    found, _ = check(folder)
    out = folder.parent / "out"
    content = json.loads((out / "check.json").read_text())
    assert [finding["code"] for finding in content["findings"]] == list(found) and len(content["cases"]) == 6
    assert content["splits"]["train"]["cases"] == 3 and sum(content["splits"]["train"]["shares"].values()) == pytest.approx(1)
    page = (out / "check.html").read_text()
    assert "<b>case0" not in page and "&lt;b&gt;case0.png" in page and "<script" not in page and "http" not in page
    for name in ("splits", "classes", "sizes", "samples_train", "samples_valid", "samples_test"):
        assert f"src='{name}.png'" in page and Image.open(out / f"{name}.png").size[0] > 200


def test_a_manifest_names_what_changed(folder, tmp_path):
    built = toys.build(tmp_path, source=folder, name="before")
    manifest = str(built.directory / "manifest.json")
    assert not check(folder, manifest=manifest)[0]
    put(folder / "train/images/case0.png", scene(50))
    put(folder / "train/masks/case1.png", mask_of(9))
    put(folder / "train/images/new.png", scene(60))
    put(folder / "train/masks/new.png", mask_of(6))
    for kind in ("images", "masks"):
        (folder / "test" / kind / "case5.png").unlink()
    put(folder / "test/images/other.png", scene(70))
    put(folder / "test/masks/other.png", mask_of(7))
    (folder / "groups.csv").write_text(
        "image,group\n" + "".join(f"{case},p{case[-1]}\n" for case in ("case0", "case1", "case2", "case3", "case4", "new", "other"))
    )
    found, _ = check(folder, manifest=manifest)
    assert found["changed_image"].names == ("case0",) and found["changed_mask"].names == ("case1",)
    assert found["changed_added"].names == ("new", "other") and found["changed_missing"].names == ("case5",)


def test_a_built_dataset_is_read_through_and_a_damaged_record_named(folder, tmp_path):
    built = toys.build(tmp_path, source=folder, name="whole")
    place = {"dataset": "whole", "data_dir": str(built.directory.parents[2])}
    with toy_runs.command() as said:
        assert flexseg.check(**place) == [] and "6 records" in said.getvalue()
    shard = next(built.directory.glob("*-train.tfrecord*"))
    data = bytearray(shard.read_bytes())
    data[-50] ^= 4
    shard.write_bytes(data)
    with toy_runs.command():
        (finding,) = flexseg.check(**place)
    assert finding.severity == "error" and shard.name in finding.text and finding.names[0] in finding.text


def test_the_shares_are_those_of_the_build_also_of_masks_with_more_colours_than_are_kept(tmp_path):
    for number in range(3):
        grey = cv2.GaussianBlur(mask_of(number), (0, 0), 9)
        assert len(np.unique(grey)) > 100
        toys.write_case(tmp_path / "set" / "train", f"c{number}", scene(number), cv2.merge([grey] * 3))
    params = ["label_map.rgb_map={(0,0,0):0,(255,255,255):1}", "label_map.off_map='nearest'"]
    with toy_runs.command():
        flexseg.check(source=str(tmp_path / "set"), output=str(tmp_path / "out"), gin_param=params)
    pixels = toys.build(tmp_path, source=tmp_path / "set", name="set", gin_param=params).manifest.class_pixels["train"]
    shares = json.loads((tmp_path / "out" / "check.json").read_text())["splits"]["train"]["shares"]
    assert shares == pytest.approx({name: number / sum(pixels.values()) for name, number in pixels.items()})


@pytest.mark.parametrize(("spoil", "code"), [(None, 0), ("copy", 3), ("cut", 1)])
def test_the_exit_code_tells_the_severity(folder, spoil, code):
    if spoil == "copy":
        put(folder / "train/images/case1.png", scene(0)[:, ::-1])
    elif spoil == "cut":
        image = folder / "train/images/case0.png"
        image.write_bytes(image.read_bytes()[:100])
    words = [sys.executable, "-m", "flexseg.commands.dispatcher", "check", f"--source={folder}", f"--output={folder.parent / 'out'}"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [({}, "one of them, found none"), ({"source": "a", "dataset": "b"}, "found both"), ({"source": "/nowhere"}, "a folder of images")],
)
def test_a_mistake_in_the_flags_is_said(flags, words):
    with pytest.raises(UserError, match=words):
        flexseg.check(**flags)


# Damages


def damaged(folder, rng):
    """Does one thing to one file or two; returns the names that a refusal may speak of."""
    kind = rng.choice(["flip", "cut", "swap", "rename", "mode", "shift", "empty", "junk", "pixels"])
    files = sorted(path for path in folder.rglob("*.png"))
    path = files[rng.integers(len(files))]
    data = bytearray(path.read_bytes())
    others = [other for other in files if other.parent.name == path.parent.name and other != path]
    other = others[rng.integers(len(others))]
    if kind == "flip":
        for place in rng.integers(len(data), size=rng.integers(1, 5)):
            data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
    elif kind == "cut":
        path.write_bytes(data[: rng.integers(len(data))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "junk":
        path.write_bytes(rng.bytes(500))
    elif kind == "swap":
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
    elif kind == "rename":
        path.rename(path.with_name(f"renamed{rng.integers(100)}.png"))
    elif kind == "mode":
        image = Image.open(io.BytesIO(data))
        image.convert(str(rng.choice(["RGBA", "P", "L", "1", "RGB"]))).save(path)
    elif kind == "shift":
        pixels = np.array(Image.open(io.BytesIO(data)))
        put(path, np.clip(pixels.astype(int) + int(rng.choice([-3, 1, 40])), 0, 255).astype(np.uint8))
    elif kind == "pixels":
        pixels = np.array(Image.open(io.BytesIO(data)))
        pixels[10:14, 10:14] = 255 - pixels[10:14, 10:14]
        put(path, pixels)
    return kind, {path.name, other.name, path.parent.name, path.stem}


def contents_of(folder):
    inventory = take_inventory(Split().assign(discover(folder).cases), label_map=None, max_pixels=10**6)
    contents = FileContents(inventory, split=Split(), max_pixels=10**6)
    return {example.case_id: example.mask for split in contents.sizes() for example in contents.examples(split)}


@pytest.mark.slow
def test_300_damages_build_right_or_are_refused_by_name_or_are_told_from_the_manifest(folder, tmp_path):
    manifest = Manifest.load(toys.build(tmp_path, source=folder, name="before").directory / "manifest.json")
    right, outcomes = contents_of(folder), {}
    for seed in range(300):
        place = tmp_path / "damaged"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder, place)
        kind, names = damaged(place, np.random.default_rng(seed))
        began = time.monotonic()
        try:
            found = contents_of(place)
        except UserError as error:
            outcome = "refused"
            assert any(name in str(error) for name in names) or "renamed" in str(error), (seed, kind, str(error))
        else:
            same = found.keys() == right.keys() and all(np.array_equal(found[case], right[case]) for case in right)
            told = changes(list(survey(discover(place).cases, label_map=None, max_pixels=10**6)), manifest)
            untouched = all((place / path.relative_to(folder)).read_bytes() == path.read_bytes() for path in folder.rglob("*.png"))
            assert told or untouched, (seed, kind, "passes, and the manifest does not tell")
            outcome = "right" if same else "told"
        assert time.monotonic() - began < 20, (seed, kind)
        outcomes.setdefault(kind, set()).add(outcome)
    assert set().union(*outcomes.values()) == {"refused", "right", "told"} and len(outcomes) == 9, outcomes
