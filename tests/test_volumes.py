"""Volumes become slices: every format against its own library, axes, windows, groups, and what cannot be right."""

import csv
import io
import tracemalloc
import zipfile

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK
import toy_runs
import toys
from PIL import Image

import flexseg
from flexseg.commands import build
from flexseg.data.records import Records
from flexseg.errors import UserError
from flexseg.files.arrays import read_array
from flexseg.files.volumes import Volumes, slice_folder

VOLUME = np.random.default_rng(0).integers(-900, 1500, (4, 24, 32)).astype(np.int16)  # z, y, x
MASK = (VOLUME > 1200).astype(np.uint8) * 255
MASK[0] = 0


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name
    if name.endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(array.T, np.diag([-0.7, -0.8, 2.5, 1])), path)
    elif name.endswith(".mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))
    elif name.endswith(".npy"):
        np.save(path, array)
    elif name.endswith(".npz"):
        np.savez_compressed(path, mask=array)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("group/data", data=array, compression="gzip")


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "mha", "npy", "npz", "h5"])
def test_every_format_gives_the_array_that_was_written(tmp_path, ending):
    write(tmp_path / f"a.{ending}", VOLUME)
    np.testing.assert_array_equal(read_array(tmp_path / f"a.{ending}").values, VOLUME)


def test_a_nifti_is_scaled_as_its_header_says(tmp_path):
    image = nibabel.Nifti1Image(VOLUME.T, np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, tmp_path / "a.nii")
    raw = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_allclose(read_array(tmp_path / "a.nii", as_stored=True).values, raw.get_fdata().T)


@pytest.mark.parametrize("ending", ["nii.gz", "mha"])
def test_axes_in_any_order_come_as_slices_rows_and_columns_of_the_patient(tmp_path, ending):
    stored = set()
    for order in ("LPS", "RAS", "PIR", "ASL", "ILP"):
        image = SimpleITK.GetImageFromArray(VOLUME)
        image.SetSpacing((0.7, 0.8, 2.5))
        image.SetOrigin((-10.0, 5.0, 30.0))
        path = tmp_path / f"{order}.{ending}"
        SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, order), str(path))
        found = read_array(path)
        np.testing.assert_array_equal(found.values, VOLUME)
        np.testing.assert_allclose(found.affine, [[0.7, 0, 0, -10], [0, 0.8, 0, 5], [0, 0, 2.5, 30], [0, 0, 0, 1]], atol=1e-4)
        stored.add(read_array(path, as_stored=True).values.tobytes())
    assert len(stored) == 5


def test_a_volume_with_a_time_of_one_is_turned_like_one_without(tmp_path):
    image = SimpleITK.GetImageFromArray(VOLUME)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-10.0, 5.0, 30.0))
    image = SimpleITK.DICOMOrient(image, "RAS")
    SimpleITK.WriteImage(image, str(tmp_path / "three.mha"))
    SimpleITK.WriteImage(SimpleITK.JoinSeries([image]), str(tmp_path / "four.mha"))
    three, four = (read_array(tmp_path / f"{name}.mha") for name in ("three", "four"))
    np.testing.assert_array_equal(four.values, VOLUME)
    np.testing.assert_allclose(four.affine, three.affine)


