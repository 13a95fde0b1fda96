"""The forms that images are stored in: what is read back, what it costs, and that another form is another dataset."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
import toys
from PIL import Image

from flexseg.commands import build
from flexseg.files.images import encoded_as


def images_of(dataset):
    return {case: dataset.records(split).example(n)[0] for split, table in dataset.manifest.splits.items() for n, case in enumerate(table.case_id)}


@pytest.mark.parametrize(("storage", "suffix", "channels"), [
    (storage, suffix, 1 + 2 * ((number + number // 2) % 2)) for number, (storage, suffix) in enumerate(
        (storage, suffix) for storage in ("png", "raw", "jpeg") for suffix in (".png", ".jpg")
    )
])  # fmt: skip
def test_images_come_back_as_they_went_but_for_jpeg(tmp_path, storage, suffix, channels):
    source = tmp_path / "source"
    smooth = {
        name: np.clip(np.add.outer(np.arange(size[0]) * 3, np.arange(size[1]) * 5)[..., None] + np.arange(channels) * 9, 0, 255).astype(np.uint8)
        for name, size in toys.FOUR.items()
    }
    for name, size in toys.FOUR.items():
        pixels = smooth[name] if channels == 3 else smooth[name][..., 0]
        toys.write_case(source, name, pixels, toys.binary_mask(name, size), suffix, **({"quality": 90} if suffix == ".jpg" else {}))
    plain = images_of(toys.build(tmp_path, source=source, name="plain"))
    other = toys.build(tmp_path, source=source, name="other", storage=storage)
    assert other.manifest.storage == storage
    for case, image in images_of(other).items():
        if storage == "jpeg":
            assert np.abs(image.astype(int) - plain[case]).max() <= 12
        else:
            np.testing.assert_array_equal(image, plain[case])
    for split in other.manifest.splits:  # what others who open it with TFDS see
        for example in tfds.builder_from_directory(str(other.directory)).as_dataset(split=split).as_numpy_iterator():
            difference = np.abs(example["image"].astype(int) - images_of(other)[example["case_id"].decode()])
            assert difference.max() <= (3 if storage == "jpeg" else 0), "TFDS decodes a JPEG less exactly"


def test_a_grey_image_of_a_coloured_dataset_is_stored_with_its_channels(tmp_path):
    source = toys.write_folder(tmp_path / "source", toys.FOUR)
    toys.write_case(source, "train/grey", toys.picture("grey", (16, 16), 1), toys.binary_mask("grey", (16, 16)))
    for storage in ("raw", "png", "jpeg"):
        assert images_of(toys.build(tmp_path, source=source, name=storage, storage=storage))["grey"].shape == (16, 16, 3)


def test_another_form_is_another_dataset(tmp_path):
    source = toys.write_folder(tmp_path / "source", toys.FOUR)
    toys.build(tmp_path, source=source, name="one")
    error = toys.refusal(tmp_path, source=source, name="one", storage="raw")
    assert "images stored as_is instead of raw" in error.found and "--overwrite" in error.cure


def test_jpeg_is_warned_of(tmp_path, capsys):
    build.run(source=str(toys.write_folder(tmp_path / "source", toys.FOUR)), name="one", data_dir=str(tmp_path / "data"), storage="jpeg")
    assert "--storage=jpeg loses detail" in capsys.readouterr().out


def test_the_form_that_it_has_already_is_left_alone():
    data = encoded_as(encoded_as_png(), "png", channels=3)
    assert data == encoded_as_png() and encoded_as(data, "as_is", channels=3) is data


def encoded_as_png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(toys.picture("a", (8, 8))).save(stream, "PNG")
    return stream.getvalue()
