"""`flexseg derive`: image and mask stay together, formulas agree with SciPy and with the training's own, copies never leave training."""

import csv
import shutil
import time

import cv2
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
import toy_runs
import toys

import flexseg
from flexseg.data import distortions, geometry
from flexseg.derivation import deformations
from flexseg.derivation.derive import derive_folder
from flexseg.derivation.variants import Derive
from flexseg.errors import UserError
from flexseg.files.cases import Case
from flexseg.files.images import read_mask, read_pixels

EVERYTHING = Derive(
    rotations=(90, 180, 270, 30, -10.5), shears=(0.1,), shrinks=(0.8,), brightenings=((1.2, 10),), sharpenings=(1.0,), blurs=((3, 3),),
    elastic_sigmas=(8,), distortions=(0.02, 0.04),
)  # fmt: skip
SIZE = (96, 128)
COLOR = ("brightened", "sharpened", "blurred")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def disc(size=256, radius=60):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return ((y + 12) ** 2 + (x - 17) ** 2 <= radius**2).astype(np.uint8)


@pytest.mark.parametrize("variant", EVERYTHING.variants(), ids=lambda variant: variant.prefix)
def test_image_and_mask_move_together(variant):
    mask = disc()
    image, warped = variant.apply(np.repeat(255 * mask[..., None], 3, -1), mask, np.random.default_rng(0))
    seen = image[..., 0] >= 127.5
    assert 2 * np.sum(seen & (warped == 1)) / (seen.sum() + warped.sum()) >= 0.99
    assert set(np.unique(warped)) <= {0, 1} and image.dtype == np.uint8
    assert np.array_equal(warped, mask) == variant.prefix.startswith(COLOR)


def test_the_defaults_are_the_reference_s_21_variants():
    prefixes = [variant.prefix for variant in Derive().variants()]
    assert len(prefixes) == len(set(prefixes)) == 21
    assert {"hflipped", "vflipped", "rotated_270", "deformed_alpha_100_sigma_9", "distorted_0.03_sigma_40"} < set(prefixes)


# Formulas


def test_the_elastic_displacement_has_the_strength_that_the_reference_s_had():
    rng = np.random.RandomState(137)
    theirs = scipy.ndimage.gaussian_filter(rng.rand(256, 256, 3) * 2 - 1, 9, mode="constant", cval=0) * 1300
    y, x = deformations.elastic_map((256, 256), 2 * np.random.default_rng(0).random((2, 256, 256), dtype=np.float32) - 1, alpha=100, sigma=9)
    ours = y - np.arange(256, dtype=np.float32)[:, None]
    inner = np.s_[40:-40, 40:-40]
    assert np.std(ours[inner]) == pytest.approx(np.std(theirs[inner]), rel=0.2)


def test_smoothing_is_scipy_s():
    plane = noise(*SIZE)
    np.testing.assert_allclose(deformations.smooth(plane, 7.0), scipy.ndimage.gaussian_filter(plane, 7.0, mode="mirror"), atol=1e-5)


def test_the_distortion_follows_the_slope_that_a_derivative_filter_finds():
    plane = noise(*SIZE)
    y, x = deformations.distortion_map(SIZE, plane, amount=0.03, sigma=8.0)
    for axis, found in enumerate((y - np.mgrid[:96, :128][0], x - np.mgrid[:96, :128][1])):
        assert np.abs(found).max() == pytest.approx(0.03 * 128, rel=1e-4)
        slope = scipy.ndimage.gaussian_filter(plane, 8.0, order=tuple(int(axis == a) for a in (0, 1)), mode="mirror")
        assert np.corrcoef(found[4:-4, 4:-4].ravel(), slope[4:-4, 4:-4].ravel())[0, 1] > 0.999


def test_a_barrel_is_the_reference_s_loop():
    (height, width), (cx, cy), radius, amount = SIZE, (0.3 * SIZE[1], 0.7 * SIZE[0]), 0.3 * SIZE[1], -0.3
    y, x = deformations.barrel_map(SIZE, center=(0.3, 0.7), radius=0.3, amount=amount)
    for row in range(0, height, 7):
        for column in range(0, width, 7):
            dy, dx = row - cy, column - cx
            distance = np.hypot(dy, dx)
            factor = np.sin(np.pi * distance / radius / 2) ** amount if 0.5 < distance < radius else 1.0
            if distance > 0.5:
                assert (y[row, column], x[row, column]) == pytest.approx((cy + factor * dy, cx + factor * dx), abs=1e-3)


