"""A dataset of the user's own: a module named …_dataset_builder with a builder derived from flexseg's, brought by --user_module."""

import sys

import gin
import pytest
import tensorflow_datasets as tfds
import toys
from PIL import Image

import flexseg
from flexseg.errors import UserError

ORGANS = '''"""organs: photographs beside their outlines, `x_photo.png` and `x_outline.png`."""

from pathlib import Path

from etils import epath

from flexseg.datasets.contents import FileContents
from flexseg.datasets.segmentation_builder import SegmentationBuilder
from flexseg.files.cases import Case
from flexseg.files.inventory import take_inventory
from flexseg.files.label_map import LabelMap
from flexseg.files.split import Split


class Builder(SegmentationBuilder):
    """Organs."""

    pkg_dir_path = epath.Path(__file__).parent


def open_source(options):
    photos = sorted(Path(options.source).glob("*_photo.png"))
    cases = [Case(p.stem.removesuffix("_photo"), p, p.with_name(p.name.replace("photo", "outline"))) for p in photos]
    split = options.split or Split()
    label_map = LabelMap(values={0: 0, 255: 1}, class_names=("background", "organ"), background=0)
    inventory = take_inventory(split.assign(cases), label_map=label_map, max_pixels=options.max_image_pixels)
    return FileContents(inventory, split=split, max_pixels=options.max_image_pixels)
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "organs_dataset_builder.py").write_text(ORGANS)
    (tmp_path / "photos").mkdir()
    for i in range(10):
        Image.fromarray(toys.picture(f"o{i}", (20, 24))).save(tmp_path / "photos" / f"o{i}_photo.png")
        Image.fromarray(toys.binary_mask(f"o{i}", (20, 24))).save(tmp_path / "photos" / f"o{i}_outline.png")
    yield tmp_path
    sys.modules.pop("organs_dataset_builder", None)
    gin.clear_config()


def test_a_builder_of_the_user_s_is_found_by_its_module_and_plain_tfds_opens_what_it_built(here):
    directory = flexseg.build(dataset="organs", source="photos", data_dir="data", user_module=["organs_dataset_builder"])
    assert directory == str(here / "data" / "organs" / "organs" / "1.0.0")
    builder = tfds.builder_from_directory(directory)
    assert builder.info.full_name == "organs/organs/1.0.0"
    examples = list(builder.as_dataset(split="all").as_numpy_iterator())
    assert sorted(example["case_id"].decode() for example in examples) == [f"o{i}" for i in range(10)]
    assert {example["image"].shape for example in examples} == {(20, 24, 3)}


def test_without_its_module_the_dataset_is_unknown_and_the_cure_says_how_to_bring_it(here):
    with pytest.raises(UserError, match="--dataset: expected one of breastdm, .*tnbc, found 'organs'.*--user_module=NAME_dataset_builder"):
        flexseg.build(dataset="organs", source="photos", data_dir="data")