def oblique(path, array, *, shift=0.0, spacing=2.5):
    image = SimpleITK.GetImageFromArray(array)
    turn = np.deg2rad(11)
    image.SetDirection((np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1))
    image.SetSpacing((0.7, 0.8, spacing))
    image.SetOrigin((shift, 0.0, 0.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


@pytest.mark.parametrize("endings", [("nii.gz", "nii.gz"), ("nii.gz", "mha"), ("mha", "nii")])
def test_an_image_and_a_mask_at_two_places_are_refused(tmp_path, endings):
    image, mask = tmp_path / "set" / "images" / f"a.{endings[0]}", tmp_path / "set" / "masks" / f"a.{endings[1]}"

    def sliced(**given):
        return slice_folder(tmp_path / "set", tmp_path / "out", Volumes(**given), max_pixels=10**6)

    oblique(image, VOLUME)
    oblique(mask, MASK, shift=0.05)
    assert sliced()
    for wrong, distance in (({"shift": 3.0}, "3 mm"), ({"spacing": 3.0}, "1.5 mm")):
        oblique(mask, MASK, **wrong)
        with pytest.raises(UserError, match=rf"the place of a.*{distance} apart.*volumes.orientation='stored'"):
            sliced()
        assert sliced(orientation="stored")


def source_of(place, ending="nii.gz", count=6, mask=MASK):
    for number in range(count):
        write(place / "images" / f"scan{number}.{ending}", np.roll(VOLUME, number, 1))
        write(place / "masks" / f"scan{number}.{ending}", np.roll(mask, number, 1))
    return place


def built(tmp_path, source, *params, **flags):
    return toys.build(tmp_path, source=source, name="volumes", gin_param=list(params), **flags)


def examples(dataset):
    found = {}
    for split, table in dataset.manifest.splits.items():
        records: Records = dataset.records(split)
        found |= {case: records.example(number) for number, case in enumerate(table.case_id)}
    return found


@pytest.mark.parametrize("ending", ["nii.gz", "mha", "h5"])
def test_a_folder_of_volumes_builds_slice_by_slice_with_the_volume_as_group(tmp_path, ending):
    dataset = built(tmp_path, source_of(tmp_path / "set", ending))
    found, groups = examples(dataset), toys.groups(dataset)
    assert len(found) == 6 * 4 and groups["scan3_0002"] == "scan3" and len(set(groups.values())) == 6
    for number in (0, 5):
        low, high = VOLUME.min(), VOLUME.max()
        for index in range(4):
            image, mask = found[f"scan{number}_{index:04d}"]
            expected = np.rint((np.roll(VOLUME, number, 1)[index].astype(np.float64) - low) * 255 / (high - low))
            assert np.abs(image[..., 0] - expected).max() <= 1
            np.testing.assert_array_equal(mask, np.roll(MASK, number, 1)[index] > 0)


def test_axis_rotation_and_window_are_settings(tmp_path):
    params = ("volumes.axis=2", "volumes.rotation=90", "volumes.window=(0.0,1000.0)")
    found = examples(built(tmp_path, source_of(tmp_path / "set"), *params))
    assert len(found) == 6 * 32
    image, mask = found["scan0_0007"]
    expected = np.rot90(np.clip(np.rint(VOLUME[:, :, 7] * 255.0 / 1000), 0, 255))
    assert np.abs(image[..., 0] - expected).max() <= 1
    np.testing.assert_array_equal(mask, np.rot90(MASK[:, :, 7]) > 0)


def test_a_window_of_every_slice_spans_each(tmp_path):
    found = examples(built(tmp_path, source_of(tmp_path / "set"), "volumes.window_of='slice'"))
    assert all((image.min(), image.max()) == (0, 255) for image, _ in found.values())


def test_empty_slices_can_be_left_out_and_are_counted(tmp_path, capsys):
    source = source_of(tmp_path / "set")
    build.run(source=str(source), name="v", data_dir=str(tmp_path / "data"), gin_param=["volumes.keep_empty=False"])
    assert "6 volumes became 18 slices, 6 empty ones left out" in capsys.readouterr().out


def test_patients_with_several_volumes_are_groups(tmp_path):
    source = source_of(tmp_path / "set")
    (source / "groups.csv").write_text("image,group\n" + "".join(f"scan{number},patient{number // 2}\n" for number in range(6)))
    assert set(toys.groups(built(tmp_path, source)).values()) == {"patient0", "patient1", "patient2"}


def test_pictures_with_masks_that_are_arrays_are_taken_as_the_reference_has_them(tmp_path):
    source = toys.write_folder(tmp_path / "set", toys.FOUR)
    for path in list(source.rglob("masks/*.png")):
        write(path.with_suffix(".npz"), (np.array(Image.open(path)) > 0).astype(np.int64))
        path.unlink()
    found = examples(built(tmp_path, source))
    assert sorted(found) == ["a", "b", "c", "d"]
    for name, size in toys.FOUR.items():
        image, mask = found[name[-1]]
        np.testing.assert_array_equal(mask, toys.binary_mask(name, size) > 0)
        np.testing.assert_array_equal(image, toys.picture(name, size))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: write(s / "masks" / "scan1.nii.gz", MASK[:3]), "the shape of scan1.nii.gz, 4 x 24 x 32.*found 3 x 24 x 32"),
        (lambda s: write(s / "masks" / "scan1.nii.gz", VOLUME), "whole numbers from 0 to 255"),
        (lambda s: (s / "images" / "scan1.nii.gz").write_bytes(b"junk"), "scan1.nii.gz: expected a whole .nii.gz file"),
        (lambda s: (s / "images" / "scan1.nii.gz").write_bytes((s / "images" / "scan1.nii.gz").read_bytes()[:2000]), "expected a whole .nii.gz file"),
        (lambda s: (s / "masks" / "scan1.nii.gz").unlink(), "a mask of the same stem"),
        (lambda s: write(s / "images" / "scan1.nii.gz", np.full((4, 24, 32), np.nan, np.float32)), "finite numbers"),
    ],
    ids=["shape", "values", "junk", "cut", "lone", "nan"],
)  # fmt: skip
def test_what_cannot_be_right_is_refused_and_nothing_written(tmp_path, spoil, words):
    source = source_of(tmp_path / "set")
    spoil(source)
    with pytest.raises(UserError, match=words):
        build.run(source=str(source), name="v", data_dir=str(tmp_path / "data"))
    assert not list((tmp_path / "data").glob("**/*.tfrecord*"))


