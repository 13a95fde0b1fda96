"""A built dataset, opened by name; what plain TFDS and what flexseg read from it are the same pixels."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
import toys
from PIL import Image
from tensorflow_datasets.core import dataset_metadata

from flexseg.commands import build as build_command
from flexseg.data.dataset import BuiltDataset, built_datasets, open_dataset
from flexseg.data.records import Records
from flexseg.errors import UserError
from flexseg.files.label_map import LabelMap
from flexseg.files.manifest import tfrecord_offsets

COLORS = {(0, 0, 0): 2, (255, 0, 0): 0, (0, 0, 255): 1}  # black is neither the first class nor the background
BINDINGS = [f"label_map.rgb_map={COLORS}", "label_map.background=None", "label_map.ignore=((9,9,9),)"]


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Three classes and ignored pixels, in colours, seven training and four validation cases, in three shards a split."""
    place = tmp_path_factory.mktemp("classes")
    palette = np.array([*COLORS, (9, 9, 9)], np.uint8)
    for number in range(11):
        name, size = f"{'train' if number < 7 else 'valid'}/c{number}", (12 + number, 20 - number)
        toys.write_case(place / "source", name, toys.picture(name, size), palette[toys.picture(f"mask of {name}", size, 1) % 4])
    return toys.build(place, source=place / "source", name="classes", num_shards=3, gin_param=BINDINGS)


def source_of(dataset: BuiltDataset, split: str, case_id: str, kind: str) -> np.ndarray:
    return np.array(Image.open(dataset.directory.parents[3] / "source" / split / kind / f"{case_id}.png"))


def test_a_dataset_is_opened_by_its_name(toy):
    opened = open_dataset("toy", toy.directory.parents[2])
    assert opened.directory == toy.directory and opened.name == "toy"
    assert [len(opened.table(split)) for split in ("train", "valid", "test")] == [19, 5, 1]
    assert opened.largest() == (40, 64)


def test_an_unknown_name_is_answered_with_those_there_are(toy, tmp_path):
    with pytest.raises(UserError, match=r"found the datasets toy\..*Did you mean 'toy'") as caught:
        open_dataset("toys", toy.directory.parents[2])
    assert "flexseg build" in caught.value.cure and "--name=toys" in caught.value.cure
    for nothing in (tmp_path, tmp_path / "no_folder"):
        with pytest.raises(UserError, match="found none"):
            open_dataset("toy", nothing)


def test_a_split_that_is_not_there_is_answered_with_those_there_are(classes):
    assert classes.has("valid") and not classes.has("test")
    with pytest.raises(UserError, match="found the splits train, valid"):
        classes.table("test")


def test_the_newest_version_is_opened_and_a_build_that_did_not_end_is_not(toy, tmp_path):
    for folder in ("image_mask_folder/toy/1.9.0", "image_mask_folder/toy/1.10.0", ".building_image_mask_folder_toy/image_mask_folder/toy/2.0.0"):
        shutil.copytree(toy.directory, tmp_path / folder)
    (tmp_path / "image_mask_folder" / "half" / "1.0.0").mkdir(parents=True)  # without a manifest
    assert built_datasets(tmp_path) == {"toy": tmp_path / "image_mask_folder" / "toy" / "1.10.0"}


def test_a_missing_shard_is_named(toy, tmp_path):
    shutil.copytree(toy.directory, tmp_path / "copy")
    dataset = BuiltDataset(tmp_path / "copy")
    shard = tmp_path / "copy" / dataset.table("valid").files[0]
    shard.unlink()
    with pytest.raises(UserError) as caught:
        dataset.records("valid")
    assert caught.value.where == str(shard) and "--overwrite" in caught.value.cure


def test_plain_tfds_opens_it_and_reads_the_same_pixels_in_the_same_order(classes):
    builder = tfds.builder_from_directory(str(classes.directory))
    assert builder.info.full_name == "image_mask_folder/classes/1.0.0"
    for split in ("train", "valid"):
        table, records = classes.table(split), classes.records(split)
        examples = list(builder.as_dataset(split=split).as_numpy_iterator())
        assert [example["case_id"].decode() for example in examples] == table.case_id
        assert [example["group_id"].decode() for example in examples] == table.group_id
        for index, example in enumerate(examples):
            image, mask = records.example(index)
            np.testing.assert_array_equal(example["image"], image)
            np.testing.assert_array_equal(example["mask"][..., 0], mask)
            assert example["mask"].dtype == np.uint8


def test_plain_tfds_knows_where_it_comes_from(toy):
    info = tfds.builder_from_directory(str(toy.directory)).info
    assert "folder of your own images and masks" in info.description and "flexseg" in info.citation
    assert {split: int(part.num_examples) for split, part in info.splits.items()} == {"train": 19, "valid": 5, "test": 1}