def test_files_and_training_use_one_formula():
    image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
    plain = [tf.constant(base) for base in deformations.identity_map(SIZE)]
    barrel = {"center": (0.4, 0.6), "radius": 0.35, "amount": 0.3}
    surface = noise(*SIZE)
    slope = distortions.surface_slope(tf.constant(surface), size=SIZE, sigma=12.0) * (0.03 * SIZE[1])
    turn = {"rotation_degrees": 25.0, "scale_factor": 0.9, "shear_y": 0.1, "shear_x": 0.05}
    pairs = [
        (deformations.barrel_map(SIZE, **barrel), distortions.barrel(*plain, size=SIZE, **barrel)),
        (deformations.distortion_map(SIZE, surface, amount=0.03, sigma=12.0), (plain[0] + slope[0], plain[1] + slope[1])),
        (deformations.affine_map(SIZE, **turn), geometry.source_coordinates(SIZE, geometry.affine_matrix(**turn), None)),
    ]
    for there, here in pairs:
        np.testing.assert_allclose(there, [plane.numpy() for plane in here], atol=2e-3)
        files, training = deformations.warp_image(image, *there), geometry.sample_image(tf.constant(image), *here).numpy()
        assert np.abs(files - training).max() <= 4, "OpenCV rounds coordinates to 1/32 of a pixel"
        assert np.abs(files - training).mean() < 0.6
        same = deformations.warp_mask(image[..., 0], *there) == geometry.sample_mask(tf.constant(image[..., :1]), *here)[..., 0]
        inside = (here[0] > 0) & (here[0] < SIZE[0] - 1) & (here[1] > 0) & (here[1] < SIZE[1] - 1)
        assert np.mean(same[inside]) > 0.999


def test_brightness_and_sharpening_of_16_bits_keep_their_range():
    deep = (np.arange(65536, dtype=np.uint16)).reshape(256, 256)
    assert deformations.brighten(deep, 1.2, 10).max() == 65535 and deformations.brighten(deep, 1.0, 10)[0, 0] == 2570
    kernel = np.array([[-1, -1, -1], [-1, 9, -1], [-1, -1, -1]], float)
    expected = np.clip(scipy.ndimage.convolve(deep.astype(float), kernel, mode="mirror"), 0, 65535)
    np.testing.assert_array_equal(deformations.sharpen(deep, 1.0), expected)


@pytest.mark.slow
def test_a_pair_s_variants_take_less_than_a_tenth_of_the_reference_s_time():
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        times = []
        for _ in range(3):
            began = time.process_time()
            for variant in Derive().variants():
                variant.apply(image, image[..., 0], np.random.default_rng(0))
            times.append(time.process_time() - began)
    finally:
        cv2.setNumThreads(threads)
    assert min(times) < 0.57, "the reference takes 5.7 s on one core"


# The folder


@pytest.fixture
def source(tmp_path):
    names = {f"{split}/{name}": (40, 56) for split, names in {"train": ("a", "b"), "valid": ("c",), "test": ("d",)}.items() for name in names}
    return toys.write_folder(tmp_path / "source", names)


def rows(folder):
    with open(folder / "groups.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_only_training_cases_get_copies_and_all_carry_their_group(source, tmp_path):
    with toy_runs.command() as said:
        flexseg.derive(source=str(source), output=str(tmp_path / "out"), gin_param=["derive.rotations=(90,)", "derive.elastic_sigmas=()"])
    found = rows(tmp_path / "out")
    per_case = len(Derive(rotations=(90,), elastic_sigmas=()).variants()) + 1
    assert {split: sum(row["image"].startswith(split) for row in found) for split in ("train", "valid", "test")} == {
        "train": 2 * per_case,
        "valid": 1,
        "test": 1,
    }
    assert all(row["group"] == row["source"] for row in found) and "next: flexseg build" in said.getvalue()
    for row in found:
        image = tmp_path / "out" / row["image"]
        assert image.is_file() and image.stem == (f"{row['variant']}_{row['source']}" if row["variant"] else row["source"])
    source_files = {path.name: path.read_bytes() for path in (source / "valid").rglob("*") if path.is_file()}
    assert source_files == {path.name: path.read_bytes() for path in (tmp_path / "out" / "valid").rglob("*") if path.is_file()}


def test_what_is_derived_builds_with_its_groups_and_cannot_be_divided_apart(source, tmp_path):
    with toy_runs.command():
        flexseg.derive(source=str(source), output=str(tmp_path / "out"))
        dataset = toys.build(tmp_path, source=tmp_path / "out", name="derived")
        groups = {split: set(table.group_id) for split, table in dataset.manifest.splits.items()}
        assert groups == {"train": {"a", "b"}, "valid": {"c"}, "test": {"d"}} and len(dataset.manifest.splits["train"]) == 44
    (tmp_path / "out" / "train" / "images" / "hflipped_a.png").rename(tmp_path / "out" / "valid" / "images" / "hflipped_a.png")
    (tmp_path / "out" / "train" / "masks" / "hflipped_a.png").rename(tmp_path / "out" / "valid" / "masks" / "hflipped_a.png")
    table = tmp_path / "out" / "groups.csv"
    table.write_text(table.read_text().replace("train/images/hflipped_a.png", "valid/images/hflipped_a.png"))
    with pytest.raises(UserError, match="a leak.*group a"):
        toys.build(tmp_path, source=tmp_path / "out", name="leaking")


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(source, tmp_path):
    written = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        with toy_runs.command():
            flexseg.derive(source=str(source), output=str(tmp_path / name), gin_param=[f"derive.seed={seed}"])
        written[name] = {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.png")}
    assert written["one"] == written["again"]
    differing = {path.stem.split("_")[0] for path in written["one"] if written["one"][path] != written["other"][path]}
    assert differing == {"deformed", "distorted"}
    masks = [data for path, data in written["one"].items() if path.stem.startswith("distorted_0.02") and "images" in path.parts]
    assert len(set(masks)) == 2, "two cases are not bent alike"


def test_16_bits_and_palettes_keep_their_values(tmp_path):
    deep, colored = tmp_path / "deep.png", tmp_path / "mask.png"
    cv2.imwrite(str(deep), np.random.default_rng(0).integers(0, 65536, (40, 40), np.uint16))
    colors = np.random.default_rng(0).choice(np.array([[60, 16, 152], [254, 221, 58]], np.uint8), (40, 40))
    cv2.imwrite(str(colored), colors[..., ::-1])
    derive_folder(
        {"train": [Case("a", deep, colored, "a", "train")]}, tmp_path / "out", Derive(), source="elsewhere", overwrite=False, max_pixels=10**6
    )
    assert read_pixels(tmp_path / "out" / "train" / "images" / "vflipped_a.png").dtype == np.uint16
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "train" / "masks" / "vflipped_a.png"), colors[::-1])
    warped = read_mask(next((tmp_path / "out" / "train" / "masks").glob("deformed*")))
    assert {tuple(color) for color in warped.reshape(-1, 3)} == {(60, 16, 152), (254, 221, 58)}