def test_nothing_is_unpickled_and_sizes_are_looked_at_first(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match="whole .npy file"):
        read_array(tmp_path / "a.npy")
    for ending in ("nii.gz", "mha", "npy", "npz", "h5"):
        write(tmp_path / f"b.{ending}", np.zeros((50, 50, 50), np.uint8))
        with pytest.raises(UserError, match="at most 1000 values"):
            read_array(tmp_path / f"b.{ending}", max_values=1000)


@pytest.mark.parametrize("ending", ["npy", "npz", "h5"])
def test_texts_are_refused_before_they_are_unpacked(tmp_path, ending):
    write(tmp_path / f"a.{ending}", np.zeros((2, 2), "S5000000"))
    tracemalloc.start()
    with pytest.raises(UserError, match="finite numbers, found .*S5000000"):
        read_array(tmp_path / f"a.{ending}", max_values=1000)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("member", [b"no array", "large"], ids=["bytes", "array"])
def test_an_archives_array_is_the_one_whose_header_was_looked_at(tmp_path, member):
    def array_file(array):
        stream = io.BytesIO()
        np.save(stream, array)
        return stream.getvalue()

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("mask.npy", array_file(MASK[0]))
        archive.writestr("mask", array_file(np.zeros((100, 100))) if member == "large" else member)
    np.testing.assert_array_equal(read_array(tmp_path / "a.npz", max_values=1000).values, MASK[0])


@pytest.mark.parametrize("chunks", [None, (10, 10)])
def test_an_array_of_which_nothing_was_written_is_not_made_up(tmp_path, chunks):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("mask", (2000, 500), "f8", chunks=chunks)
    with pytest.raises(UserError, match="expected values, found mask without any"):
        read_array(tmp_path / "a.h5")