@pytest.mark.parametrize("name", build_command.DATASETS)
def test_the_folder_of_a_dataset_says_what_it_is_with_tags_that_tfds_knows(name):
    metadata = dataset_metadata.load(Path(importlib.import_module(f"flexseg.datasets.{name}").__file__).parent)
    assert len(metadata.description) > 500 and metadata.citation.lstrip().startswith("@") and "ml.task.semantic-segmentation" in metadata.tags


def test_plain_tfds_gives_pairs_of_image_and_mask(toy):
    image, mask = next(iter(tfds.builder_from_directory(str(toy.directory)).as_dataset(split="train", as_supervised=True)))
    assert image.dtype == mask.dtype == tf.uint8 and image.shape[:2] == mask.shape[:2]


def test_masks_are_stored_as_the_label_map_reads_them(classes):
    label_map = LabelMap(rgb_map=COLORS, background=None, ignore=((9, 9, 9),))
    assert classes.label_map == label_map
    for split in ("train", "valid"):
        for index, case_id in enumerate(classes.table(split).case_id):
            truth = classes.records(split).truth(index)
            np.testing.assert_array_equal(truth, label_map.encode(source_of(classes, split, case_id, "masks"), case_id))
            np.testing.assert_array_equal(classes.records(split).example(index)[0], source_of(classes, split, case_id, "images"))
            assert set(np.unique(truth)) == {0, 1, 2, 255}


def test_the_manifest_knows_every_record_of_every_shard(classes):
    for split, count in (("train", 7), ("valid", 4)):
        table = classes.table(split)
        assert len(table.files) == 3 and set(table.shard) == {0, 1, 2} and len(table) == count
        sizes = {case_id: source_of(classes, split, case_id, "masks").shape[:2] for case_id in table.case_id}
        for row in zip(table.case_id, table.shard, table.offset, table.length, table.height, table.width, strict=True):
            case_id, shard, offset, length, height, width = row
            payload = (classes.directory / table.files[shard]).read_bytes()[offset + 12 :][:length]
            assert tf.train.Example.FromString(payload).features.feature["case_id"].bytes_list.value == [case_id.encode()]
            assert sizes[case_id] == (height, width)
        places = [(number, *place) for number, name in enumerate(table.files) for place in tfrecord_offsets(classes.directory / name)]
        assert places == list(zip(table.shard, table.offset, table.length, strict=True))


def test_the_manifest_counts_every_pixel(classes):
    for split in ("train", "valid"):
        truths = [classes.records(split).truth(index).ravel() for index in range(len(classes.table(split)))]
        counts = np.bincount(np.concatenate(truths), minlength=256)
        names = {"class_0": 0, "class_1": 1, "class_2": 2, "ignore": 255}
        assert classes.manifest.class_pixels[split] == {name: counts[value] for name, value in names.items()}


def test_a_record_is_reached_by_its_number_in_a_graph(classes):
    table = classes.table("train")
    files = [str(classes.directory / name) for name in table.files]
    records = Records(files=files, shard=table.shard, offset=table.offset, length=table.length, channels=3)
    numbers = [5, 0, 6, 6, 2]
    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(numbers, tf.int64)).map(lambda i: records.decode(records.read(i)), num_parallel_calls=2)
    for number, (image, mask) in zip(numbers, dataset.as_numpy_iterator(), strict=True):
        own_image, own_mask = records.example(number)
        np.testing.assert_array_equal(image, own_image)
        np.testing.assert_array_equal(mask[..., 0], own_mask)


def test_a_damaged_record_stops_and_its_neighbours_are_read(classes, tmp_path):
    shutil.copytree(classes.directory, tmp_path / "copy")
    table = classes.table("train")
    victim = 1
    shard = tmp_path / "copy" / table.files[table.shard[victim]]
    data = bytearray(shard.read_bytes())
    data[table.offset[victim] + 12 + table.length[victim] // 2] ^= 1
    shard.write_bytes(data)
    records = BuiltDataset(tmp_path / "copy").records("train")
    with pytest.raises(tf.errors.DataLossError):
        records.example(victim)
    for index in set(range(7)) - {victim}:
        np.testing.assert_array_equal(records.truth(index), classes.records("train").truth(index))


@pytest.mark.parametrize(("name", "how"), [
    ("synthetic_nuclei", "--dataset=synthetic_nuclei"), ("image_mask_folder", "--name=image_mask_folder --source=FOLDER"),
    ("mine", "--name=mine --source=FOLDER"),
])  # fmt: skip
def test_what_is_not_built_is_answered_with_how_to_build_it(tmp_path, name, how):
    with pytest.raises(UserError, match=f"flexseg build {how} --data_dir={tmp_path}"):
        open_dataset(name, tmp_path)
