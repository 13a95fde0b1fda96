"""A manifest survives the disk, and what is broken is refused by name."""

import dataclasses
import json
import struct
from pathlib import Path

import pytest

from flexseg.errors import UserError
from flexseg.files.manifest import Manifest, SplitTable, tfrecord_offsets


def make_table(number: int = 2) -> SplitTable:
    return SplitTable(
        files=("a-00000-of-00001.tfrecord",),
        case_id=[f"näme {i}" for i in range(number)],
        group_id=["g"] * number,
        shard=[0] * number,
        offset=[1000 * i for i in range(number)],
        length=[984] * number,
        height=[5] * number,
        width=[7] * number,
        image_sha256=["ab"] * number,
        mask_sha256=["cd"] * number,
    )


def make_manifest(**changes) -> Manifest:
    settings = {
        "dataset": "my_set",
        "version": "1.0.0",
        "channels": 3,
        "window": (0.1, 4095.0),
        "converted": 1,
        "leaked": False,
        "split": {"seed": 3},
        "label_map": {"class_names": ["background", "nucleus"]},
        "fingerprint": "00ff",
        "class_pixels": {"train": {"nucleus": 2**40}, "test": {"nucleus": 0}},
        "empty_masks": {"train": 1},
        "splits": {"train": make_table(), "test": dataclasses.replace(make_table(1), case_id=["another"])},
    }
    return Manifest(**settings | changes)


@pytest.mark.parametrize("changes", [{}, {"window": None, "channels": 1, "leaked": True}])
def test_what_is_saved_is_loaded_again(tmp_path, changes):
    make_manifest(**changes).save(tmp_path / "manifest.json")
    assert Manifest.load(tmp_path / "manifest.json") == make_manifest(**changes)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_save_that_fails_leaves_the_old_manifest_and_nothing_else(tmp_path):
    make_manifest().save(tmp_path / "manifest.json")
    with pytest.raises(TypeError):
        make_manifest(split={"seed": object()}).save(tmp_path / "manifest.json")
    assert Manifest.load(tmp_path / "manifest.json") == make_manifest()
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        Manifest.load(path)
    assert str(path) in str(caught.value) and "build" in str(caught.value)
    return str(caught.value)


def test_a_manifest_that_is_missing_garbled_or_of_another_schema_is_refused(tmp_path):
    path = tmp_path / "manifest.json"
    assert "no such file" in refusal(path)
    make_manifest().save(path)
    whole = path.read_text()
    for text, word in [(whole[:200], "JSON"), ("[]", "schema None"), ("\0", "JSON"), (whole.replace('"schema": 1', '"schema": 99'), "schema 99")]:
        path.write_text(text)
        assert word in refusal(path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda content: content.pop("channels"), "channels"),
        (lambda content: content.pop("splits"), "splits"),
        (lambda content: content.update(surplus=1), "surplus"),
        (lambda content: content.update(leaked="no"), "leaked"),
        (lambda content: content["splits"]["train"].pop("offset"), "offset"),
        (lambda content: content["splits"]["train"]["offset"].pop(), "equal length"),
        (lambda content: content["splits"]["test"]["offset"].__setitem__(0, "7"), "test.offset"),
        (lambda content: content["splits"]["test"]["shard"].__setitem__(0, 1), "shards 0 to 0"),
    ],
)
def test_a_manifest_with_missing_or_mistyped_parts_is_refused(tmp_path, change, word):
    path = tmp_path / "manifest.json"
    make_manifest().save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert word in refusal(path)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="equal length"):
        dataclasses.replace(make_table(2), width=[7])


PAYLOADS = [b"first", b"", bytes(70_000), b"last"]


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> Path:
    tf = pytest.importorskip("tensorflow")
    path = tmp_path_factory.mktemp("shards") / "a.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    return path


def test_offsets_are_those_at_which_tensorflow_reads_the_records(shard):
    import tensorflow as tf

    records = tfrecord_offsets(shard)
    assert [length for _, length in records] == [len(payload) for payload in PAYLOADS]

    def record(offset):
        variant = tf.raw_ops.TFRecordDatasetV2(filenames=[str(shard)], compression_type="", buffer_size=1024, byte_offsets=[offset])
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1)

    offsets = tf.constant([offset for offset, _ in reversed(records)], tf.int64)
    assert list(tf.data.Dataset.from_tensor_slices(offsets).flat_map(record).as_numpy_iterator()) == PAYLOADS[::-1]


def test_an_empty_file_holds_no_records(tmp_path):
    (tmp_path / "a").touch()
    assert tfrecord_offsets(tmp_path / "a") == []


@pytest.mark.parametrize(("cut", "place"), [(1, 70_053), (19, 70_053), (21, 37), (70_043, 21), (70_060, 0)])
def test_a_truncated_file_is_refused_with_the_offset(shard, tmp_path, cut, place):
    path = tmp_path / "cut.tfrecord"
    path.write_bytes(shard.read_bytes()[:-cut])
    with pytest.raises(UserError, match=f"cut.tfrecord.*byte {place}\\b"):
        tfrecord_offsets(path)


def test_a_flipped_bit_in_a_length_is_found_by_its_checksum(shard, tmp_path):
    content = bytearray(shard.read_bytes())
    content[37:45] = struct.pack("<Q", 70_001)
    path = tmp_path / "flipped.tfrecord"
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged record at byte 37"):
        tfrecord_offsets(path)