def test_of_several_arrays_the_key_chooses(tmp_path):
    np.savez(tmp_path / "a.npz", first=VOLUME, second=MASK)
    with pytest.raises(UserError, match="an array called mask or image, found first, second"):
        read_array(tmp_path / "a.npz")
    np.testing.assert_array_equal(read_array(tmp_path / "a.npz", key="second").values, MASK)
    np.savez(tmp_path / "b.npz", only=MASK)
    with zipfile.ZipFile(tmp_path / "b.npz", "a") as archive:
        archive.writestr("mask", "no array")
    np.testing.assert_array_equal(read_array(tmp_path / "b.npz").values, MASK)


def test_no_file_makes_another_one_be_read(tmp_path):
    np.save(tmp_path / "secret.raw", VOLUME)
    write(tmp_path / "a.mha", VOLUME)
    header, key, values = (tmp_path / "a.mha").read_bytes().partition(b"ElementDataFile")
    for before in (b"ElementDataFile = ", b"ElementDataFile : ", b" ElementDataFile = ", b"\tElementDataFile="):
        for after in (b"", key + values):
            (tmp_path / "a.mha").write_bytes(header + before + b"secret.raw.npy\n" + after)
            with pytest.raises(UserError, match="ElementDataFile = LOCAL.*found secret.raw.npy"):
                read_array(tmp_path / "a.mha")
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("image", VOLUME.shape, VOLUME.dtype, external=[(str(tmp_path / "secret.raw.npy"), 128, h5py.h5f.UNLIMITED)])
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file["image"] = VOLUME
    layout = h5py.VirtualLayout(VOLUME.shape, VOLUME.dtype)
    layout[:] = h5py.VirtualSource(str(tmp_path / "whole.h5"), "image", VOLUME.shape)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("image", layout)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["image"] = h5py.ExternalLink(str(tmp_path / "whole.h5"), "image")
    for name, words in (
        ("external", "refers to other files"),
        ("virtual", "refers to other files"),
        ("link", "an array called mask or image, found none"),
    ):
        with pytest.raises(UserError, match=words):
            read_array(tmp_path / f"{name}.h5")


def test_a_header_that_states_more_than_there_is_takes_no_memory(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (40_000, 40_000)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("mask.npy", header.getvalue() + bytes(1000))
    tracemalloc.start()
    with pytest.raises(UserError, match="mask is shorter than its shape"):
        read_array(tmp_path / "a.npz")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_several_values_a_voxel_are_refused(tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True), str(tmp_path / "a.mha"))
    with pytest.raises(UserError, match="one value a voxel, found 3"):
        read_array(tmp_path / "a.mha")


def test_the_table_of_slices_tells_volume_and_number(tmp_path):
    notes = slice_folder(source_of(tmp_path / "set", count=1), tmp_path / "out", Volumes(), max_pixels=10**6)
    with open(tmp_path / "out" / "groups.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["volume"], row["slice"]) for row in rows] == [("scan0", str(number)) for number in range(4)]
    assert any("every volume counts as a group" in note for note in notes)


def test_two_cases_do_not_write_one_slice(tmp_path):
    source = source_of(tmp_path / "set", "npy", count=1)
    for kind in ("images", "masks"):
        write(source / kind / "scan0_0003.npy", MASK[3])
    with pytest.raises(UserError, match=r"scan0_0003.npy: expected .*found scan0_0003.png, also of .*scan0.npy"):
        slice_folder(source, tmp_path / "out", Volumes(), max_pixels=10**6)


def test_check_and_derive_take_volumes_too(tmp_path):
    source = source_of(tmp_path / "set", count=4)
    with toy_runs.command() as said:
        findings = flexseg.check(source=str(source), output=str(tmp_path / "checked"))
        flexseg.derive(source=str(source), output=str(tmp_path / "out"), gin_param=["derive.distortions=()", "derive.elastic_sigmas=()"])
    assert "4 volumes became 16 slices" in said.getvalue() and {finding.severity for finding in findings} <= {"note", "warning"}
    with open(tmp_path / "out" / "groups.csv", newline="") as stream:
        assert {row["group"] for row in csv.DictReader(stream)} == {f"scan{number}" for number in range(4)}