def test_a_folder_that_is_there_is_kept_unless_it_was_derived_and_overwrite_is_given(source, tmp_path):
    def derive(**flags):
        with toy_runs.command():
            flexseg.derive(source=str(source), output=str(tmp_path / "out"), **flags)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for flags in ({}, {"overwrite": True}):
        with pytest.raises(UserError, match="name another --output"):
            derive(**flags)
    (tmp_path / "out" / "groups.csv").write_text("image,group\na.png,1\n")  # a table of the user's own
    with pytest.raises(UserError, match="flexseg derive did not write"):
        derive(overwrite=True)
    assert (tmp_path / "out" / "mine.txt").is_file()
    for name in ("mine.txt", "groups.csv"):
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out").rmdir()
    derive()
    with pytest.raises(UserError, match="--overwrite"):
        derive()
    derive(overwrite=True, gin_param=["derive.hflip=False"])
    assert not (tmp_path / "out" / "train" / "images" / "hflipped_a.png").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("output", ["source", "source/derived", "source/../source", "."])
def test_an_output_that_is_holds_or_lies_in_the_source_is_refused(source, tmp_path, output):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for folder in (source, tmp_path):
        (folder / "groups.csv").write_text("image,group,source,variant\n" + "".join(f"{case}.png,{case},{case},\n" for case in "abcd"))
    with toy_runs.command(), pytest.raises(UserError, match="a folder apart from --source"):
        flexseg.derive(source=str(source), output=str(tmp_path / output), overwrite=True)
    assert all(path.read_bytes() == data for path, data in before.items())


def test_two_files_of_one_name_are_refused_before_anything_is_written(source, tmp_path):
    for kind in ("images", "masks"):
        shutil.copy(source / "train" / kind / "a.png", source / "train" / kind / "hflipped_a.png")
    with toy_runs.command(), pytest.raises(UserError, match="hflipped_a for a copy of a and the case hflipped_a"):
        flexseg.derive(source=str(source), output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_file_that_cannot_be_read_leaves_nothing_behind(source, tmp_path):
    image = source / "train" / "images" / "b.png"
    image.write_bytes(image.read_bytes()[:60])
    with toy_runs.command(), pytest.raises(UserError, match="b.png"):
        flexseg.derive(source=str(source), output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    "binding", ["shrinks=(0.0,)", "barrel_centers=(0.5,0.5)", "distortions=(0.5,)", "blurs=((0,3),)", "elastic_sigmas=('a',)", "barrel_amount=1.5"]
)
def test_a_setting_that_cannot_work_is_refused_by_name(source, tmp_path, binding):
    with toy_runs.command(), pytest.raises(UserError, match=f"derive.{binding.partition('=')[0]}"):
        flexseg.derive(source=str(source), output=str(tmp_path / "out"), gin_param=[f"derive.{binding}"])


def test_nothing_to_derive_is_said(source, tmp_path):
    nothing = ("hflip=False", "vflip=False", "rotations=()", "elastic_sigmas=()", "distortions=()", "barrel_centers=()", "pincushion_centers=()")
    with toy_runs.command(), pytest.raises(UserError, match="at least one variant"):
        flexseg.derive(source=str(source), output=str(tmp_path / "out"), gin_param=[f"derive.{binding}" for binding in nothing])
